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
fn example(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join(format!("examples/filters/{name}.yaml"));
    let text = fs::read_to_string(&path).expect("an example");
    let manifest: serde_json::Value = serde_saphyr::from_str(&text).expect("a manifest");
    manifest["spec"]["config"].to_string()
}

struct Case {
    filter: &'static str,
    /// The request, but for its host.
    request: &'static str,
    status: u16,
    /// A line of what arrives at the server.
    arrives: &'static str,
    /// A line of the answer.
    answered: &'static str,
}

const CASES: [Case; 9] = [
    Case {
        filter: "access-log-redact",
        request: "GET /?token=secret HTTP/1.1\r\n",
        status: 200,
        arrives: "GET /?token=secret HTTP/1.1",
        answered: "",
    },
    Case {
        filter: "canary-by-header",
        request: "GET / HTTP/1.1\r\nx-canary: always\r\n",
        status: 200,
        arrives: "x-version: canary",
        answered: "",
    },
    Case {
        filter: "ext-auth",
        request: "GET /cart HTTP/1.1\r\n",
        // There is nobody to ask, and that is no permission.
        status: 503,
        arrives: "",
        answered: "",
    },
    Case {
        filter: "fault-injection",
        request: "GET / HTTP/1.1\r\n",
        status: 200,
        arrives: "GET / HTTP/1.1",
        answered: "",
    },
    Case {
        filter: "header-transform",
        request: "GET / HTTP/1.1\r\nx-debug: 1\r\n",
        status: 200,
        arrives: "x-caller: default/tiefighter",
        answered: "x-frame-options: DENY",
    },
    Case {
        filter: "jwt-auth",
        request: "POST /v1/request-landing HTTP/1.1\r\ncontent-length: 0\r\n",
        status: 401,
        arrives: "",
        answered: "",
    },
    Case {
        filter: "proxy-headers",
        request: "GET / HTTP/1.1\r\n",
        status: 200,
        arrives: "x-env: production",
        answered: "via: weft",
    },
    Case {
        filter: "rate-limit",
        request: "POST /v1/request-landing HTTP/1.1\r\ncontent-length: 0\r\n",
        status: 200,
        arrives: "POST /v1/request-landing HTTP/1.1",
        answered: "",
    },
    Case {
        filter: "request-inspect",
        request: "GET /.git/config HTTP/1.1\r\n",
        status: 404,
        arrives: "",
        answered: "",
    },
];

#[tokio::test]
async fn each_does_in_the_proxy_what_its_example_says() {
    for case in CASES {
        let name = case.filter;
        let wasm = module(&format!("filters-wasm/{name}"), &format!("filter-{name}"));
        let server = Server::landing().await;
        let rules = Rules {
            filters: vec![filter(name, &wasm, &example(name))],
            ingress_chain: vec![step(AfterPolicy, 0)],
            modules: vec![wasm],
            ..open()
        };
        let world = World::new(server.address, &rules).await;
        let mut client = Client::connect(world.address).await;
        client
            .send(format!("{}host: deathstar\r\n\r\n", case.request))
            .await;
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
    }
}
