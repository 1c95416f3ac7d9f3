//! Who reaches whom, between real pods.

use std::net::{IpAddr, SocketAddr};

use weft_datapath::{Direction, DropReason, EventKind, Verdict};

use crate::cluster::{Cluster, Routing, WORLD, entry};
use crate::support::{Echo, ask, eventually};

/// Two clients and a server; `same` puts them on one node.
fn allow_and_deny(routing: Routing, same: bool, redirect_peer: bool) {
    let mut cluster = Cluster::with(routing, |config| config.redirect_peer = redirect_peer);
    let server = cluster.pod(0, 300);
    let at = if same { 0 } else { 1 };
    let (friend, stranger) = (cluster.pod(at, 301), cluster.pod(at, 302));
    let echo = Echo::start(&server.namespace, server.port(0));
    let port = echo.addr();
    for client in [&friend, &stranger] {
        assert_eq!(client.namespace.talks_to(port).ip(), client.addr());
        let socket = client.namespace.udp(client.addr());
        assert_eq!(
            ask(&socket, port).unwrap(),
            (socket.local_addr().unwrap(), port.into())
        );
    }
    let allow = entry(Direction::Ingress, 301, port.port(), Verdict::Allow);
    cluster.police(&server, Direction::Ingress, &[allow]);
    assert_eq!(friend.namespace.talks_to(port).ip(), friend.addr());
    stranger.namespace.is_refused_by(port);
    let drop = cluster.nodes[0].wait_for_drop(stranger.addr(), server.addr());
    assert_eq!(drop.kind, EventKind::Drop(DropReason::PolicyDenied));
    assert_eq!((drop.src_identity, drop.dst_identity), (302, 300));
    assert_eq!(
        (drop.endpoint, drop.direction),
        (server.endpoint.id, Direction::Ingress)
    );
}

#[test]
fn same_node() {
    allow_and_deny(Routing::Native, true, true);
}

#[test]
fn same_node_through_the_stack() {
    allow_and_deny(Routing::Native, true, false);
}

#[test]
fn across_nodes_with_routes() {
    allow_and_deny(Routing::Native, false, true);
}

#[test]
fn across_nodes_with_routes_through_the_stack() {
    allow_and_deny(Routing::Native, false, false);
}

#[test]
fn across_nodes_with_vxlan() {
    allow_and_deny(Routing::Vxlan, false, true);
}

#[test]
fn across_nodes_with_vxlan_through_the_stack() {
    allow_and_deny(Routing::Vxlan, false, false);
}

#[test]
fn egress_is_judged_where_it_begins() {
    let mut cluster = Cluster::new(Routing::Vxlan);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(1, 301));
    let (open, shut) = (
        Echo::start(&server.namespace, server.port(0)),
        Echo::start(&server.namespace, server.port(0)),
    );
    let allow = entry(Direction::Egress, 301, open.addr().port(), Verdict::Allow);
    cluster.police(&client, Direction::Egress, &[allow]);
    client.namespace.talks_to(open.addr());
    client.namespace.is_refused_by(shut.addr());
    let drop = cluster.nodes[0].wait_for_drop(client.addr(), server.addr());
    assert_eq!(
        (drop.endpoint, drop.direction),
        (client.endpoint.id, Direction::Egress)
    );
}

#[test]
fn the_world_sees_the_node() {
    for routing in [Routing::Native, Routing::Vxlan] {
        let mut cluster = Cluster::new(routing);
        let pod = cluster.pod(0, 300);
        let echo = Echo::start(&cluster.world, std::net::SocketAddrV4::new(WORLD, 0));
        let seen = pod.namespace.talks_to(echo.addr());
        assert_eq!(
            seen.ip(),
            IpAddr::from(cluster.nodes[0].addr),
            "{routing:?}"
        );
        assert!(
            cluster.nodes[0].config.snat_ports.contains(&seen.port()),
            "{seen}"
        );
        let socket = pod.namespace.udp(pod.addr());
        let (seen, from) = ask(&socket, echo.addr()).unwrap();
        assert_eq!(seen.ip(), IpAddr::from(cluster.nodes[0].addr));
        assert_eq!(from, SocketAddr::from(echo.addr()));
        pod.namespace.pings(WORLD);
    }
}

#[test]
fn a_node_reaches_its_pods_and_other_nodes_are_judged() {
    for routing in [Routing::Native, Routing::Vxlan] {
        let mut cluster = Cluster::new(routing);
        let pod = cluster.pod(0, 300);
        let echo = Echo::start(&pod.namespace, pod.port(0));
        cluster.police(&pod, Direction::Ingress, &[]);
        let nodes = &cluster.nodes;
        assert_eq!(
            nodes[0].namespace.talks_to(echo.addr()).ip(),
            IpAddr::from(nodes[0].addr)
        );
        nodes[1].namespace.is_refused_by(echo.addr());
        let port = echo.addr().port();
        cluster.police(
            &pod,
            Direction::Ingress,
            &[entry(
                Direction::Ingress,
                weft_datapath::identity::REMOTE_NODE,
                port,
                Verdict::Allow,
            )],
        );
        cluster.nodes[1].namespace.talks_to(echo.addr());
    }
}

#[test]
fn a_pod_cannot_send_from_another_address() {
    let mut cluster = Cluster::new(Routing::Native);
    let (thief, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let victim = cluster.pod(0, 302);
    thief
        .namespace
        .ip(&format!("addr add {}/32 dev eth0", victim.addr()));
    let socket = thief.namespace.udp(victim.addr());
    socket.send_to(b"x", server.port(9)).unwrap();
    let drop = cluster.nodes[0].wait_for_drop(victim.addr(), server.addr());
    assert_eq!(drop.kind, EventKind::Drop(DropReason::InvalidSourceIp));
    assert_eq!(drop.endpoint, thief.endpoint.id);
}

#[test]
fn a_policed_pods_link_comes_up_with_ipv6() {
    let mut cluster = Cluster::new(Routing::Native);
    let pod = cluster.pod(0, 300);
    cluster.police(&pod, Direction::Ingress, &[]);
    // Duplicate address detection begins anew, now under policy.
    pod.namespace.ip("link set eth0 down\nlink set eth0 up");
    eventually("a link-local address", || {
        let addresses = pod
            .namespace
            .command("ip", &["-6", "-o", "addr", "show", "dev", "eth0"]);
        assert!(!addresses.contains("dadfailed"), "{addresses}");
        (addresses.contains("fe80:") && !addresses.contains("tentative")).then_some(())
    });
    let drops = |event: &&weft_datapath::Event| matches!(event.kind, EventKind::Drop(_));
    let link = cluster.nodes[0].seen().iter().find(drops).cloned();
    assert_eq!(link, None, "neighbour discovery is no news");
}
