//! What filters do to heads, and in which order.

use weft_api::node::FilterPhase::{AfterPolicy, Upstream};

use super::{config, landing, told};
use crate::support::client::Client;
use crate::support::guests::{filter, probe, step};
use crate::support::server::Server;
use crate::support::world::{Rules, World, open};

#[tokio::test]
async fn a_filter_changes_both_heads() {
    let (server, world) = landing().await;
    let mut client = Client::connect(world.address).await;
    let commands =
        "set=x-a:1;remove=x-b;path=/other?q=1;<set=x-c:2;<status=202;<remove=content-type";
    let request = told("/x", commands).replace("\r\n\r\n", "\r\nx-b: 1\r\n\r\n");
    client.send(request).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (202, "Ship landed\n"));
    assert_eq!(answer.header("x-c"), Some("2"));
    assert_eq!(answer.header("content-type"), None);
    let seen = server.next().await;
    assert!(seen.starts_with("GET /other?q=1 HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("\r\nx-a: 1\r\n"), "{seen}");
    assert!(!seen.contains("\r\nx-b: "), "{seen}");
}

#[tokio::test]
async fn requests_meet_filters_in_order_and_answers_in_reverse() {
    let server = Server::landing().await;
    let probe = probe();
    let marks = ["a", "b", "c"];
    let rules = Rules {
        filters: marks
            .iter()
            .map(|mark| filter(mark, &probe, &config("x-do", mark)))
            .collect(),
        egress_chain: vec![step(AfterPolicy, 1), step(Upstream, 2)],
        ingress_chain: vec![step(AfterPolicy, 0)],
        modules: vec![probe],
        ..open()
    };
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    let answer = client.get("GET", "/x").await;
    let seen = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("x-seen: "));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(seen(&server.next().await), ["b", "a", "c"]);
    assert_eq!(seen(&answer.head), ["c", "a", "b"]);
}

#[tokio::test]
async fn a_filter_answers_in_place_of_the_server() {
    let (server, world) = landing().await;
    let mut client = Client::connect(world.address).await;
    client.send(told("/x", "reply=401:no token")).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (401, "no token"));
    assert_eq!(answer.header("server"), Some("envoy"));
    assert!(answer.header("x-request-id").is_some());
    // The connection serves on.
    assert_eq!(client.get("GET", "/x").await.status, 200);
    server.next().await;
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn an_answer_of_one_filter_is_seen_by_those_before_it() {
    let server = Server::landing().await;
    let probe = probe();
    let rules = Rules {
        filters: vec![
            filter("a", &probe, &config("x-none", "a")),
            filter("b", &probe, &config("x-do", "b")),
            filter("c", &probe, &config("x-none", "c")),
        ],
        ingress_chain: (0..3).map(|at| step(AfterPolicy, at)).collect(),
        modules: vec![probe],
        ..open()
    };
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    client.send(told("/x", "reply=429:slow down")).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("x-seen")), (429, Some("a")));
    client.send(told("/x", "<reply=418:teapot")).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (418, "teapot"));
    assert_eq!(answer.header("x-seen"), Some("a"));
}

#[tokio::test]
async fn filters_know_who_asks_whom() {
    let (server, world) = landing().await;
    let mut client = Client::connect(world.address).await;
    client.send(told("/x", "attributes")).await;
    assert_eq!(client.answer().await.status, 200);
    let seen = server.next().await;
    let expected = "x-attributes: tiefighter>deathstar-1 forwarded \
                    CiliumNetworkPolicy default/rule1 ingress[0]";
    assert!(seen.contains(expected), "{seen}");
}

#[tokio::test]
async fn an_answer_without_a_body_keeps_its_length() {
    let (_server, world) = landing().await;
    let mut client = Client::connect(world.address).await;
    let head = told("/x", "<set=x-c:2").replace("GET", "HEAD");
    client.send(head).await;
    let answer = client.read_until("\r\n\r\n").await;
    assert!(answer.contains("content-length: 12\r\n"), "{answer}");
    assert!(answer.contains("x-c: 2\r\n"), "{answer}");
}
