use weft_core::model::{self, EndpointId};
use weft_core::policy::http::HttpRule;
use weft_core::policy::{PeerRule, PeerSet};
use weft_datapath::{Direction, Verdict};

use super::*;

const EP: u32 = 7;

fn rule(peers: &[u32], methods: &[&str]) -> PeerRule {
    let these = peers.iter().copied().map(NumericIdentity);
    PeerRule {
        peers: match peers {
            [] => PeerSet::Any,
            _ => PeerSet::These(these.collect()),
        },
        deny: false,
        http: methods
            .iter()
            .map(|method| HttpRule {
                method: Some((*method).into()),
                ..HttpRule::default()
            })
            .collect(),
        rule: None,
    }
}

fn policy(first: u16, last: u16, rules: &[PeerRule]) -> PortPolicy {
    PortPolicy {
        endpoint: EndpointId(EP),
        direction: model::Direction::Ingress,
        first,
        last,
        rules: rules.into(),
    }
}

fn entry(identity: u32, port: u16, port_bits: u8) -> PolicyEntry {
    PolicyEntry {
        identity,
        direction: Direction::Ingress,
        protocol: 6,
        port,
        port_bits,
        verdict: Verdict::Redirect(15001),
        priority: 90,
        matched: 24,
        rule: 1,
    }
}

fn covering(ports: &[(u16, u16)]) -> (Coverage, Vec<PortPolicy>) {
    let rules = [rule(&[], &["GET"])];
    let ports = ports
        .iter()
        .map(|(first, last)| policy(*first, *last, &rules));
    let ports: Vec<_> = ports.collect();
    (Coverage::of([EP], &ports), ports)
}

fn judges(coverage: &Coverage, entry: &PolicyEntry, wanted: &[PortPolicy]) -> bool {
    coverage.judges(EP, entry, wanted, &mut Agreements::default())
}

#[test]
fn a_range_covers_the_prefixes_inside_it() {
    let (range, wanted) = covering(&[(8000, 8999)]);
    let holds = |coverage: &Coverage, port, bits| {
        let entry = entry(0, port, bits);
        let judges = judges(coverage, &entry, &wanted);
        assert_eq!(judges, coverage.has_rules(EP, &entry));
        judges
    };
    assert!(holds(&range, 8192, 7));
    assert!(holds(&range, 8000, 16));
    assert!(!holds(&range, 8192, 3));
    assert!(!holds(&range, 9000, 16));
    let (split, _) = covering(&[(8000, 8079), (8081, 8999), (8080, 8080)]);
    assert!(holds(&split, 8064, 10));
    let (gap, _) = covering(&[(8000, 8079), (8081, 8999)]);
    assert!(!holds(&gap, 8064, 10));
}

#[test]
fn the_other_direction_and_another_endpoint_are_not_covered() {
    let (coverage, wanted) = covering(&[(80, 80)]);
    let egress = PolicyEntry {
        direction: Direction::Egress,
        ..entry(0, 80, 16)
    };
    assert!(!coverage.has_rules(EP, &egress));
    assert!(!coverage.has_rules(EP + 1, &entry(0, 80, 16)));
    assert!(!judges(&coverage, &egress, &wanted));
}

/// Whether the one set of rules does for the other, for this identity.
fn does(there: &[PeerRule], here: &[PeerRule], identity: u32) -> bool {
    let coverage = Coverage::of([EP], &[policy(80, 80, there)]);
    judges(&coverage, &entry(identity, 80, 16), &[policy(80, 80, here)])
}

#[test]
fn of_one_peer_only_what_is_said_of_it_counts() {
    let get = rule(&[300], &["GET"]);
    let others = [rule(&[301], &["PUT"]), get.clone()];
    assert!(does(&others, std::slice::from_ref(&get), 300));
    assert!(!does(&others, std::slice::from_ref(&get), 301));
    // Neither more nor less may pass.
    let more = [rule(&[300], &["GET", "PUT"])];
    assert!(!does(&more, std::slice::from_ref(&get), 300));
    assert!(!does(std::slice::from_ref(&get), &more, 300));
    let denied = PeerRule {
        deny: true,
        ..rule(&[300], &[])
    };
    assert!(!does(
        &[get.clone(), denied],
        std::slice::from_ref(&get),
        300
    ));
    // What everybody may is said of it too.
    let open = [rule(&[], &[]), get.clone()];
    assert!(!does(&open, std::slice::from_ref(&get), 300));
    assert!(does(&open, &open, 300));
}

#[test]
fn for_any_peer_nobody_may_more_and_everybody_what_all_may() {
    let all = rule(&[], &["GET"]);
    let some = |peers: &[u32]| [all.clone(), rule(peers, &["PUT"])];
    assert!(does(&some(&[300]), &some(&[300]), 0));
    assert!(does(&some(&[300]), &some(&[300, 301]), 0), "one has come");
    assert!(!does(&some(&[300, 301]), &some(&[300]), 0), "one is gone");
    assert!(does(std::slice::from_ref(&all), &some(&[300]), 0));
    assert!(!does(&some(&[300])[1..], &some(&[300]), 0));
    assert!(!does(&[rule(&[], &["PUT"])], std::slice::from_ref(&all), 0));
}

/// As many rules as a pod may have on a port, each for a peer of its own, and
/// as many entries: one look at the lists has to do for all of them.
#[test]
fn many_rules_and_many_entries_are_no_product() {
    const PEERS: u32 = 16_000;
    let list = |last: &str| {
        let methods = (0..PEERS).map(|peer| if peer + 1 == PEERS { last } else { "GET" });
        let rules = (300..)
            .zip(methods)
            .map(|(peer, method)| rule(&[peer], &[method]));
        rules.collect::<Vec<_>>()
    };
    let coverage = Coverage::of([EP], &[policy(80, 80, &list("GET"))]);
    let wanted = [policy(80, 80, &list("PUT"))];
    let mut agreements = Agreements::default();
    let began = std::time::Instant::now();
    for peer in 300..300 + PEERS {
        let judged = coverage.judges(EP, &entry(peer, 80, 16), &wanted, &mut agreements);
        assert_eq!(judged, peer + 1 < 300 + PEERS);
    }
    assert!(!coverage.judges(EP, &entry(0, 80, 16), &wanted, &mut agreements));
    // The product takes half a minute.
    assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
}
