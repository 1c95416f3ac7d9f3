//! What flows, spans and metrics say of filters.

use weft_api::node::{Direction, RecordKind, Verdict};

use super::{at_the_door, landing, told};
use crate::support::client::Client;
use weft_proxy::telemetry::spans::Otlp;

use crate::support::otlp::Collector;
use crate::support::server::Server;
use crate::support::world::World;

#[tokio::test]
async fn the_flow_of_a_request_that_a_filter_denies_names_it() {
    let (_server, world) = landing().await;
    let mut client = Client::connect(world.address).await;
    client.send(told("/x", "reply=401:no token")).await;
    client.answer().await;
    let request = world.agent.record().await;
    assert_eq!(request.kind(), RecordKind::Request);
    assert_eq!(request.direction(), Direction::Ingress);
    assert_eq!(request.verdict(), Verdict::Dropped);
    assert_eq!(request.filter, "WeftFilter default/probe: no token");
    let response = world.agent.record().await;
    assert_eq!(response.kind(), RecordKind::Response);
    assert_eq!(response.http.expect("http").code, 401);
    assert_eq!(response.filter, "WeftFilter default/probe: no token");
    world.agent.assert_no_record().await;
}

#[tokio::test]
async fn the_flow_of_a_request_that_a_filter_fails_names_it() {
    let (_server, world) = landing().await;
    let mut client = Client::connect(world.address).await;
    client.send(told("/x", "fail=no idea")).await;
    assert_eq!(client.answer().await.status, 503);
    let request = world.agent.record().await;
    assert_eq!(request.verdict(), Verdict::Dropped);
    assert_eq!(request.reason, "filter failed");
    assert!(
        request.filter.starts_with("WeftFilter default/probe: "),
        "{request:?}"
    );
    assert!(request.filter.contains("no idea"), "{request:?}");
}

#[tokio::test]
async fn an_answer_of_a_filter_that_denies_nothing_is_forwarded() {
    let (_server, world) = landing().await;
    let mut client = Client::connect(world.address).await;
    client.send(told("/x", "reply=200:here")).await;
    client.answer().await;
    let request = world.agent.record().await;
    assert_eq!(request.verdict(), Verdict::Forwarded);
    assert_eq!(request.filter, "WeftFilter default/probe: here");
}

#[tokio::test]
async fn each_filter_is_an_event_of_the_span() {
    let server = Server::landing().await;
    let collector = Collector::start().await;
    let otlp = Otlp {
        endpoint: format!("http://{}", collector.address),
        gzip: true,
    };
    let world = World::with_spans(server.address, &at_the_door(), Some(otlp)).await;
    let mut client = Client::connect(world.address).await;
    client.send(told("/x", "span=seen;event=looked")).await;
    assert_eq!(client.answer().await.status, 200);
    let mut spans = [collector.span().await, collector.span().await];
    spans.sort_by_key(|span| span.kind);
    let span = &spans[0];
    let names: Vec<_> = span.events.iter().map(|event| &*event.name).collect();
    assert_eq!(names, ["filter", "looked"]);
    let of_filter = |key: &str| {
        let attributes = &span.events[0].attributes;
        let found = attributes.iter().find(|one| one.key == key);
        format!("{:?}", found.expect("there").value)
    };
    assert!(of_filter("weft.filter").contains("WeftFilter default/probe"));
    assert!(of_filter("weft.filter.outcome").contains("passed"));
    assert!(of_filter("weft.filter.phase").contains("afterPolicy"));
    assert!(!of_filter("weft.filter.duration_ns").contains("IntValue(0)"));
    assert!(span.attributes.iter().any(|one| one.key == "probe"));
}

#[tokio::test]
async fn metrics_count_what_filters_do() {
    let (_server, world) = landing().await;
    let mut client = Client::connect(world.address).await;
    for commands in ["", "reply=401:no", "fail=x"] {
        client.send(told("/x", commands)).await;
        client.answer().await;
    }
    for outcome in ["passed", "replied", "failed_trap"] {
        let metric = format!(
            r#"weft_proxy_filter_requests_total{{filter="WeftFilter default/probe",outcome="{outcome}"}}"#
        );
        world.until_metric(&metric, 1).await;
    }
    let own = r#"weft_filter_probed_total{filter="WeftFilter default/probe"}"#;
    world.until_metric(own, 3).await;
    let text = world.proxy.metrics().expect("text");
    assert!(text.ends_with("# EOF\n"));
}
