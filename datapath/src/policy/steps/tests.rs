use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use weft_core::model::{Direction, NumericIdentity};
use weft_core::policy::testing::cases::{Case, cases};
use weft_core::policy::{Compiler, RuleTable, Subject};

use super::*;
use crate::policy::PolicyEntry;

const ENDPOINT: u32 = 7;
const PROXY: u16 = 15001;
/// Beside the picked rules: filters are attached.
const INTERCEPTED: u32 = 64;

/// What one of the two lookups finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Deny,
    Redirect,
    Allow,
}

fn found(value: &PolicyValue) -> Found {
    match (denies(value), redirects(value)) {
        (true, _) => Found::Deny,
        (false, true) => Found::Redirect,
        (false, false) => Found::Allow,
    }
}

/// A packet, as the map is asked about it.
#[derive(Clone, Copy, Debug)]
struct Packet {
    direction: u8,
    identity: u32,
    protocol: u8,
    port: u16,
}

/// The entry for one identity.
fn longest(entries: &Entries, packet: Packet) -> Option<Found> {
    let covers = |key: &&RawKey| {
        let data = key.data;
        let bits = key.prefix_len.saturating_sub(80).min(16);
        let shift = |port: u16| u32::from(port) >> (16 - bits);
        data.direction == packet.direction
            && data.identity == packet.identity
            && (key.prefix_len == 72
                || data.protocol == packet.protocol
                    && shift(u16::from_be(data.port)) == shift(packet.port))
    };
    let longest = entries
        .keys()
        .filter(covers)
        .max_by_key(|key| key.prefix_len);
    longest.map(|key| found(&entries[key]))
}

fn lookups(entries: &Entries, packet: Packet) -> [Option<Found>; 2] {
    let any = Packet {
        identity: 0,
        ..packet
    };
    [longest(entries, packet), longest(entries, any)]
}

fn passes(lookups: [Option<Found>; 2]) -> bool {
    !lookups.contains(&Some(Found::Deny)) && lookups != [None; 2]
}

/// Whether the proxy is not asked although nothing allows it without.
fn goes_round(lookups: [Option<Found>; 2]) -> bool {
    passes(lookups) && !lookups.contains(&Some(Found::Redirect))
}

fn compiled(case: &Case, picked: u32) -> Entries {
    let (identities, _) = case.identities();
    let subject = Subject {
        id: Case::SUBJECT,
        labels: &case.pods[0].labels,
        named_ports: &case.pods[0].ports,
        intercepts: match picked & INTERCEPTED {
            0 => &[],
            _ => &case.intercepts,
        },
    };
    let rules = case.rules.iter().enumerate();
    let rules = rules.filter(|(index, _)| picked >> index & 1 == 1);
    let rules = rules.map(|(_, rule)| rule);
    let policy = Compiler::new(&identities).compile(&subject, rules, &mut RuleTable::default());
    let entries = policy.entries.iter();
    let raw = entries.map(|entry| PolicyEntry::from_compiled(entry, PROXY).to_raw(ENDPOINT));
    raw.map(|raw| raw.expect("an entry of the map")).collect()
}

fn packets(case: &Case) -> Vec<Packet> {
    let (_, addresses) = case.identities();
    let tuples = case.tuples.iter();
    tuples
        .map(|tuple| Packet {
            direction: match tuple.direction {
                Direction::Ingress => crate::Direction::Ingress as u8,
                Direction::Egress => crate::Direction::Egress as u8,
            },
            identity: match case.identity(tuple, &addresses) {
                NumericIdentity(identity) => identity,
            },
            protocol: tuple.protocol,
            port: tuple.port,
        })
        .collect()
}

/// Takes every step and looks at every packet after each.
fn check(case: &Case, before: u32, after: u32) -> Result<(), TestCaseError> {
    let (old, new) = (compiled(case, before), compiled(case, after));
    let packets = packets(case);
    let mut held = old.clone();
    for step in steps(&old, &new) {
        match step {
            Step::Put(key, value) => {
                prop_assert_ne!(held.insert(key, value), Some(value), "written for nothing");
            }
            Step::Remove(key) => prop_assert!(held.remove(&key).is_some()),
        }
        for packet in &packets {
            let [was, is, will] = [&old, &held, &new].map(|entries| lookups(entries, *packet));
            prop_assert!(
                !passes(is) || passes(was) || passes(will),
                "{:?} passes after {:?}: {:?} {:?} {:?}",
                packet,
                step,
                was,
                is,
                will
            );
            prop_assert!(
                passes(is) || !passes(was) || !passes(will),
                "{:?} is denied after {:?}: {:?} {:?} {:?}",
                packet,
                step,
                was,
                is,
                will
            );
            // A plain rule beside one for the proxy lets everything through.
            let plain = |lookups: [Option<Found>; 2]| lookups.contains(&Some(Found::Allow));
            prop_assert!(
                !goes_round(is) || plain(was) || plain(will),
                "{:?} goes round the proxy after {:?}: {:?} {:?} {:?}",
                packet,
                step,
                was,
                is,
                will
            );
        }
    }
    prop_assert_eq!(held, new);
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 100, failure_persistence: None, ..Config::default() })]

    #[test]
    fn at_no_step_is_more_let_through_or_denied_than_by_old_and_new(
        case in cases(6, 60), before in 0_u32..128, after in 0_u32..128,
    ) {
        check(&case, before, after)?;
    }
}

#[test]
fn after_a_refusal_only_what_takes_permissions_away_goes_on() {
    let key = |identity: u32| RawKey {
        prefix_len: 72,
        data: weft_datapath_common::PolicyKey {
            endpoint: ENDPOINT,
            identity,
            ..Default::default()
        },
    };
    let deny = PolicyValue {
        flags: policy_flags::DENY,
        ..PolicyValue::default()
    };
    let redirect = PolicyValue {
        proxy_port: PROXY,
        ..PolicyValue::default()
    };
    let allow = PolicyValue::default();
    let held = Entries::from([(key(1), deny), (key(2), allow)]);
    let loosens = |step: Step| step.loosens(&held);
    assert!(loosens(Step::Put(key(3), allow)));
    assert!(loosens(Step::Put(key(1), redirect)));
    assert!(loosens(Step::Remove(key(1))));
    assert!(!loosens(Step::Put(key(3), deny)));
    assert!(!loosens(Step::Put(key(2), redirect)));
    assert!(!loosens(Step::Remove(key(2))));
}
