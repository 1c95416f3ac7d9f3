//! Requests that wait in filters, and filters that are replaced meanwhile.

use std::time::Duration;

use super::{at_the_door, config, landing, told};
use crate::support::client::Client;
use crate::support::guests::{filter, probe};
use crate::support::server::Server;
use crate::support::world::{Rules, World, impatient};

#[tokio::test]
async fn many_wait_and_all_go_on() {
    let (server, world) = landing().await;
    let mut clients = Vec::new();
    for _client in 0..50 {
        let mut client = Client::connect(world.address).await;
        client.send(told("/x", "sleep=200;<sleep=50")).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.status, 200);
        server.next().await;
    }
}

#[tokio::test]
async fn who_leaves_while_a_filter_waits_is_forgotten() {
    let server = Server::landing().await;
    let idle = impatient().idle_timeout;
    let rules = Rules {
        settings: weft_api::node::Settings {
            idle_timeout: idle,
            ..Default::default()
        },
        ..at_the_door()
    };
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    client.send(told("/x", "sleep=60000")).await;
    world.until_metric("weft_proxy_filter_contexts", 1).await;
    drop(client);
    world.until_metric("weft_proxy_filter_contexts", 0).await;
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn a_new_version_comes_without_a_failed_request() {
    let server = Server::landing().await;
    let old = at_the_door();
    let mut world = World::new(server.address, &old).await;
    let mut waiting = Client::connect(world.address).await;
    waiting.send(told("/x", "sleep=400")).await;
    world.until_metric("weft_proxy_filter_contexts", 1).await;
    let probe = probe();
    let new = Rules {
        filters: vec![filter("probe", &probe, &config("x-do", "new"))],
        ..at_the_door().version("2")
    };
    let mut client = Client::connect(world.address).await;
    world.offer(&new).await;
    let mut seen_new = false;
    for _request in 0..200 {
        let answer = client.get("GET", "/x").await;
        assert_eq!(answer.status, 200);
        seen_new = answer.header("x-seen") == Some("new");
        if seen_new {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(seen_new, "the new version never came");
    // What was in the old version ends there.
    let answer = waiting.answer().await;
    assert_eq!((answer.status, answer.header("x-seen")), (200, None));
}
