//! Requests of filters' own: in the name of their pod, and only what it may
//! ask.

use std::net::IpAddr;

use weft_api::node::{
    Callout, CalloutBackend, Direction, FilterChain, FilterPhase, PeerRule, PortPolicy,
};

use super::{at_the_door, told};
use crate::support::client::Client;
use crate::support::guests::step;
use crate::support::server::Server;
use crate::support::world::{DEATHSTAR, Rules, TIEFIGHTER, World, rule};

/// The door may ask `authz`, which is there.
pub fn asking(authz: &Server, from: Vec<u32>) -> Rules {
    let mut rules = at_the_door();
    rules.filters[0].callouts = vec!["authz:80".into()];
    rules.callouts = vec![Callout {
        service: "authz.default:80".into(),
        backends: vec![CalloutBackend {
            address: authz.address.to_string(),
            from,
        }],
    }];
    rules
}

async fn fetched(server: &Server, rules: &Rules, service: &str) -> String {
    fetched_from(server, rules, &format!("{service}/check")).await
}

async fn fetched_from(server: &Server, rules: &Rules, what: &str) -> String {
    let world = World::new(server.address, rules).await;
    let mut client = Client::connect(world.address).await;
    client.send(told("/x", &format!("fetch={what}"))).await;
    assert_eq!(client.answer().await.status, 200);
    let head = server.next().await;
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("x-fetched: "));
    line.expect("an answer").to_owned()
}

#[tokio::test]
async fn a_filter_asks_a_service_as_its_pod() {
    let server = Server::landing().await;
    let authz = Server::landing_at(TIEFIGHTER).await;
    let rules = asking(&authz, vec![2]);
    for name in [
        "authz:80",
        "authz.default:80",
        "authz.default.svc.cluster.local:80",
    ] {
        assert_eq!(fetched(&server, &rules, name).await, "200 Ship landed");
        let asked = authz.next().await;
        assert!(asked.starts_with("GET /check HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("\r\nhost: authz.default:80\r\n"), "{asked}");
        assert!(asked.contains("\r\nx-request-id: "), "{asked}");
    }
    assert_eq!(authz.peers(), [IpAddr::from(DEATHSTAR); 3]);
}

#[tokio::test]
async fn what_is_not_declared_or_not_allowed_is_not_asked() {
    let server = Server::landing().await;
    let authz = Server::landing_at(TIEFIGHTER).await;
    let rules = asking(&authz, vec![2]);
    let undeclared = fetched(&server, &rules, "other.default:80").await;
    assert!(
        undeclared.contains("callouts do not name the Service"),
        "{undeclared}"
    );
    let mut secret = rules.clone();
    secret.filters[0].callouts.clear();
    let undeclared = fetched(&server, &secret, "authz:80").await;
    assert!(
        undeclared.contains("callouts do not name the Service"),
        "{undeclared}"
    );
    let denied = fetched(&server, &asking(&authz, vec![1]), "authz:80").await;
    assert!(denied.contains("policy"), "{denied}");
    let mut nobody = rules.clone();
    nobody.callouts[0].backends.clear();
    let nobody = fetched(&server, &nobody, "authz:80").await;
    assert!(
        nobody.contains("callouts do not name the Service"),
        "{nobody}"
    );
    authz.assert_nothing_arrived().await;
}

#[tokio::test]
async fn rules_of_http_hold_for_filters_too() {
    let server = Server::landing().await;
    let authz = Server::landing_at(TIEFIGHTER).await;
    let mut rules = asking(&authz, vec![2]);
    let only = |path| PortPolicy {
        endpoint_id: 2,
        direction: Direction::Egress.into(),
        port_first: authz.address.port().into(),
        port_last: authz.address.port().into(),
        rules: vec![PeerRule {
            http: vec![rule("GET", path)],
            ..Default::default()
        }],
    };
    rules.more_policies = vec![only("/nothing")];
    let denied = fetched(&server, &rules, "authz:80").await;
    assert!(denied.contains("policy"), "{denied}");
    authz.assert_nothing_arrived().await;
    rules.more_policies = vec![only("/check")];
    assert_eq!(
        fetched(&server, &rules, "authz:80").await,
        "200 Ship landed"
    );
    authz.next().await;
    // What is judged is where it leads to.
    rules.more_policies = vec![only("/check/.*")];
    let denied = fetched_from(&server, &rules, "authz:80/check/../nothing").await;
    assert!(denied.contains("policy"), "{denied}");
    let refused = fetched_from(&server, &rules, "authz:80/check/..%2fnothing").await;
    assert!(refused.contains("path"), "{refused}");
    authz.assert_nothing_arrived().await;
}

#[tokio::test]
async fn a_pod_behind_filters_is_not_asked_past_them() {
    let server = Server::landing().await;
    let authz = Server::landing_at(TIEFIGHTER).await;
    let mut rules = asking(&authz, vec![2]);
    rules.more_chains = vec![FilterChain {
        endpoint_id: 1,
        direction: Direction::Ingress.into(),
        port_first: authz.address.port().into(),
        port_last: authz.address.port().into(),
        steps: vec![step(FilterPhase::AfterPolicy, 0)],
    }];
    let refused = fetched(&server, &rules, "authz:80").await;
    assert!(refused.contains("has filters"), "{refused}");
    authz.assert_nothing_arrived().await;
}
