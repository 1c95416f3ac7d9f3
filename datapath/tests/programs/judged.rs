//! Packets that need nothing more on their way out.

use weft_datapath::testing::Outcome;
use weft_datapath::{Config, Direction, DropReason, PolicyEntry, Verdict};

use crate::support::*;

fn to(peer: u32) -> [PolicyEntry; 1] {
    [entry(Direction::Egress, peer, 80, Verdict::Allow)]
}

/// Marks of packets of one connection, as `from_pod` leaves them.
fn marks(change: impl Fn(&mut Config), dst: std::net::Ipv4Addr, peer: u32) -> [u32; 3] {
    let mut bench = bench_with(change);
    set_policy(&mut bench, &to(peer));
    [SYN, ACK, ACK].map(|flags| {
        let segment = sent((dst, 80), flags);
        let inside = passes(&mut bench, "from_pod", &segment);
        // What is news there is reported in the overlay.
        let overlay = passes(&mut bench, "to_overlay", &inside.packet);
        assert_eq!(overlay.packet, inside.packet);
        inside.mark
    })
}

#[test]
fn a_known_packet_to_another_nodes_pod_is_done_with() {
    assert_eq!(marks(|_| {}, REMOTE, REMOTE_IDENTITY), [0, 0, JUDGED]);
    let overlay = |config: &mut Config| config.overlay = Some(8472);
    assert_eq!(marks(overlay, REMOTE, REMOTE_IDENTITY), [0, 0, JUDGED]);
}

#[test]
fn what_takes_the_nodes_address_is_not() {
    let unmasked = |config: &mut Config| config.masquerade = false;
    assert_eq!(marks(unmasked, WORLD, 2), [0, 0, JUDGED]);
    let mut bench = bench();
    set_policy(&mut bench, &to(2));
    for flags in [SYN, ACK, ACK, ACK] {
        let run = passes(&mut bench, "from_pod", &sent((WORLD, 80), flags));
        assert_eq!(run.mark, 0);
    }
}

#[test]
fn what_policy_refuses_meanwhile_is_not() {
    let mut bench = bench();
    set_policy(&mut bench, &to(REMOTE_IDENTITY));
    for flags in [SYN, ACK, ACK] {
        passes(&mut bench, "from_pod", &sent((REMOTE, 80), flags));
    }
    set_policy(&mut bench, &[]);
    let segment = sent((REMOTE, 80), ACK);
    drops(&mut bench, "from_pod", &segment, DropReason::PolicyDenied);
}

#[test]
fn the_mark_is_what_the_way_out_goes_by() {
    let mut bench = bench();
    let stray = sent((REMOTE, 80), ACK);
    for program in ["to_net", "to_overlay"] {
        drops(&mut bench, program, &stray, DropReason::UnknownSender);
        let run = bench.run_marked(program, &stray, JUDGED, 1).unwrap();
        assert_eq!(run.outcome, Outcome::Pass, "{program}");
        assert_eq!(run.packet, stray, "{program}");
        // Into a pod nothing goes by it.
        let run = bench.run_marked("to_pod", &stray, JUDGED, 1).unwrap();
        assert_eq!(run.outcome, Outcome::Drop);
    }
}
