//! Filters that are done with a request when they have seen its head, and what
//! stays with them all the same.

use weft_api::node::FilterPhase::{AfterPolicy, Upstream};

use super::bodies::echo;
use super::{config, requests_only, told_with};
use crate::support::client::Client;
use crate::support::guests::{filter, open as open_on_error, probe, step};
use crate::support::world::{Rules, World, open};

/// Probes of these configurations at the deathstar's door, one after another.
fn at_the_door(configs: &[String]) -> Rules {
    let probe = probe();
    let filters = configs.iter().enumerate();
    let filters = filters.map(|(at, config)| filter(&format!("probe-{at}"), &probe, config));
    let phases = [AfterPolicy, Upstream];
    let steps = (0_u32..).zip(configs).zip(phases);
    Rules {
        filters: filters.collect(),
        ingress_chain: steps.map(|((at, _), phase)| step(phase, at)).collect(),
        modules: vec![probe],
        ..open()
    }
}

/// What arrives of a request that tells probes what to do: its head, and its
/// body between brackets.
async fn arrived(rules: &Rules, request: String) -> (String, String) {
    let server = echo().await;
    let world = World::new(server.address, rules).await;
    let mut client = Client::connect(world.address).await;
    client.send(request).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // Nothing of it is left, and the connection goes on.
    world.until_metric("weft_proxy_filter_contexts", 0).await;
    client.send(told_with("/again", "", "more")).await;
    assert_eq!(client.answer().await.body, "[more]");
    (server.next().await, answer.body)
}

#[tokio::test]
async fn a_body_that_nobody_looks_at_follows_its_head() {
    let rules = at_the_door(&[requests_only("x-do", "one")]);
    let (head, body) = arrived(&rules, told_with("/x", "set=x-a:1", "hello")).await;
    for line in ["x-a: 1", "x-seen: one", "content-length: 5"] {
        assert!(head.lines().any(|one| one == line), "{line}: {head}");
    }
    assert_eq!(body, "[hello]");
}

#[tokio::test]
async fn who_looks_at_the_body_stays() {
    let rules = at_the_door(&[requests_only("x-do", "")]);
    for (commands, wanted) in [
        ("collect", "[hello]"),
        ("replace=bye", "[bye]"),
        ("replace=", "[]"),
        ("stream", "[hello]"),
        ("sleep=1", "[hello]"),
    ] {
        let (_head, body) = arrived(&rules, told_with("/x", commands, "hello")).await;
        assert_eq!(body, wanted, "{commands}");
    }
}

#[tokio::test]
async fn one_that_stays_keeps_the_request_from_going_past() {
    let orders = [
        [requests_only("x-do", "one"), config("x-other", "two")],
        [config("x-other", "one"), requests_only("x-do", "two")],
        [
            requests_only("x-do", "one"),
            requests_only("x-other", "two"),
        ],
    ];
    for configs in orders {
        let rules = at_the_door(&configs);
        let (head, body) = arrived(&rules, told_with("/x", "set=x-a:1", "hello")).await;
        let seen = head.lines().filter(|line| line.starts_with("x-seen"));
        assert!(seen.eq(["x-seen: one", "x-seen: two"]), "{head}");
        assert!(head.lines().any(|line| line == "x-a: 1"), "{head}");
        assert_eq!(body, "[hello]");
    }
}

#[tokio::test]
async fn one_that_takes_its_time_behind_another_waits_for_no_body() {
    let rules = at_the_door(&[requests_only("x-do", ""), requests_only("x-other", "")]);
    let server = echo().await;
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    let request = told_with("/x", "set=x-a:1", "hello");
    let head = request.strip_suffix("hello").expect("its body");
    let commands = "host: deathstar\r\nx-other: sleep=50;reply=418:tea";
    client.send(head.replace("host: deathstar", commands)).await;
    assert_eq!(client.answer().await.status, 418);
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn one_that_answers_or_fails_does_so() {
    let cases = [
        ("reply=418:tea", false, 418),
        ("fail=why", false, 503),
        ("fail=why", true, 200),
        ("panic=why", false, 503),
        ("panic=why", true, 200),
    ];
    let alone = [requests_only("x-do", "")];
    let behind = [requests_only("x-other", "one"), requests_only("x-do", "")];
    for (commands, goes_on, status) in cases {
        for configs in [&alone[..], &behind[..]] {
            let mut rules = at_the_door(configs);
            if goes_on {
                rules.filters = rules.filters.into_iter().map(open_on_error).collect();
            }
            let server = echo().await;
            let world = World::new(server.address, &rules).await;
            let mut client = Client::connect(world.address).await;
            client.send(told_with("/x", commands, "hello")).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, status, "{commands}: {}", answer.body);
            if goes_on {
                assert_eq!(answer.body, "[hello]", "{commands}");
                let head = server.next().await;
                let seen = head.lines().any(|line| line == "x-seen: one");
                assert_eq!(seen, configs.len() > 1, "{head}");
            } else {
                server.assert_nothing_arrived().await;
            }
            world.until_metric("weft_proxy_filter_contexts", 0).await;
        }
    }
}
