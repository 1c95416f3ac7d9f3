//! Connections that go through a proxy.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpListener;

use weft_datapath::{
    Action, Direction, DropReason, EventKind, Marks, Service, TracePoint, Verdict,
};

use crate::cluster::{Cluster, Routing, entry};
use crate::proxy::{Proxy, Taken};
use crate::support::{Echo, SOON, ping, receive, v4, who_am_i};

/// Which side's policy redirects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
    Both,
}

/// A client's connection goes through its node's proxy, the server's, or both;
/// the server sees the client's address.
fn redirected(routing: Routing, same: bool, side: Side) {
    redirected_in(Cluster::new(routing), same, side);
}

fn redirected_in(mut cluster: Cluster, same: bool, side: Side) {
    let at = if same { 0 } else { 1 };
    let (client, server) = (cluster.pod(0, 300), cluster.pod(at, 301));
    let echo = Echo::start(&server.namespace, server.port(0));
    let port = echo.addr().port();
    let proxies = [
        Proxy::start(&cluster.nodes[0]),
        Proxy::start(&cluster.nodes[1]),
    ];
    if side != Side::Server {
        let redirect = Verdict::Redirect(proxies[0].port);
        cluster.police(
            &client,
            Direction::Egress,
            &[entry(Direction::Egress, 301, port, redirect)],
        );
    }
    if side != Side::Client {
        let redirect = Verdict::Redirect(proxies[at].port);
        cluster.police(
            &server,
            Direction::Ingress,
            &[entry(Direction::Ingress, 300, port, redirect)],
        );
    }
    let mut stream = client.namespace.connect(echo.addr(), SOON).unwrap();
    let seen = who_am_i(&mut stream);
    assert_eq!(seen.ip(), client.addr());
    assert_ne!(seen, stream.local_addr().unwrap(), "the proxy's own port");
    for _ in 0..100 {
        ping(&mut stream).unwrap();
    }
    let own = v4(stream.local_addr().unwrap());
    let first = if side == Side::Server { at } else { 0 };
    let taken = receive(&proxies[first].taken);
    assert_eq!(
        taken,
        Taken {
            client: own,
            destination: echo.addr()
        }
    );
    if side == Side::Both && !same {
        let taken = receive(&proxies[1].taken);
        assert_eq!(
            (taken.client.ip(), taken.destination),
            (own.ip(), echo.addr())
        );
        assert!(
            ![own.port(), seen.port()].contains(&taken.client.port()),
            "the first proxy's port"
        );
    }
    // On one node, one proxy pass serves both sides' rules.
    assert!(proxies.iter().all(|proxy| proxy.taken.try_recv().is_err()));
    cluster.nodes[first].wait_for("to-proxy trace", |event| {
        event.kind == EventKind::Trace(TracePoint::ToProxy) && event.src_port == own.port()
    });
    cluster.nodes[first].wait_for("verdict", |event| {
        matches!(
            event.kind,
            EventKind::PolicyVerdict {
                action: Action::Redirect,
                ..
            }
        )
    });
}

#[test]
fn same_node_by_the_clients_rules() {
    redirected(Routing::Native, true, Side::Client);
}

#[test]
fn same_node_by_the_servers_rules() {
    redirected(Routing::Native, true, Side::Server);
}

#[test]
fn same_node_by_both() {
    redirected(Routing::Native, true, Side::Both);
}

#[test]
fn across_nodes_by_the_clients_rules() {
    redirected(Routing::Native, false, Side::Client);
    redirected(Routing::Vxlan, false, Side::Client);
}

#[test]
fn across_nodes_by_the_servers_rules() {
    redirected(Routing::Native, false, Side::Server);
    redirected(Routing::Vxlan, false, Side::Server);
}

#[test]
fn across_nodes_by_both() {
    redirected(Routing::Native, false, Side::Both);
    redirected(Routing::Vxlan, false, Side::Both);
}

#[test]
fn by_other_marks() {
    let marks = Marks {
        mask: 0xf_0000,
        to_proxy: 0x1_0000,
        from_proxy: 0xb_0000,
        judged: 0xd_0000,
    };
    for same in [true, false] {
        let cluster = Cluster::with(Routing::Vxlan, |config| config.marks = marks);
        redirected_in(cluster, same, Side::Both);
    }
}

#[test]
fn a_service_behind_a_redirect() {
    let mut cluster = Cluster::new(Routing::Vxlan);
    let client = cluster.pod(0, 300);
    let vip = std::net::Ipv4Addr::new(10, 96, 0, 77);
    let service = std::net::SocketAddrV4::new(vip, 80);
    for node in [0, 1] {
        let server = cluster.pod(node, 301);
        let echo = Echo::start(&server.namespace, server.port(0));
        let backends = vec![(server.addr(), echo.addr().port())];
        let wanted = Service {
            vip,
            port: 80,
            protocol: 6,
            backends,
            redirect: None,
        };
        cluster.nodes[0]
            .datapath
            .services()
            .unwrap()
            .apply(&[wanted])
            .unwrap();
        let proxy = Proxy::start(&cluster.nodes[node]);
        let redirect = Verdict::Redirect(proxy.port);
        let rule = entry(Direction::Ingress, 300, echo.addr().port(), redirect);
        cluster.police(&server, Direction::Ingress, &[rule]);
        let mut stream = client.namespace.connect(service, SOON).unwrap();
        assert_eq!(who_am_i(&mut stream).ip(), client.addr());
        for _ in 0..100 {
            ping(&mut stream).unwrap();
        }
        assert_eq!(receive(&proxy.taken).destination, echo.addr());
    }
}

#[test]
fn without_a_proxy_redirected_ports_are_closed_and_others_are_not() {
    let mut cluster = Cluster::new(Routing::Native);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let (ruled, plain) = (
        Echo::start(&server.namespace, server.port(0)),
        Echo::start(&server.namespace, server.port(0)),
    );
    let proxy = Proxy::start(&cluster.nodes[0]);
    let port = proxy.port;
    cluster.police(
        &server,
        Direction::Ingress,
        &[
            entry(
                Direction::Ingress,
                300,
                ruled.addr().port(),
                Verdict::Redirect(port),
            ),
            entry(Direction::Ingress, 300, plain.addr().port(), Verdict::Allow),
        ],
    );
    client.namespace.talks_to(ruled.addr());
    drop(proxy);
    client.namespace.is_refused_by(ruled.addr());
    let drop = cluster.nodes[0].wait_for_drop(client.addr(), server.addr());
    assert_eq!(drop.kind, EventKind::Drop(DropReason::ProxyNotListening));
    client.namespace.talks_to(plain.addr());
    let _proxy = Proxy::start_on(&cluster.nodes[0], port);
    client.namespace.talks_to(ruled.addr());
}

/// A connection opened directly, then rules for its port that need the proxy:
/// whoever speaks next is told, and a flow says why.
fn cut_by_new_rules(routing: Routing, same: bool, side: Side, server_speaks: bool) {
    let mut cluster = Cluster::new(routing);
    let at = if same { 0 } else { 1 };
    let (client, server) = (cluster.pod(0, 300), cluster.pod(at, 301));
    let listener = server
        .namespace
        .enter(|| TcpListener::bind(server.port(0)))
        .unwrap();
    let addr = v4(listener.local_addr().unwrap());
    let mut near = client.namespace.connect(addr, SOON).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(SOON)).unwrap();
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    let (pod, direction, peer, node) = match side {
        Side::Client => (&client, Direction::Egress, 301, 0),
        _ => (&server, Direction::Ingress, 300, at),
    };
    let proxy = Proxy::start(&cluster.nodes[node]);
    let redirect = Verdict::Redirect(proxy.port);
    cluster.police(
        pod,
        direction,
        &[entry(direction, peer, addr.port(), redirect)],
    );
    let ends = (client.addr(), server.addr());
    let mut speakers = [(near, ends), (far, (ends.1, ends.0))];
    if server_speaks {
        speakers.reverse();
    }
    for (mut end, ends) in speakers {
        let _ = end.write_all(b"y");
        let error = end.read(&mut [0]).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionReset,
            "{routing:?} {same} {side:?} {server_speaks}"
        );
        let (src, dst) = ends;
        let drop = cluster.nodes[node].wait_for_drop(src, dst);
        assert_eq!(drop.kind, EventKind::Drop(DropReason::PolicyDenied));
        assert_eq!(
            (drop.rule, drop.endpoint, drop.direction),
            (11, pod.endpoint.id, direction)
        );
    }
    assert!(proxy.taken.try_recv().is_err(), "the proxy took it over");
    // The next one goes through the proxy.
    let echo = Echo::start(&server.namespace, server.port(0));
    let redirect = entry(direction, peer, echo.addr().port(), redirect);
    cluster.police(pod, direction, &[redirect]);
    client.namespace.talks_to(echo.addr());
    receive(&proxy.taken);
}

#[test]
fn new_rules_cut_direct_connections_of_one_node() {
    for server_speaks in [false, true] {
        cut_by_new_rules(Routing::Native, true, Side::Server, server_speaks);
        cut_by_new_rules(Routing::Native, true, Side::Client, server_speaks);
    }
}

#[test]
fn new_rules_cut_direct_connections_across_nodes() {
    for server_speaks in [false, true] {
        cut_by_new_rules(Routing::Vxlan, false, Side::Server, server_speaks);
        cut_by_new_rules(Routing::Native, false, Side::Client, server_speaks);
    }
}

/// Connections through the proxy that the server closes, again and again from
/// one port: the proxy's socket, which closed before the client's, must not be
/// in the way of the next one.
#[test]
fn a_port_that_comes_again_reaches_the_proxy_at_once() {
    for routing in [Routing::Native, Routing::Vxlan] {
        let mut cluster = Cluster::new(routing);
        let (client, server) = (cluster.pod(0, 300), cluster.pod(1, 301));
        let listener = server
            .namespace
            .enter(|| TcpListener::bind(server.port(0)))
            .unwrap();
        let addr = v4(listener.local_addr().unwrap());
        let proxy = Proxy::start(&cluster.nodes[0]);
        let redirect = entry(
            Direction::Egress,
            301,
            addr.port(),
            Verdict::Redirect(proxy.port),
        );
        cluster.police(&client, Direction::Egress, &[redirect]);
        for round in 0..5 {
            let (mut stream, repeated) = client.namespace.connect_from(client.port(34567), addr);
            let (mut served, _) = listener.accept().unwrap();
            served.write_all(b"x").unwrap();
            drop(served);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!(all, b"x");
            assert_eq!(repeated, 0, "SYNs sent again in round {round}");
            assert_eq!(receive(&proxy.taken).client, client.port(34567));
        }
    }
}

#[test]
fn pods_cannot_dial_the_proxy() {
    let mut cluster = Cluster::new(Routing::Native);
    let pod = cluster.pod(0, 300);
    let node = &cluster.nodes[0];
    let proxy = Proxy::start(node);
    let to = std::net::SocketAddrV4::new(node.addr, proxy.port);
    let error = pod.namespace.connect(to, SOON).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// The proxy's connections leave sockets in TIME_WAIT, and their ports come
/// again.
#[test]
fn direct_connections_live_beside_proxied_ones() {
    let mut cluster = Cluster::new(Routing::Native);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let echo = Echo::start(&server.namespace, server.port(0));
    let port = echo.addr().port();
    let proxy = Proxy::start(&cluster.nodes[0]);
    for round in 0..20 {
        let verdict = match round % 2 {
            0 => Verdict::Redirect(proxy.port),
            _ => Verdict::Allow,
        };
        cluster.police(
            &server,
            Direction::Ingress,
            &[entry(Direction::Ingress, 300, port, verdict)],
        );
        for _ in 0..5 {
            client.namespace.talks_to(echo.addr());
        }
    }
}

#[test]
fn listeners_on_one_port_share_the_connections() {
    const CONNECTIONS: usize = 120;
    let mut cluster = Cluster::new(Routing::Native);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let echo = Echo::start(&server.namespace, server.port(0));
    let first = Proxy::start(&cluster.nodes[0]);
    let second = Proxy::start_on(&cluster.nodes[0], first.port);
    let redirect = Verdict::Redirect(first.port);
    let rule = entry(Direction::Ingress, 300, echo.addr().port(), redirect);
    cluster.police(&server, Direction::Ingress, &[rule]);
    for _ in 0..CONNECTIONS {
        client.namespace.talks_to(echo.addr());
    }
    let shares = [&first, &second].map(|proxy| proxy.taken.try_iter().count());
    assert_eq!(shares.iter().sum::<usize>(), CONNECTIONS);
    assert!(
        shares.iter().all(|share| *share > CONNECTIONS / 5),
        "{shares:?}"
    );
}
