use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Request, StatusCode};
use prost::Message;
use weft_api::node::{
    Direction as WireDirection, Header, Http, Peer, Record, RecordBatch, RecordKind, RuleRef,
    Verdict,
};
use weft_core::model::NumericIdentity;
use weft_core::policy;

use super::super::exchange::{Decisions, Exchange, Fields, ResponseHead};
use super::super::wire::Writer;
use super::{Batch, address, canonical};
use crate::identity::{End, Ends};
use crate::pipeline::headers::Trust;
use crate::pipeline::policy::Decision;
use crate::pipeline::request_id::RequestId;
use crate::pipeline::trace::Trace;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn exchange() -> Exchange {
    let end = |address: &str, identity, endpoint| End {
        address: address.parse::<SocketAddr>().expect("an address"),
        identity: NumericIdentity(identity),
        endpoint,
    };
    let request = Request::post("/v1/request-landing?x=1")
        .header("host", "deathstar")
        .header("x-request-id", "id")
        .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
        .header("cookie", "secret")
        .header("accept", "*/\u{e9}")
        .body(())
        .expect("valid");
    let (mut head, ()) = request.into_parts();
    let request_id = RequestId::of(&mut head.headers, Trust::Cluster);
    let trace = Trace::of(&head.headers, Trust::Cluster, false);
    let rule = policy::RuleRef {
        kind: "CiliumNetworkPolicy".into(),
        namespace: "default".into(),
        name: "rule1".into(),
        rule: "egress[0]".into(),
    };
    let exchange = Exchange {
        ends: Arc::new(Ends {
            source: end("10.0.0.1:40000", 1623, Some(7)),
            destination: end("[fd00::1]:80", 1624, None),
            proxy_port: 15001,
        }),
        head,
        request_id,
        trace,
        started: Instant::now(),
        time: UNIX_EPOCH + Duration::new(1_700_000_000, 5),
        decisions: Decisions {
            egress: Some(Decision {
                allowed: true,
                rule: Some(Arc::new(rule)),
            }),
            ingress: None,
        },
        answered: false,
        refused: None,
        filter: OnceLock::new(),
        runs: OnceLock::new(),
        memory: None,
        response: OnceLock::new(),
        end: OnceLock::new(),
    };
    let mut headers = HeaderMap::new();
    headers.insert("server", "nginx".parse().expect("valid"));
    headers.insert("content-length", "12".parse().expect("valid"));
    let response = ResponseHead {
        status: StatusCode::OK,
        headers: Fields::of(&headers),
        latency: Duration::from_nanos(7),
    };
    exchange.response.set(response).expect("not set yet");
    exchange
}

fn expected_request() -> Record {
    let header = |(key, value): (&str, &str)| Header {
        key: key.into(),
        value: value.into(),
    };
    Record {
        time: Some(pbjson_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 5,
        }),
        kind: RecordKind::Request.into(),
        direction: WireDirection::Egress.into(),
        verdict: Verdict::Forwarded.into(),
        source: Some(Peer {
            ip: "10.0.0.1".into(),
            port: 40000,
            identity: 1623,
            endpoint_id: 7,
        }),
        destination: Some(Peer {
            ip: "fd00::1".into(),
            port: 80,
            identity: 1624,
            endpoint_id: 0,
        }),
        http: Some(Http {
            code: 0,
            method: "POST".into(),
            url: "http://deathstar/v1/request-landing?x=1".into(),
            protocol: "HTTP/1.1".into(),
            headers: [
                (":scheme", "http"),
                ("Accept", "*/\\xc3\\xa9"),
                ("Cookie", "[redacted]"),
                (
                    "Traceparent",
                    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                ),
                ("X-Request-Id", "id"),
            ]
            .map(header)
            .into(),
        }),
        latency_ns: 0,
        request_id: "id".into(),
        trace_id: TRACE.into(),
        rule: Some(RuleRef {
            kind: "CiliumNetworkPolicy".into(),
            namespace: "default".into(),
            name: "rule1".into(),
            rule: "egress[0]".into(),
        }),
        reason: String::new(),
        proxy_port: 15001,
        filter: String::new(),
    }
}

#[test]
fn records_are_the_messages_that_the_agent_reads() {
    let exchange = exchange();
    let mut batch = Batch::default();
    batch.requests(&exchange);
    batch.responses(&exchange);
    assert_eq!(batch.records(), 2);
    let bytes = batch.finish(3);

    let request = expected_request();
    let mut response = Record {
        time: Some(pbjson_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 12,
        }),
        kind: RecordKind::Response.into(),
        source: request.destination.clone(),
        destination: request.source.clone(),
        latency_ns: 7,
        ..request.clone()
    };
    if let Some(http) = &mut response.http {
        http.code = 200;
        http.headers = [
            ("Content-Length", "12"),
            ("Server", "nginx"),
            ("X-Request-Id", "id"),
        ]
        .map(|(key, value)| Header {
            key: key.into(),
            value: value.into(),
        })
        .into();
    }
    let expected = RecordBatch {
        records: vec![request, response],
        lost: 3,
    };
    assert_eq!(RecordBatch::decode(bytes.clone()).expect("valid"), expected);
    assert_eq!(bytes, expected.encode_to_vec(), "in the same form, too");
}

#[test]
fn addresses_are_written_as_everyone_writes_them() {
    let written = |ip| {
        let mut writer = Writer::default();
        address(&mut writer, ip);
        String::from_utf8(writer.finish()).expect("text")
    };
    for octet in 0..=255 {
        let one = IpAddr::from([10, octet, 0, 255 - octet]);
        assert_eq!(written(one), one.to_string());
    }
    assert_eq!(written(IpAddr::V6(Ipv6Addr::LOCALHOST)), "::1");
}

#[test]
fn names_are_canonical() {
    for (name, expected) in [
        ("x-request-id", "X-Request-Id"),
        ("accept", "Accept"),
        (
            "x-envoy-upstream-service-time",
            "X-Envoy-Upstream-Service-Time",
        ),
        ("a--b-", "A--B-"),
    ] {
        let mut name = name.as_bytes().to_vec();
        canonical(&mut name);
        assert_eq!(name, expected.as_bytes());
    }
}

#[test]
fn no_client_decides_how_large_a_batch_gets() {
    let mut exchange = exchange();
    for _ in 0..60 {
        // What is not ASCII is written with four bytes for one.
        let value = HeaderValue::from_bytes(&[0xe9; 4000]).expect("valid");
        exchange.head.headers.append("x-filler", value);
    }
    let mut batch = Batch::default();
    while !batch.is_full() {
        batch.requests(&exchange);
    }
    assert!(batch.records() > 20, "{} records", batch.records());
    let bytes = batch.finish(0);
    assert!(bytes.len() < 3 << 20, "{} bytes", bytes.len());
}
