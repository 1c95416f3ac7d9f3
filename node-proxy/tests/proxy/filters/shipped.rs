//! The filters that come with weft, in the whole proxy, with the configuration
//! of their examples.

use std::fs;
use std::path::Path;

use weft_api::node::FilterPhase::AfterPolicy;

use crate::support::client::Client;
use crate::support::guests::{filter, module, step};
use crate::support::server::Server;
use crate::support::world::{Rules, World, open};

/// What the example of a filter configures, as the agent would send it.
fn example(name: &str) -> serde_json::Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join(format!("examples/filters/{name}.yaml"));
    let text = fs::read_to_string(&path).expect("an example");
    let manifest: serde_json::Value = serde_saphyr::from_str(&text).expect("a manifest");
    manifest["spec"]["config"].clone()
}

#[derive(Clone, Copy)]
struct Case {
    filter: &'static str,
    /// What the example leaves to chance.
    certain: Option<(&'static str, u64)>,
    /// The request is sent so often; what is said of it is said of the last.
    times: u64,
    /// The request, but for its host.
    request: &'static str,
    status: u16,
    /// A line of what arrives at the server.
    arrives: &'static str,
    /// A line of the answer.
    answered: &'static str,
    /// What came of it, as metrics count it.
    outcome: &'static str,
}

/// A request that passes.
const PASSES: Case = Case {
    filter: "",
    certain: None,
    times: 1,
    request: "GET / HTTP/1.1\r\n",
    status: 200,
    arrives: "GET / HTTP/1.1",
    answered: "",
    outcome: "passed",
};

/// One that is refused.
const REFUSED: Case = Case {
    arrives: "",
    outcome: "replied",
    ..PASSES
};

const CASES: [Case; 9] = [
    Case {
        filter: "access-log-redact",
        request: "GET /?token=secret HTTP/1.1\r\n",
        arrives: "GET /?token=secret HTTP/1.1",
        ..PASSES
    },
    Case {
        filter: "canary-by-header",
        request: "GET / HTTP/1.1\r\nx-canary: always\r\n",
        arrives: "x-version: canary",
        ..PASSES
    },
    Case {
        filter: "ext-auth",
        request: "GET /cart HTTP/1.1\r\n",
        // There is nobody to ask, and that is no permission.
        status: 503,
        outcome: "failed_trap",
        ..REFUSED
    },
    Case {
        filter: "fault-injection",
        certain: Some(("/abort/percent", 100)),
        request: "GET / HTTP/1.1\r\nx-fault-test: yes\r\n",
        status: 503,
        ..REFUSED
    },
    Case {
        filter: "header-transform",
        request: "GET / HTTP/1.1\r\nx-debug: 1\r\n",
        arrives: "x-caller: default/tiefighter",
        answered: "x-frame-options: DENY",
        ..PASSES
    },
    Case {
        filter: "jwt-auth",
        request: "POST /v1/request-landing HTTP/1.1\r\ncontent-length: 0\r\n",
        status: 401,
        ..REFUSED
    },
    Case {
        filter: "proxy-headers",
        arrives: "x-env: production",
        answered: "via: weft",
        ..PASSES
    },
    Case {
        filter: "rate-limit",
        certain: Some(("/per_seconds", 60)),
        // Five are let through.
        times: 6,
        request: "POST /v1/request-landing HTTP/1.1\r\ncontent-length: 0\r\n",
        status: 429,
        ..REFUSED
    },
    Case {
        filter: "request-inspect",
        request: "GET /.git/config HTTP/1.1\r\n",
        status: 404,
        ..REFUSED
    },
];

#[tokio::test]
async fn each_does_in_the_proxy_what_its_example_says() {
    for case in CASES {
        let name = case.filter;
        let wasm = module(&format!("filters-wasm/{name}"), &format!("filter-{name}"));
        let mut config = example(name);
        if let Some((field, value)) = case.certain {
            *config.pointer_mut(field).expect("a field") = value.into();
        }
        let server = Server::landing().await;
        let rules = Rules {
            filters: vec![filter(name, &wasm, &config.to_string())],
            ingress_chain: vec![step(AfterPolicy, 0)],
            modules: vec![wasm],
            ..open()
        };
        let world = World::new(server.address, &rules).await;
        let mut client = Client::connect(world.address).await;
        let request = format!("{}host: deathstar\r\n\r\n", case.request);
        for _before in 1..case.times {
            client.send(&*request).await;
            assert_eq!(client.answer().await.status, 200, "{name}");
            server.next().await;
        }
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, case.status, "{name}: {}", answer.body);
        let has = |text: &str, line: &str| text.lines().any(|one| one == line);
        assert!(
            case.answered.is_empty() || has(&answer.head, case.answered),
            "{name}"
        );
        if case.arrives.is_empty() {
            server.assert_nothing_arrived().await;
        } else {
            let arrived = server.next().await;
            assert!(has(&arrived, case.arrives), "{name}: {arrived}");
        }
        let outcome = case.outcome;
        let counted = format!(
            r#"weft_proxy_filter_requests_total{{filter="WeftFilter default/{name}",outcome="{outcome}"}}"#
        );
        world.until_metric(&counted, 1).await;
    }
}
