//! Policy judges what is really sent.

use weft_api::node::FilterPhase::{self, AfterPolicy, BeforePolicy};
use weft_api::node::HttpRule;

use super::{config, requests_only, told};
use crate::support::client::Client;
use crate::support::guests::{filter, probe, step};
use crate::support::server::Server;
use crate::support::world::{Rules, World, rule};

/// Only `/allowed` is, into the deathstar.
fn allowed_only(phase: FilterPhase, config: &str) -> Rules {
    let probe = probe();
    Rules {
        ingress: Some(vec![rule("GET", "/allowed")]),
        filters: vec![filter("probe", &probe, config)],
        ingress_chain: vec![step(phase, 0)],
        modules: vec![probe],
        ..Default::default()
    }
}

#[tokio::test]
async fn what_a_filter_makes_of_a_request_before_policy_is_judged() {
    for config in [config("x-do", ""), requests_only("x-do", "")] {
        let server = Server::landing().await;
        let world = World::new(server.address, &allowed_only(BeforePolicy, &config)).await;
        let mut client = Client::connect(world.address).await;
        for (path, commands, status) in [
            ("/allowed", "", 200),
            ("/other", "", 403),
            ("/other", "path=/allowed", 200),
            ("/allowed", "path=/other", 403),
            ("/allowed", "sleep=1;path=/other", 403),
        ] {
            client.send(told(path, commands)).await;
            assert_eq!(client.answer().await.status, status, "{path} {commands}");
        }
    }
}

#[tokio::test]
async fn a_filter_after_policy_cannot_go_round_it() {
    for config in [config("x-do", ""), requests_only("x-do", "")] {
        let server = Server::landing().await;
        let world = World::new(server.address, &allowed_only(AfterPolicy, &config)).await;
        let mut client = Client::connect(world.address).await;
        for (path, commands, status) in [
            ("/allowed", "set=x-a:1", 200),
            ("/allowed", "path=/other", 403),
            ("/allowed", "sleep=1;path=/other", 403),
            ("/allowed", "method=POST", 403),
            // It never sees what is denied.
            ("/other", "reply=200:seen", 403),
        ] {
            client.send(told(path, commands)).await;
            assert_eq!(client.answer().await.status, status, "{path} {commands}");
        }
        server.next().await;
        server.assert_nothing_arrived().await;
    }
}

#[tokio::test]
async fn headers_that_rules_read_are_judged_as_filters_leave_them() {
    for config in [config("x-do", ""), requests_only("x-do", "")] {
        let cleared = HttpRule {
            headers: vec!["x-cleared: yes".into()],
            ..rule("GET", "/allowed")
        };
        let rules = Rules {
            ingress: Some(vec![cleared]),
            ..allowed_only(AfterPolicy, &config)
        };
        let server = Server::landing().await;
        let world = World::new(server.address, &rules).await;
        let mut client = Client::connect(world.address).await;
        for (commands, status) in [
            ("set=x-a:1", 200),
            ("remove=x-cleared", 403),
            ("set=x-cleared:no", 403),
        ] {
            let request = told("/allowed", commands);
            let request = request.replace("\r\nx-do", "\r\nx-cleared: yes\r\nx-do");
            client.send(request).await;
            assert_eq!(client.answer().await.status, status, "{commands}");
        }
        server.next().await;
        server.assert_nothing_arrived().await;
    }
}

#[tokio::test]
async fn what_was_revoked_while_a_filter_waited_does_not_pass() {
    let server = Server::landing().await;
    let rules = allowed_only(AfterPolicy, &config("x-do", ""));
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    client.send(told("/allowed", "set=x-a:1;sleep=500")).await;
    world.until_metric("weft_proxy_filter_contexts", 1).await;
    let revoked = Rules {
        ingress: Some(vec![rule("GET", "/nothing")]),
        ..rules.version("2")
    };
    world.apply(&revoked).await;
    assert_eq!(client.answer().await.status, 403);
    server.assert_nothing_arrived().await;
}
