//! Services, from the client to the backends.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4};
use std::thread;

use weft_datapath::{Config, Direction, DropReason, EventKind, Service, Verdict};

use crate::cluster::{Cluster, Pod, Routing, entry};
use crate::support::{Echo, ask, who_am_i};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 77);
const PORT: u16 = 80;
const SERVICE: SocketAddrV4 = SocketAddrV4::new(VIP, PORT);

/// TCP and UDP of the service, on all nodes.
fn serve(cluster: &Cluster, backends: &[SocketAddrV4]) {
    let service = |protocol| Service {
        vip: VIP,
        port: PORT,
        protocol,
        backends: backends
            .iter()
            .map(|backend| (*backend.ip(), backend.port()))
            .collect(),
        redirect: None,
    };
    for node in &cluster.nodes {
        node.datapath
            .services()
            .unwrap()
            .apply(&[service(6), service(17)])
            .unwrap();
    }
}

fn echo(pod: &Pod) -> Echo {
    Echo::start(&pod.namespace, pod.port(0))
}

fn a_client_meets_every_backend(routing: Routing, change: impl Fn(&mut Config)) {
    let mut cluster = Cluster::with(routing, change);
    let client = cluster.pod(0, 300);
    let servers = [cluster.pod(0, 301), cluster.pod(1, 301)];
    let echoes = servers.each_ref().map(echo);
    serve(&cluster, &echoes.each_ref().map(Echo::addr));
    let mut met = HashSet::new();
    for _ in 0..200 {
        let mut stream = client
            .namespace
            .connect(SERVICE, crate::support::SOON)
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), SocketAddr::from(SERVICE));
        assert_eq!(who_am_i(&mut stream), stream.local_addr().unwrap());
        let flows = cluster.nodes[0]
            .datapath
            .conntrack()
            .unwrap()
            .entries()
            .unwrap();
        let own = stream.local_addr().unwrap();
        met.extend(
            flows
                .iter()
                .filter(|flow| SocketAddr::from(flow.src) == own)
                .filter_map(|flow| flow.choice),
        );
        if met.len() == echoes.len() {
            break;
        }
    }
    assert_eq!(met, echoes.iter().map(Echo::addr).collect());
    for _ in 0..4 {
        let socket = client.namespace.udp(client.addr());
        let (seen, from) = ask(&socket, SERVICE).unwrap();
        assert_eq!(
            (seen, from),
            (socket.local_addr().unwrap(), SocketAddr::from(SERVICE))
        );
    }
}

#[test]
fn with_routes() {
    a_client_meets_every_backend(Routing::Native, |_| {});
}

#[test]
fn with_vxlan() {
    a_client_meets_every_backend(Routing::Vxlan, |_| {});
}

#[test]
fn with_vxlan_through_the_stack() {
    a_client_meets_every_backend(Routing::Vxlan, |config| config.redirect_peer = false);
}

#[test]
fn a_pod_reaches_itself() {
    for redirect_peer in [true, false] {
        let mut cluster = Cluster::with(Routing::Native, |config| {
            config.redirect_peer = redirect_peer
        });
        let pod = cluster.pod(0, 300);
        let echo = echo(&pod);
        serve(&cluster, &[echo.addr()]);
        cluster.police(&pod, Direction::Ingress, &[]);
        let seen = pod.namespace.talks_to(SERVICE);
        assert_eq!(seen.ip(), IpAddr::from(cluster.nodes[0].config.hairpin));
        let socket = pod.namespace.udp(pod.addr());
        assert_eq!(ask(&socket, SERVICE).unwrap().1, SocketAddr::from(SERVICE));
    }
}

#[test]
fn a_backends_policy_counts() {
    let mut cluster = Cluster::new(Routing::Native);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let echo = echo(&server);
    serve(&cluster, &[echo.addr()]);
    client.namespace.talks_to(SERVICE);
    cluster.police(&server, Direction::Ingress, &[]);
    client.namespace.is_refused_by(SERVICE);
    let port = echo.addr().port();
    let allow = entry(Direction::Ingress, 300, port, Verdict::Allow);
    cluster.police(&server, Direction::Ingress, &[allow]);
    client.namespace.talks_to(SERVICE);
}

#[test]
fn a_service_without_backends_refuses() {
    let mut cluster = Cluster::new(Routing::Native);
    let client = cluster.pod(0, 300);
    serve(&cluster, &[]);
    client.namespace.is_refused_by(SERVICE);
    let drop = cluster.nodes[0].wait_for_drop(client.addr(), VIP);
    assert_eq!(drop.kind, EventKind::Drop(DropReason::NoBackend));
    client
        .namespace
        .is_refused_by(SocketAddrV4::new(VIP, PORT + 1));
}

/// Segmentation offload and checksums survive translation and every way of
/// delivery.
#[test]
fn bulk_data_arrives_whole() {
    const LEN: usize = 16 << 20;
    for routing in [Routing::Native, Routing::Vxlan] {
        for redirect_peer in [true, false] {
            let mut cluster = Cluster::with(routing, |config| config.redirect_peer = redirect_peer);
            let client = cluster.pod(0, 300);
            for node in [0, 1] {
                let server = cluster.pod(node, 301);
                let echo = echo(&server);
                serve(&cluster, &[echo.addr()]);
                let mut stream = client
                    .namespace
                    .connect(SERVICE, crate::support::SOON)
                    .unwrap();
                who_am_i(&mut stream);
                let mut sending = stream.try_clone().unwrap();
                let data: Vec<u8> = (0..LEN).map(|at| (at * 31 % 251) as u8).collect();
                thread::scope(|scope| {
                    scope.spawn(|| {
                        sending.write_all(&data).unwrap();
                        sending.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut back = Vec::with_capacity(LEN);
                    stream.read_to_end(&mut back).unwrap();
                    assert!(back == data, "{routing:?} {redirect_peer} node {node}");
                });
            }
        }
    }
}

#[test]
fn a_closed_port_is_reported_under_the_services_name() {
    let mut cluster = Cluster::new(Routing::Native);
    let client = cluster.pod(0, 300);
    for node in [0, 1] {
        let server = cluster.pod(node, 301);
        serve(&cluster, &[server.port(9)]);
        let socket = client.namespace.udp(client.addr());
        socket.connect(SERVICE).unwrap();
        socket.send(b"x").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "node {node}");
    }
}
