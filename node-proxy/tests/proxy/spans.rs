//! Spans, as a collector receives them.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use weft_proxy::telemetry::spans::Otlp;

use crate::support::client::Client;
use crate::support::otlp::{Collector, attribute};
use crate::support::server::Server;
use crate::support::world::{Rules, World, landing, rule};

async fn world(server: &Server, collector: &Collector) -> World {
    let otlp = Otlp {
        endpoint: format!("http://{}", collector.address),
        gzip: true,
    };
    World::with_spans(server.address, &landing(), Some(otlp)).await
}

fn traceparent(head: &str) -> Vec<String> {
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("traceparent: "))
        .expect("a trace context");
    line.split('-').map(str::to_owned).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_request_is_a_server_span_and_a_client_span_of_its_trace() {
    let server = Server::landing().await;
    let collector = Collector::start().await;
    let world = world(&server, &collector).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "POST /v1/request-landing HTTP/1.1\r\nhost: deathstar\r\nx-request-id: id-1\r\n\
             traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.status, 200);
    let mut spans = [collector.span().await, collector.span().await];
    spans.sort_by_key(|span| span.kind);
    let [serving, calling] = &spans;
    assert_eq!(serving.kind, SpanKind::Server as i32);
    assert_eq!(calling.kind, SpanKind::Client as i32);
    for span in &spans {
        assert_eq!(hex(&span.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
        for (key, expected) in [
            ("x-request-id", "id-1"),
            ("weft.source.identity", "1623"),
            ("weft.destination.identity", "47013"),
            (
                "weft.source.labels",
                "k8s:app.kubernetes.io/name=tiefighter,k8s:class=tiefighter",
            ),
            ("weft.verdict", "FORWARDED"),
            ("http.request.method", "POST"),
            ("http.response.status_code", "200"),
            ("url.path", "/v1/request-landing"),
            ("network.protocol.version", "1.1"),
        ] {
            assert_eq!(attribute(span, key).as_deref(), Some(expected), "{key}");
        }
        let rule = attribute(span, "weft.rule").expect("a rule");
        assert!(rule.contains("default/rule1"), "{rule}");
    }
    assert_eq!(hex(&serving.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(calling.parent_span_id, serving.span_id);
    assert!(serving.end_time_unix_nano > serving.start_time_unix_nano);
    // The server behind is a child of the client span.
    let context = traceparent(&server.next().await);
    assert_eq!(context[1], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(context[2], hex(&calling.span_id));
    // Flows carry the trace, and headers as the client sent them.
    let records = world.agent.records(4).await;
    assert_eq!(records[0].trace_id, context[1]);
    let headers = &records[0].http.as_ref().expect("http").headers;
    let logged = headers.iter().find(|one| one.key == "Traceparent");
    assert!(logged.expect("logged").value.contains("00f067aa0ba902b7"));
}

#[tokio::test]
async fn a_trace_starts_here_when_the_client_is_in_none() {
    let server = Server::landing().await;
    let collector = Collector::start().await;
    let world = world(&server, &collector).await;
    let mut client = Client::connect(world.address).await;
    client.get("POST", "/v1/request-landing").await;
    let spans = [collector.span().await, collector.span().await];
    let context = traceparent(&server.next().await);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == context[1]));
    let records = world.agent.records(4).await;
    assert_eq!(records[0].trace_id, context[1]);
    let headers = &records[0].http.as_ref().expect("http").headers;
    // Nobody sent this header: it is in no flow.
    assert!(headers.iter().all(|one| one.key != "Traceparent"));
}

#[tokio::test]
async fn a_denied_request_is_a_server_span_alone() {
    let server = Server::landing().await;
    let collector = Collector::start().await;
    let world = world(&server, &collector).await;
    let mut client = Client::connect(world.address).await;
    client.get("PUT", "/v1/exhaust-port").await;
    client.get("POST", "/v1/request-landing").await;
    let denied = collector.span().await;
    assert_eq!(denied.kind, SpanKind::Server as i32);
    assert_eq!(
        attribute(&denied, "weft.verdict").as_deref(),
        Some("DROPPED")
    );
    let status = attribute(&denied, "http.response.status_code");
    assert_eq!(status.as_deref(), Some("403"));
    // By default, at the first place that looked.
    assert_eq!(attribute(&denied, "weft.denied").as_deref(), Some("egress"));
    let reason = attribute(&denied, "weft.reason");
    assert_eq!(reason.as_deref(), Some("no rule matched"));
    assert_eq!(attribute(&denied, "weft.rule"), None);
    // What comes next belongs to the next request.
    let next = collector.span().await;
    assert_ne!(next.trace_id, denied.trace_id);
}

#[tokio::test]
async fn a_denial_where_it_arrives_is_not_blamed_on_what_let_it_leave() {
    let server = Server::landing().await;
    let collector = Collector::start().await;
    let otlp = Otlp {
        endpoint: format!("http://{}", collector.address),
        gzip: false,
    };
    let rules = Rules {
        egress: Some(vec![rule("PUT", "/v1/exhaust-port")]),
        ..landing()
    };
    let world = World::with_spans(server.address, &rules, Some(otlp)).await;
    let mut client = Client::connect(world.address).await;
    client.get("PUT", "/v1/exhaust-port").await;
    let denied = collector.span().await;
    for (key, expected) in [
        ("weft.denied", Some("ingress")),
        ("weft.reason", Some("no rule matched")),
        ("weft.rule", None),
        ("weft.rule.ingress", None),
    ] {
        assert_eq!(attribute(&denied, key).as_deref(), expected, "{key}");
    }
    let left = attribute(&denied, "weft.rule.egress").expect("what let it leave");
    assert!(left.contains("default/rule1"), "{left}");
}

#[tokio::test]
async fn the_last_spans_are_exported_before_the_proxy_ends() {
    let server = Server::landing().await;
    let collector = Collector::start().await;
    let world = world(&server, &collector).await;
    let mut client = Client::connect(world.address).await;
    client.get("POST", "/v1/request-landing").await;
    drop(client);
    world.proxy.stop(crate::support::DEADLINE).await;
    collector.span().await;
    collector.span().await;
}

#[tokio::test]
async fn a_collector_that_is_away_costs_no_request() {
    let server = Server::landing().await;
    let collector = Collector::start().await;
    let world = world(&server, &collector).await;
    drop(collector);
    let mut client = Client::connect(world.address).await;
    for _ in 0..10 {
        assert_eq!(client.get("POST", "/v1/request-landing").await.status, 200);
    }
}
