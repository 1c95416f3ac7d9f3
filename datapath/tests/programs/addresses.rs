//! Whose address is whose, above all when the table is full.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use weft_datapath::{Address, IPCACHE_ENTRIES, Ipcache, Verdict};

use crate::support::*;

const CAPACITY: usize = IPCACHE_ENTRIES as usize;

fn address(identity: u32) -> Address {
    Address {
        identity,
        node: None,
    }
}

/// So many addresses of 100.64.0.0/10.
fn crowd(count: usize) -> Vec<(Ipv4Net, Address)> {
    let first = u32::from(Ipv4Addr::new(100, 64, 0, 0));
    let addresses = (first..).take(count).map(Ipv4Addr::from);
    addresses.map(|ip| (ip.into(), address(5000))).collect()
}

fn apply(ipcache: &mut Ipcache, own: &[(Ipv4Net, Address)], crowd: &[(Ipv4Net, Address)]) -> bool {
    ipcache.apply(&[own, crowd].concat()).is_ok()
}

#[test]
fn in_a_full_table_no_address_keeps_an_identity_that_it_lost() {
    let mut bench = bench();
    set_policy(
        &mut bench,
        &[entry(
            weft_datapath::Direction::Ingress,
            REMOTE_IDENTITY,
            80,
            Verdict::Allow,
        )],
    );
    let mut ipcache = bench.datapath.ipcache().unwrap();
    let mine = |identity| (Ipv4Net::from(REMOTE), address(identity));
    assert!(!apply(
        &mut ipcache,
        &[mine(REMOTE_IDENTITY)],
        &crowd(CAPACITY)
    ));
    let full = ipcache.usage();
    assert_eq!((full.entries, full.capacity as usize), (CAPACITY, CAPACITY));
    assert_eq!(full.refused, 1);

    // The address is another pod's now.
    assert!(apply(&mut ipcache, &[mine(401)], &crowd(CAPACITY - 1)));
    let asked = received((REMOTE, 5000), 80, SYN);
    let event = drops(
        &mut bench,
        "from_net",
        &asked,
        weft_datapath::DropReason::PolicyDenied,
    );
    assert_eq!(event.src_identity, 401);
    // And nobody's, although something new finds no room.
    assert!(!apply(&mut ipcache, &[], &crowd(CAPACITY + 1)));
    assert_eq!(ipcache.get(REMOTE.into()), None);
    let asked = received((REMOTE, 5001), 80, SYN);
    let event = drops(
        &mut bench,
        "from_net",
        &asked,
        weft_datapath::DropReason::PolicyDenied,
    );
    assert_ne!(event.src_identity, 401);
    assert_eq!(ipcache.usage().refused, 2);
}
