//! Bodies in filters: held, replaced, streamed, bounded.

use weft_api::node::{FilterLimits, FilterPhase::AfterPolicy};

use super::{at_the_door, config, told, told_with};
use crate::support::client::Client;
use crate::support::guests::{filter, probe, step};
use crate::support::server::Server;
use crate::support::world::{Rules, World};

/// Answers each request with the body that it had, between brackets.
pub async fn echo() -> Server {
    Server::script(|mut conversation| async move {
        while let Some(body) = conversation.request_with_body().await {
            let body = format!("[{body}]");
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            conversation.send(&answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn bodies_are_read_and_replaced() {
    let server = echo().await;
    let world = World::new(server.address, &at_the_door()).await;
    let mut client = Client::connect(world.address).await;
    for (commands, body) in [
        ("", "[hello]"),
        ("collect", "[hello]"),
        ("stream", "[hello]"),
        ("replace=bye", "[bye]"),
        ("replace=", "[]"),
        ("<replace=other", "other"),
        ("<stream", "[hello]"),
        ("collect;sleep=20;<sleep=20", "[hello]"),
        ("replace=a longer one;<replace=and another", "and another"),
    ] {
        client.send(told_with("/x", commands, "hello")).await;
        let answer = client.answer().await;
        let content = match answer.header("transfer-encoding") {
            Some(_chunked) => unchunked(&answer.body),
            None => answer.body.clone(),
        };
        assert_eq!((answer.status, &*content), (200, body), "{commands}");
    }
    let heads: Vec<String> = vec![server.next().await, server.next().await];
    assert!(heads[0].contains("content-length: 5"), "{}", heads[0]);
    assert!(heads[1].contains("x-length: 5"), "{}", heads[1]);
    assert!(heads[1].contains("content-length: 5"), "{}", heads[1]);
}

fn unchunked(body: &str) -> String {
    let mut rest = body;
    let mut whole = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        whole.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}

#[tokio::test]
async fn a_body_can_be_refused_while_it_is_sent() {
    let server = echo().await;
    let world = World::new(server.address, &at_the_door()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(told_with("/x", "stream;reply=422:bad content", "hello"))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (422, "bad content"));
}

#[tokio::test]
async fn what_a_filter_holds_is_bounded() {
    let server = echo().await;
    let probe = probe();
    let limited = weft_api::node::Filter {
        limits: Some(FilterLimits {
            held_body: Some(1000),
            ..Default::default()
        }),
        ..filter("probe", &probe, &config("x-do", ""))
    };
    let rules = Rules {
        filters: vec![limited],
        ingress_chain: vec![step(AfterPolicy, 0)],
        modules: vec![probe],
        ..crate::support::world::open()
    };
    let world = World::new(server.address, &rules).await;
    let long = "x".repeat(20_000);
    for (commands, body, status) in [
        ("collect", &*long, 413),
        ("<replace=short", &*long, 502),
        ("stream", &*long, 200),
        ("", &*long, 200),
        ("collect", "short", 200),
    ] {
        let mut client = Client::connect(world.address).await;
        client.send(told_with("/x", commands, body)).await;
        assert_eq!(client.answer().await.status, status, "{commands}");
    }
    let ended = r#"weft_proxy_filter_requests_total{filter="WeftFilter default/probe",outcome="too_large"}"#;
    world.until_metric(ended, 2).await;
}

#[tokio::test]
async fn a_request_without_a_body_gets_one() {
    let server = echo().await;
    let world = World::new(server.address, &at_the_door()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(told("/x", "replace=made").replace("GET", "POST"))
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.body, "[made]");
}
