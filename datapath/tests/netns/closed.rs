//! Ports that are closed until the proxy has the rules for them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener};

use weft_datapath::{CLOSED_PORT, Direction, DropReason, EventKind, Verdict};

use crate::cluster::{Cluster, Pod, Routing, entry};
use crate::proxy::Proxy;
use crate::support::{Echo, SOON, ping, receive, v4, who_am_i};

const CLOSED: Verdict = Verdict::Redirect(CLOSED_PORT);
const NOT_LISTENING: EventKind = EventKind::Drop(DropReason::ProxyNotListening);

/// A client and a server on one node, and which of them has which direction.
fn sides<'p>(direction: Direction, client: &'p Pod, server: &'p Pod) -> (&'p Pod, u32) {
    match direction {
        Direction::Egress => (client, server.endpoint.identity),
        Direction::Ingress => (server, client.endpoint.identity),
    }
}

/// One side's rules take connections to the proxy, the other side's are not
/// known to it yet: neither a new connection nor one that the proxy has already
/// passes, until it knows them.
fn closed_on_one_side(direction: Direction) {
    let mut cluster = Cluster::new(Routing::Native);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let echo = Echo::start(&server.namespace, server.port(0));
    let proxy = Proxy::start(&cluster.nodes[0]);
    let police = |cluster: &mut Cluster, direction, verdict| {
        let (pod, peer) = sides(direction, &client, &server);
        let rule = entry(direction, peer, echo.addr().port(), verdict);
        cluster.police(pod, direction, &[rule]);
    };
    let other = match direction {
        Direction::Egress => Direction::Ingress,
        Direction::Ingress => Direction::Egress,
    };
    let open = Verdict::Redirect(proxy.port);
    police(&mut cluster, other, open);
    let mut kept = client.namespace.connect(echo.addr(), SOON).unwrap();
    who_am_i(&mut kept);
    ping(&mut kept).unwrap();
    receive(&proxy.taken);

    police(&mut cluster, direction, CLOSED);
    client.namespace.is_refused_by(echo.addr());
    let node = &mut cluster.nodes[0];
    let drop = node.wait_for_drop(client.addr(), server.addr());
    let (subject, _) = sides(direction, &client, &server);
    assert_eq!(drop.kind, NOT_LISTENING, "{direction:?}");
    assert_eq!(
        (drop.endpoint, drop.direction, drop.rule),
        (subject.endpoint.id, direction, 11)
    );
    node.forget_events();
    kept.write_all(b"x").unwrap();
    node.wait_for_drop(client.addr(), server.addr());
    assert!(proxy.taken.try_recv().is_err(), "the proxy took it");

    // What was sent meanwhile is sent again.
    police(&mut cluster, direction, open);
    kept.read_exact(&mut [0]).unwrap();
    ping(&mut kept).unwrap();
    client.namespace.talks_to(echo.addr());
    receive(&proxy.taken);
}

#[test]
fn by_the_servers_rules_although_the_clients_redirect() {
    closed_on_one_side(Direction::Ingress);
}

#[test]
fn by_the_clients_rules_although_the_servers_redirect() {
    closed_on_one_side(Direction::Egress);
}

#[test]
fn a_server_on_that_port_is_not_taken_for_the_proxy() {
    let mut cluster = Cluster::new(Routing::Native);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let echo = Echo::start(&server.namespace, server.port(0));
    let node = &cluster.nodes[0];
    let place = SocketAddrV4::new(node.config.listener, CLOSED_PORT);
    let _unrelated = node.namespace.enter(|| TcpListener::bind(place)).unwrap();
    let rule = entry(Direction::Ingress, 300, echo.addr().port(), CLOSED);
    cluster.police(&server, Direction::Ingress, &[rule]);
    client.namespace.is_refused_by(echo.addr());
    let drop = cluster.nodes[0].wait_for_drop(client.addr(), server.addr());
    assert_eq!(drop.kind, NOT_LISTENING);
}

/// A direct connection that rules for the proxy came for and went again, before
/// anybody was told.
fn closed_for_a_while(verdict: Verdict, kind: EventKind) {
    let mut cluster = Cluster::new(Routing::Native);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let listener = server
        .namespace
        .enter(|| TcpListener::bind(server.port(0)))
        .unwrap();
    let addr = v4(listener.local_addr().unwrap());
    let mut near = client.namespace.connect(addr, SOON).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(SOON)).unwrap();
    let rule = |verdict| entry(Direction::Ingress, 300, addr.port(), verdict);
    cluster.police(&server, Direction::Ingress, &[rule(verdict)]);
    near.write_all(b"x").unwrap();
    let drop = cluster.nodes[0].wait_for_drop(client.addr(), server.addr());
    assert_eq!(drop.kind, kind);
    cluster.police(&server, Direction::Ingress, &[rule(Verdict::Allow)]);
    far.read_exact(&mut [0]).unwrap();
    far.write_all(b"y").unwrap();
    near.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_direct_connection_goes_on_when_it_may_again() {
    closed_for_a_while(CLOSED, NOT_LISTENING);
    // The same with the port of a proxy that is not there.
    let away = EventKind::Drop(DropReason::PolicyDenied);
    closed_for_a_while(Verdict::Redirect(15001), away);
}
