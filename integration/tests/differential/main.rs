//! The same module of proxy-wasm filters in Envoy and here: what clients and backends see is the
//! same.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod backend;
#[path = "../../../node-proxy/tests/proxy/support/modules.rs"]
mod modules;
mod proxies;
mod requests;

use weft_integration::bench::peers::Peers;

use backend::Backend;
use proxies::{Proxy, envoy, weft};
use requests::{Seen, requests};

/// The filters of the module, by root id, and their configurations.
const FILTERS: [(&str, &str); 10] = [
    ("headers", ""),
    ("path", ""),
    ("reply", ""),
    ("deny", r#"{"prefix": "/query"}"#),
    ("counter", ""),
    ("properties", ""),
    ("request-body", ""),
    ("response-body", ""),
    ("pause", ""),
    ("callout", ""),
];

/// Where more is to be had than in Envoy (docs/FILTERS.md), by what only one of both shows: Envoy
/// has forgotten the request's head when the response comes.
fn more(filter: &str, envoy: &[String], weft: &[String]) -> bool {
    let late = |line: &String| line.starts_with("answer: x-late-request-");
    let absent = |line: &String| late(line) && line.ends_with(": (absent)");
    filter == "properties"
        && !envoy.is_empty()
        && envoy.len() == weft.len()
        && weft.iter().all(late)
        && envoy.iter().all(absent)
}

/// Sends all requests through one filter of a proxy.
async fn play(proxy: &Proxy, filter: usize, backend: &Backend) -> Vec<Seen> {
    let mut seen = Vec::new();
    for request in requests() {
        backend.forget();
        let answer = requests::send(proxy.ports[filter], &request).await;
        seen.push(Seen {
            request: request.name,
            answer,
            arrived: backend.arrived(),
        });
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_do_here_what_they_do_in_envoy() {
    let Some(program) = Peers::find().path("envoy").filter(|path| path.is_file()) else {
        eprintln!("SKIPPED: no envoy (scripts/bench-peers installs it)");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let module = modules::module("integration/guests/proxy-wasm", "guest-proxy-wasm");
    let file = directory.path().join("filters.wasm");
    std::fs::write(&file, &module).unwrap();
    let backend = Backend::start(FILTERS.len()).await;
    let theirs = envoy(&program, directory.path(), &file, &backend).unwrap();
    let ours = weft(directory.path(), &module, &backend).unwrap();

    let mut differences = Vec::new();
    let (mut compared, mut with_more) = (0, 0);
    for (position, (filter, _config)) in FILTERS.iter().enumerate() {
        for proxy in [&theirs, &ours] {
            proxy.ready(position).await;
        }
        let expected = play(&theirs, position, &backend).await;
        let found = play(&ours, position, &backend).await;
        for (envoy, weft) in expected.iter().zip(&found) {
            compared += 1;
            if envoy == weft {
                continue;
            }
            let (theirs, ours) = (envoy.lines(), weft.lines());
            let only = |these: &[String], those: &[String]| -> Vec<String> {
                let only = these.iter().filter(|line| !those.contains(line));
                only.cloned().collect()
            };
            let (theirs, ours) = (only(&theirs, &ours), only(&ours, &theirs));
            let request = envoy.request;
            if more(filter, &theirs, &ours) {
                with_more += 1;
                continue;
            }
            differences.push(format!(
                "{filter}, {request}:\n  envoy {theirs:#?}\n  weft {ours:#?}"
            ));
        }
        // Else two proxies that refuse everything would be alike.
        let served = expected.iter().filter(|seen| seen.answer.status == 200);
        assert!(served.count() >= 4, "{filter}: {expected:#?}");
    }
    assert!(
        differences.is_empty(),
        "{} of {compared} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    // The properties of ten requests.
    assert_eq!((compared, with_more), (100, 10));
}
