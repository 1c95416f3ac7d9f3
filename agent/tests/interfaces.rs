//! Finding the interfaces of pods, in a network namespace of its own: what the
//! test makes is gone with it. Needs root.

#![expect(
    clippy::expect_used,
    reason = "what a test needs and does not get fails it"
)]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinSet;
use weft_agent::endpoint::{Interface, Interfaces, Monitor};

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "WEFT_TEST_INSIDE_NAMESPACE";
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const POD_MAC: [u8; 6] = [2, 0, 10, 244, 1, 10];
const HOST_MAC: [u8; 6] = [2, 255, 10, 244, 1, 10];
const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn a_pods_interface_is_found_and_lost() {
    in_namespace("a_pods_interface_is_found_and_lost", pod_comes_and_goes());
}

#[test]
fn the_nodes_own_addresses_are_followed() {
    in_namespace("the_nodes_own_addresses_are_followed", own_addresses());
}

/// Runs the test of this name in a process inside a new namespace.
fn in_namespace(test: &str, inside: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        return runtime.block_on(inside);
    }
    let this = std::env::current_exe().expect("this test's path");
    let status = Command::new("unshare")
        .arg("--net")
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare, of util-linux");
    assert!(status.success(), "inside the namespace (needs root)");
}

async fn pod_comes_and_goes() {
    let mut tasks = JoinSet::new();
    let mut monitor = Monitor::open(&mut tasks).expect("a monitor");
    let (connection, handle, _) = rtnetlink::new_connection().expect("netlink");
    tasks.spawn(connection);
    assert_eq!(monitor.read().await.expect("read").of(POD), None);

    let ifindex = add_veth(&handle).await;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(POD, 32)
        .output_interface(ifindex)
        .build();
    handle.route().add(route).execute().await.expect("a route");
    // Without the pod's hardware address it is not complete.
    assert_eq!(monitor.read().await.expect("read").of(POD), None);
    handle
        .neighbours()
        .add(ifindex, POD.into())
        .link_layer_address(&POD_MAC)
        .execute()
        .await
        .expect("a permanent neighbour");
    let expected = Interface {
        ifindex,
        mac: POD_MAC,
        host_mac: HOST_MAC,
    };
    until(&mut monitor, |found| found.of(POD) == Some(expected)).await;

    handle.link().del(ifindex).execute().await.expect("removed");
    until(&mut monitor, |found| found.of(POD).is_none()).await;
}

async fn own_addresses() {
    let mut tasks = JoinSet::new();
    let mut monitor = Monitor::open(&mut tasks).expect("a monitor");
    let (connection, handle, _) = rtnetlink::new_connection().expect("netlink");
    tasks.spawn(connection);
    let marks = weft_datapath::Marks::default();
    let folder = tempfile::tempdir().expect("a folder");
    // The proxy's route delivers every address to the node: none is its own for
    // that.
    weft_datapath::NodeSettings::new(&marks)
        .apply(&folder.path().join("node.json"))
        .expect("settings");
    let loopback = LinkUnspec::new_with_index(1).up().build();
    handle.link().set(loopback).execute().await.expect("up");
    let none = monitor.read().await.expect("read");
    assert_eq!(none.own(), &BTreeSet::new());

    let ifindex = add_veth(&handle).await;
    let bridge = Ipv4Addr::new(172, 17, 0, 1);
    let addresses = handle.address();
    let added = addresses.add(ifindex, bridge.into(), 16).execute();
    added.await.expect("an address");
    let all = ["172.17.0.1/32", "172.17.255.255/32"].map(|text| text.parse().expect("a range"));
    let all = BTreeSet::from(all);
    until(&mut monitor, |found| found.own() == &all).await;

    handle.link().del(ifindex).execute().await.expect("removed");
    until(&mut monitor, |found| found.own().is_empty()).await;
}

/// Waits for announcements until the node looks as expected.
async fn until(monitor: &mut Monitor, expected: impl Fn(&Interfaces) -> bool) {
    let seen = async {
        while !expected(&monitor.read().await.expect("read")) {
            monitor.changed().await;
        }
    };
    tokio::time::timeout(DEADLINE, seen)
        .await
        .expect("announced in time");
}

/// The two ends of a pod's cable; the index of the host's.
async fn add_veth(handle: &Handle) -> u32 {
    let veth = LinkVeth::new("lxc0", "eth0")
        .address(HOST_MAC.to_vec())
        .up();
    handle
        .link()
        .add(veth.build())
        .execute()
        .await
        .expect("a veth pair");
    let find = |name: &str| handle.link().get().match_name(name.to_owned()).execute();
    use futures_util::TryStreamExt as _;
    let mut indices = Vec::new();
    for name in ["lxc0", "eth0"] {
        let link = find(name).try_next().await.expect("listed").expect("there");
        indices.push(link.header.index);
    }
    for index in &indices {
        let up = LinkUnspec::new_with_index(*index).up().build();
        handle.link().set(up).execute().await.expect("up");
    }
    indices[0]
}
