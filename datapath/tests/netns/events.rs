//! What one connection is told to the observer, as the reference outputs of the
//! tools show it.

use std::net::Ipv4Addr;

use weft_datapath::{
    Action, Direction, Event, EventKind, MatchType, Service, TracePoint, Verdict, XlatePoint,
};

use crate::cluster::{Cluster, Node, Pod, Routing, entry};
use crate::proxy::Proxy;
use crate::support::{Echo, SOON, ping, who_am_i};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 77);
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// What happened on the way from client to server, with the TCP flags.
fn forward(node: &mut Node, client: &Pod, server: &Pod) -> Vec<(EventKind, u8)> {
    let to_server = |event: &&Event| event.src == client.addr() && event.dst == server.addr();
    node.seen()
        .iter()
        .filter(to_server)
        .map(|event| (event.kind, event.tcp_flags))
        .collect()
}

fn trace(point: TracePoint) -> impl Fn(u8) -> (EventKind, u8) {
    move |flags| (EventKind::Trace(point), flags)
}

fn to_service(cluster: &Cluster, server: &Pod, echo: &Echo) {
    let backends = vec![(server.addr(), echo.addr().port())];
    let service = Service {
        vip: VIP,
        port: 80,
        protocol: 6,
        backends,
        redirect: None,
    };
    for node in &cluster.nodes {
        node.datapath
            .services()
            .unwrap()
            .apply(std::slice::from_ref(&service))
            .unwrap();
    }
}

/// A connection with one exchange, closed by the client first.
fn converse(client: &Pod) {
    let mut stream = client
        .namespace
        .connect(std::net::SocketAddrV4::new(VIP, 80), SOON)
        .unwrap();
    who_am_i(&mut stream);
    ping(&mut stream).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap(), 0);
}

#[test]
fn an_allowed_connection_across_nodes() {
    let mut cluster = Cluster::new(Routing::Vxlan);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(1, 301));
    let echo = Echo::start(&server.namespace, server.port(0));
    to_service(&cluster, &server, &echo);
    let allow = entry(Direction::Ingress, 300, echo.addr().port(), Verdict::Allow);
    cluster.police(&server, Direction::Ingress, &[allow]);
    for node in &mut cluster.nodes {
        node.forget_events();
    }
    converse(&client);
    let last_ack = |event: &Event| {
        event.src == client.addr()
            && event.kind == EventKind::Trace(TracePoint::ToEndpoint)
            && event.tcp_flags == FIN | ACK
    };
    cluster.nodes[1].wait_for("the end", last_ack);

    let to_overlay = trace(TracePoint::ToOverlay);
    let sent = forward(&mut cluster.nodes[0], &client, &server);
    let translated = EventKind::Translation(XlatePoint::PostForward);
    let traced = EventKind::Translation(XlatePoint::PreReverse);
    assert_eq!(sent[0], (translated, SYN));
    let overlay: Vec<_> = sent
        .iter()
        .copied()
        .filter(|(kind, _)| *kind == to_overlay(0).0)
        .collect();
    assert_eq!(
        overlay[..4],
        [SYN, ACK, PSH | ACK, FIN | ACK].map(&to_overlay)
    );
    assert_eq!(
        sent.iter().filter(|(kind, _)| *kind == traced).count(),
        1,
        "{sent:?}"
    );
    assert!(
        !sent
            .iter()
            .any(|(kind, _)| matches!(kind, EventKind::PolicyVerdict { .. }))
    );

    let to_endpoint = trace(TracePoint::ToEndpoint);
    let received = forward(&mut cluster.nodes[1], &client, &server);
    let verdict = EventKind::PolicyVerdict {
        action: Action::Allow,
        matched: MatchType::L3L4,
    };
    assert_eq!(received[0], (verdict, SYN));
    assert_eq!(
        received[1..5],
        [SYN, ACK, PSH | ACK, FIN | ACK].map(&to_endpoint)
    );
    // Answers are told from the other side: into the overlay there, to the
    // endpoint here.
    for (node, point) in [(1, TracePoint::ToOverlay), (0, TracePoint::ToEndpoint)] {
        let event = cluster.nodes[node].wait_for("answer", |event| {
            event.src == server.addr() && event.kind == EventKind::Trace(point)
        });
        assert_eq!((event.reply, event.tcp_flags), (Some(true), SYN | ACK));
        let direction = if node == 0 {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        assert_eq!(event.direction, direction);
    }
}

#[test]
fn a_redirected_connection_on_one_node() {
    let mut cluster = Cluster::new(Routing::Vxlan);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let echo = Echo::start(&server.namespace, server.port(0));
    to_service(&cluster, &server, &echo);
    let proxy = Proxy::start(&cluster.nodes[0]);
    let redirect = Verdict::Redirect(proxy.port);
    let rule = entry(Direction::Ingress, 300, echo.addr().port(), redirect);
    cluster.police(&server, Direction::Ingress, &[rule]);
    let node = &mut cluster.nodes[0];
    node.forget_events();
    converse(&client);
    node.wait_for("the end", |event| {
        event.kind == EventKind::Trace(TracePoint::ToProxy)
            && event.tcp_flags == FIN | ACK
            && event.reply == Some(false)
    });
    let to_proxy = trace(TracePoint::ToProxy);
    let events: Vec<_> = forward(node, &client, &server);
    let verdict = EventKind::PolicyVerdict {
        action: Action::Redirect,
        matched: MatchType::L3L4,
    };
    assert_eq!(
        events[0],
        (EventKind::Translation(XlatePoint::PostForward), SYN)
    );
    assert_eq!(events[1], (verdict, SYN));
    let proxied: Vec<_> = events
        .iter()
        .copied()
        .filter(|(kind, _)| *kind == to_proxy(0).0)
        .collect();
    assert_eq!(
        proxied[..4],
        [SYN, ACK, PSH | ACK, FIN | ACK].map(&to_proxy)
    );
    let event = node.wait_for("to-proxy", |event| event.kind == to_proxy(0).0);
    assert_eq!(
        (event.direction, event.endpoint),
        (Direction::Ingress, server.endpoint.id)
    );
    assert_eq!((event.proxy_port, event.rule), (proxy.port, 11));
    // The proxy's own connection, under the client's address, is no second
    // arrival.
    assert!(
        !events.contains(&trace(TracePoint::ToEndpoint)(SYN)),
        "{events:?}"
    );
}

#[test]
fn a_full_ring_counts_what_it_loses() {
    let mut cluster = Cluster::new(Routing::Native);
    let pod = cluster.pod(0, 300);
    let socket = pod.namespace.udp(pod.addr());
    let nowhere = std::net::SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 250), 9);
    // Every datagram is dropped and reported; the ring takes some forty
    // thousand.
    while cluster.nodes[0].datapath.lost_events().unwrap() == 0 {
        for _ in 0..1000 {
            socket.send_to(b"x", nowhere).unwrap();
        }
    }
    assert!(cluster.nodes[0].seen().len() > 10_000);
}
