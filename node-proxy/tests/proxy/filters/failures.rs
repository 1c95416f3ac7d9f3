//! What becomes of requests when filters fail, and of all others.

use weft_api::node::FilterPhase::AfterPolicy;

use super::{at_the_door, config, landing, told};
use crate::support::client::Client;
use crate::support::guests::{filter, open, probe, step};
use crate::support::server::Server;
use crate::support::world::{self, Rules, World};

#[tokio::test]
async fn a_filter_that_fails_closed_is_a_503_and_nothing_else() {
    let (server, world) = landing().await;
    let mut other = Client::connect(world.address).await;
    for commands in [
        "panic",
        "loop",
        "fail=cannot decide",
        "<panic",
        "<loop",
        "<fail=x",
    ] {
        let mut client = Client::connect(world.address).await;
        client.send(told("/x", commands)).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, &*answer.body),
            (503, "filter failed\r\n"),
            "{commands}"
        );
        if commands.starts_with('<') {
            server.next().await;
        }
        assert_eq!(other.get("GET", "/x").await.status, 200, "after {commands}");
        server.next().await;
    }
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn a_filter_that_fails_open_is_as_if_it_were_not_there() {
    let server = Server::landing().await;
    let rules = at_the_door();
    let rules = Rules {
        filters: rules.filters.iter().cloned().map(open).collect(),
        ..rules
    };
    let world = World::new(server.address, &rules).await;
    for commands in [
        "panic",
        "loop",
        "fail=cannot decide",
        "<panic",
        "<loop",
        "<fail=x",
    ] {
        let mut client = Client::connect(world.address).await;
        client.send(told("/x", commands)).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, &*answer.body),
            (200, "Ship landed\n"),
            "{commands}"
        );
        server.next().await;
    }
}

#[tokio::test]
async fn requests_that_wait_in_an_instance_that_fails_are_decided_by_policy() {
    let (server, world) = landing().await;
    let mut waiting = Client::connect(world.address).await;
    waiting.send(told("/x", "sleep=60000")).await;
    let mut passing = Client::connect(world.address).await;
    assert_eq!(passing.get("GET", "/x").await.status, 200);
    passing.send(told("/x", "panic")).await;
    assert_eq!(passing.answer().await.status, 503);
    assert_eq!(waiting.answer().await.status, 503);
    server.next().await;
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn a_filter_that_is_not_there_fails_as_its_owner_wants() {
    let server = Server::landing().await;
    let probe = probe();
    let missing = filter("missing", b"no such module", "{}");
    for (filter, status) in [(missing.clone(), 503), (open(missing), 200)] {
        let rules = Rules {
            filters: vec![filter],
            ingress_chain: vec![step(AfterPolicy, 0)],
            ..world::open()
        };
        let world = World::new(server.address, &rules).await;
        let mut client = Client::connect(world.address).await;
        assert_eq!(client.get("GET", "/x").await.status, status);
    }
    let refused = filter("refused", &probe, &config("refused", ""));
    for (filter, status) in [(refused.clone(), 503), (open(refused), 200)] {
        let rules = Rules {
            filters: vec![filter],
            ingress_chain: vec![step(AfterPolicy, 0)],
            modules: vec![probe.clone()],
            refused_filters: true,
            ..world::open()
        };
        let world = World::new(server.address, &rules).await;
        let mut client = Client::connect(world.address).await;
        assert_eq!(client.get("GET", "/x").await.status, status);
    }
}
