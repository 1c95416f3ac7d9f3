use weft_datapath::Direction;

use super::*;

const PROXY: Verdict = Verdict::Redirect(15001);

/// Of a range of TCP ports, by its first port and the bits that count.
fn range(identity: u32, port: u16, port_bits: u8, verdict: Verdict) -> PolicyEntry {
    PolicyEntry {
        identity,
        direction: Direction::Egress,
        protocol: 6,
        port,
        port_bits,
        verdict,
        priority: if verdict == PROXY { 90 } else { 0 },
        matched: 8 + port_bits,
        rule: 1,
    }
}

fn port(identity: u32, port: u16, verdict: Verdict) -> PolicyEntry {
    range(identity, port, 16, verdict)
}

/// Of all traffic.
fn all(identity: u32, verdict: Verdict) -> PolicyEntry {
    PolicyEntry {
        protocol: 0,
        matched: 0,
        ..range(identity, 0, 0, verdict)
    }
}

/// Places and verdicts of what is held while all new redirects wait.
fn held_back(wanted: &[PolicyEntry], held: &[PolicyEntry]) -> Vec<(u32, u16, u8, Verdict)> {
    let early = |entry: &&PolicyEntry| entry.verdict == PROXY && !held.contains(entry);
    let early: Vec<_> = wanted.iter().filter(early).copied().collect();
    let entries = meanwhile(wanted, &early, held);
    let again = meanwhile(wanted, &early, &entries);
    assert_eq!(entries, again, "it stays as it is");
    let told = |entry: &PolicyEntry| {
        let PolicyEntry {
            identity,
            port,
            port_bits,
            verdict,
            ..
        } = *entry;
        (identity, port, port_bits, verdict)
    };
    entries.iter().map(told).collect()
}

use Verdict::{Allow, Deny};

#[test]
fn one_peers_port_is_treated_as_all_its_traffic_was() {
    let wanted = [port(300, 80, PROXY), all(301, Allow)];
    let as_before = |held: &[PolicyEntry]| held_back(&wanted, held);
    let stays = (301, 0, 0, Allow);
    assert_eq!(as_before(&[all(0, Allow)]), [(300, 80, 16, Allow), stays]);
    assert_eq!(as_before(&[all(300, Allow)]), [(300, 80, 16, Allow), stays]);
    assert_eq!(as_before(&[]), [stays]);
    assert_eq!(
        as_before(&[all(300, Deny), all(0, Allow)]),
        [(300, 80, 16, Deny), stays]
    );
    assert_eq!(
        as_before(&[all(300, Allow), port(0, 80, Deny)]),
        [(300, 80, 16, Deny), stays]
    );
    assert_eq!(
        as_before(&[all(300, Allow), port(0, 80, PROXY)]),
        [(300, 80, 16, PROXY), stays]
    );
}

#[test]
fn a_range_is_treated_port_by_port() {
    let wanted = [range(0, 8000, 13, PROXY)];
    let held = [all(0, Allow), port(0, 8003, Deny), port(300, 8004, PROXY)];
    assert_eq!(
        held_back(&wanted, &held),
        [
            (0, 8000, 13, Allow),
            (0, 8003, 16, Deny),
            (300, 8004, 16, PROXY)
        ]
    );
    // Of a longer range only the part in question.
    assert_eq!(
        held_back(&wanted, &[range(300, 0, 1, Allow)]),
        [(300, 8000, 13, Allow)]
    );
    assert_eq!(held_back(&wanted, &[port(300, 8008, Allow)]), []);
}

#[test]
fn what_other_wanted_entries_say_holds_at_once() {
    let held = [all(0, Allow), port(300, 80, Allow), port(302, 80, Deny)];
    let wanted = [
        port(0, 80, PROXY),
        all(300, Deny),
        port(300, 80, Deny),
        all(301, Deny),
        port(302, 80, Allow),
    ];
    assert_eq!(
        held_back(&wanted, &held),
        [
            (0, 80, 16, Allow),
            (300, 0, 0, Deny),
            (300, 80, 16, Deny),
            (301, 0, 0, Deny),
            (302, 80, 16, Allow),
        ]
    );
    // A longer entry that is held must not hide what denies.
    let wanted = [port(0, 80, PROXY), all(300, Deny)];
    assert_eq!(
        held_back(&wanted, &[port(300, 80, Allow)]),
        [(300, 0, 0, Deny), (300, 80, 16, Deny)]
    );
}

#[test]
fn the_other_direction_is_as_wanted() {
    let ingress = PolicyEntry {
        direction: Direction::Ingress,
        ..all(0, Allow)
    };
    let wanted = [port(300, 80, PROXY)];
    assert_eq!(held_back(&wanted, &[ingress]), []);
    assert_eq!(held_back(&[ingress], &[all(0, Allow)]), [(0, 0, 0, Allow)]);
}
