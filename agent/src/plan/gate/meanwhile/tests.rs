use std::time::Instant;

use proptest::prelude::*;
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
    let entries = meanwhile(wanted, &early, held, usize::MAX).unwrap();
    let again = meanwhile(wanted, &early, &entries, usize::MAX).unwrap();
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

/// As when a filter comes with the first rule that allows something.
#[test]
fn what_is_newly_allowed_for_the_proxy_to_see_is_closed() {
    const CLOSED: Verdict = Verdict::Redirect(CLOSED_PORT);
    let wanted = [all(0, Allow), port(0, 80, PROXY)];
    let stays = (0, 0, 0, Allow);
    assert_eq!(held_back(&wanted, &[]), [stays, (0, 80, 16, CLOSED)]);
    assert_eq!(held_back(&wanted, &[all(0, Allow)]), [stays]);
    // Who was allowed still is.
    let held = [all(300, Allow), port(301, 80, Allow)];
    let entries = held_back(&wanted, &held);
    assert_eq!(
        entries,
        [
            stays,
            (0, 80, 16, CLOSED),
            (300, 80, 16, Allow),
            (301, 80, 16, Allow)
        ]
    );
    let early = [wanted[1]];
    let entries = meanwhile(&wanted, &early, &held, usize::MAX).unwrap();
    let table = Table::of(&entries);
    let verdict = |peer| {
        table
            .decides(&port(peer, 80, PROXY))
            .map(|entry| entry.verdict)
    };
    assert_eq!(
        [300, 301, 302].map(verdict),
        [Some(Allow), Some(Allow), Some(CLOSED)]
    );
    assert_eq!(meanwhile(&wanted, &early, &held, 3), None, "no room");
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

#[test]
fn a_product_of_new_and_old_entries_finds_no_room() {
    const ROOM: usize = 16_384;
    let held: Vec<_> = (0..2_000)
        .map(|number| port(0, 2 * number + 1, Allow))
        .collect();
    let wanted = |peers: u32| -> Vec<_> {
        let bits =
            |peer| (1_u8..=16).map(move |bits| range(peer, 1_u16 << (16 - bits), bits, PROXY));
        (300..300 + peers).flat_map(bits).collect()
    };
    let few = wanted(4);
    let entries = meanwhile(&few, &few, &held, ROOM).unwrap();
    assert_eq!(entries.len(), 8_000);
    let began = Instant::now();
    let many = wanted(500);
    assert_eq!(meanwhile(&many, &many, &held, ROOM), None);
    // Nor do old entries cost anything that the new ones do not meet.
    let beside: Vec<_> = (0..8_000)
        .map(|number| port(0, 2 * number, PROXY))
        .collect();
    let held: Vec<_> = (300..8_300).map(|peer| port(peer, 65_535, Allow)).collect();
    assert_eq!(meanwhile(&beside, &beside, &held, ROOM), Some(vec![]));
    assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
}

/// The same by a look at every pair.
fn plainly(early: &[PolicyEntry], held: &[PolicyEntry]) -> BTreeSet<Key> {
    let covers = |one: Prefix, other: Prefix| covering(other).any(|outer| outer == one);
    let mut places = BTreeSet::new();
    for new in early {
        for old in held.iter().filter(|old| {
            old.direction == new.direction
                && (old.identity == new.identity || old.identity == 0 || new.identity == 0)
        }) {
            let inner = match (
                covers(prefix(old), prefix(new)),
                covers(prefix(new), prefix(old)),
            ) {
                (true, _) => new,
                (_, true) => old,
                _ => continue,
            };
            let identity = old.identity.max(new.identity);
            places.insert(key(&PolicyEntry { identity, ..*inner }));
        }
    }
    places
}

proptest! {
    #[test]
    fn every_pair_that_meets_is_found(
        new in prop::collection::vec((0_u32..3, 0_u16..8, 0_u8..=16, 0_u8..4), 0..8),
        old in prop::collection::vec((0_u32..3, 0_u16..8, 0_u8..=16, 0_u8..4), 0..8),
    ) {
        let entries = |list: Vec<(u32, u16, u8, u8)>, verdict| -> Vec<_> {
            let of = |(identity, high, bits, protocol): (u32, u16, u8, u8)| match protocol {
                0 => all(identity, verdict),
                _ => range(identity, first(high << 13 | high, bits), bits, verdict),
            };
            list.into_iter().map(of).collect()
        };
        let (new, old) = (entries(new, PROXY), entries(old, Allow));
        let found = meanwhile(&new, &new, &old, usize::MAX).unwrap();
        let found: BTreeSet<Key> = found.iter().map(key).collect();
        prop_assert_eq!(found, plainly(&new, &old));
    }
}
