//! Loaders come and go, pods and rules change: what goes on and what ends.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_datapath::{
    Config, Datapath, Direction, DropReason, EventKind, Marks, NodeSettings, TableSizes, Verdict,
    uninstall,
};

use crate::cluster::{Cluster, Routing, WORLD, entry, plug_pod};
use crate::loader::layout;
use crate::support::{Echo, Namespace, SOON, eventually, ping, v4, who_am_i};

#[test]
fn enforcement_goes_on_without_the_loader() {
    let mut cluster = Cluster::new(Routing::Native);
    let server = cluster.pod(0, 300);
    let (friend, stranger) = (cluster.pod(0, 301), cluster.pod(0, 302));
    let echo = Echo::start(&server.namespace, server.port(0));
    let allow = entry(Direction::Ingress, 301, echo.addr().port(), Verdict::Allow);
    cluster.police(&server, Direction::Ingress, &[allow]);
    let mut open = friend.namespace.connect(echo.addr(), SOON).unwrap();
    who_am_i(&mut open);
    let Cluster { mut nodes, .. } = cluster;
    let node = nodes.remove(0);
    let (pins, config, namespace) = (node.pins.clone(), node.config.clone(), node.disband());
    // Nothing of ours holds programs or maps now but their pins.
    ping(&mut open).unwrap();
    friend.namespace.talks_to(echo.addr());
    stranger.namespace.is_refused_by(echo.addr());
    // The next one finds everything, and takes over without cutting anything.
    let datapath = namespace.enter(|| Datapath::load(&pins, &config)).unwrap();
    let mut endpoints = datapath.endpoints().unwrap();
    endpoints.sort_by_key(|endpoint| endpoint.id);
    assert_eq!(
        endpoints
            .iter()
            .map(|endpoint| endpoint.addr)
            .collect::<Vec<_>>(),
        [server.addr(), friend.addr(), stranger.addr()]
    );
    assert_eq!(datapath.policy().unwrap().len(), 1);
    ping(&mut open).unwrap();
    stranger.namespace.is_refused_by(echo.addr());
    // And away with it.
    drop(datapath);
    uninstall(&pins).unwrap();
    assert!(!pins.exists());
    stranger.namespace.talks_to(echo.addr());
}

/// Programs of another layout go on enforcing beside the new ones until they
/// are removed; what else is below the pin folder stays.
#[test]
fn another_layouts_programs_enforce_until_they_are_removed() {
    let mut cluster = Cluster::new(Routing::Native);
    let (server, stranger) = (cluster.pod(0, 300), cluster.pod(0, 302));
    let echo = Echo::start(&server.namespace, server.port(0));
    cluster.police(&server, Direction::Ingress, &[]);
    let Cluster { mut nodes, .. } = cluster;
    let node = nodes.remove(0);
    let (pins, config, namespace) = (node.pins.clone(), node.config.clone(), node.disband());
    let (older, neighbours) = (pins.join("v0"), pins.join("other-node"));
    std::fs::rename(layout(&pins), &older).unwrap();
    std::fs::create_dir(&neighbours).unwrap();
    let mut datapath = namespace.enter(|| Datapath::load(&pins, &config)).unwrap();
    assert!(datapath.endpoints().unwrap().is_empty(), "taken over");
    for pod in [&server, &stranger] {
        namespace
            .enter(|| datapath.attach_endpoint(&pod.endpoint))
            .unwrap();
    }
    stranger.namespace.is_refused_by(echo.addr());
    datapath.remove_other_versions().unwrap();
    assert!(!older.exists());
    stranger.namespace.talks_to(echo.addr());
    assert!(neighbours.exists());
    drop(datapath);
    uninstall(&pins).unwrap();
    let left: Vec<_> = std::fs::read_dir(&pins)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(left, [neighbours]);
}

#[test]
fn replacing_the_programs_loses_no_request() {
    let mut cluster = Cluster::new(Routing::Native);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let echo = Echo::start(&server.namespace, server.port(0));
    let mut stream = client.namespace.connect(echo.addr(), SOON).unwrap();
    who_am_i(&mut stream);
    let (done, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                ping(&mut stream).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..3 {
            let before = count.load(Ordering::Relaxed);
            cluster.nodes[0].reload();
            eventually("pings", || {
                (count.load(Ordering::Relaxed) > before + 10).then_some(())
            });
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// A connection to the outside, of which only the tables know that the pod
/// began it.
#[test]
fn tables_of_another_size_keep_their_connections() {
    let mut cluster = Cluster::new(Routing::Native);
    let client = cluster.pod(0, 300);
    cluster.police(&client, Direction::Ingress, &[]);
    let listener = cluster
        .world
        .enter(|| TcpListener::bind((WORLD, 0)))
        .unwrap();
    let addr = v4(listener.local_addr().unwrap());
    let mut near = client.namespace.connect(addr, SOON).unwrap();
    let (mut far, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::from(cluster.nodes[0].addr));
    let node = &mut cluster.nodes[0];
    for (conntrack, nat) in [(8192, 8192), (8192, 1024), (1024, 2048)] {
        node.config.tables = TableSizes { conntrack, nat };
        node.reload();
        let report = node.datapath.conntrack().unwrap().gc().unwrap();
        assert_eq!(
            (report.conntrack.capacity, report.nat.capacity),
            (conntrack, nat)
        );
        assert_eq!(report.nat.entries, 2, "both sides of the connection");
        // The far end speaks first: without its entries this is nobody's
        // packet.
        far.write_all(b"x").unwrap();
        near.read_exact(&mut [0]).unwrap();
    }
    for left in ["CT_OLD", "NAT_OLD"] {
        assert!(!layout(&node.pins).join(left).exists(), "{left}");
    }
    let other = client.namespace.connect(addr, SOON).unwrap();
    assert_eq!(other.peer_addr().unwrap(), addr.into());
}

#[test]
fn a_revoked_connection_is_cut_at_once_and_others_are_not() {
    let mut cluster = Cluster::new(Routing::Vxlan);
    let server = cluster.pod(0, 300);
    let (kept, cut) = (cluster.pod(1, 301), cluster.pod(1, 302));
    let echo = Echo::start(&server.namespace, server.port(0));
    let port = echo.addr().port();
    let allow = |identity| entry(Direction::Ingress, identity, port, Verdict::Allow);
    cluster.police(&server, Direction::Ingress, &[allow(301), allow(302)]);
    let open = |from: &Namespace| {
        let mut stream = from.connect(echo.addr(), SOON).unwrap();
        who_am_i(&mut stream);
        stream
    };
    let (mut kept, mut revoked) = (open(&kept.namespace), open(&cut.namespace));
    ping(&mut revoked).unwrap();
    let start = Instant::now();
    cluster.police(&server, Direction::Ingress, &[allow(301)]);
    let took = start.elapsed();
    revoked
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(ping(&mut revoked).is_err(), "a revoked connection answers");
    // Far more than it takes: a machine may be busy.
    assert!(took < SOON, "{took:?}");
    let drop = cluster.nodes[0].wait_for_drop(cut.addr(), server.addr());
    assert_eq!(drop.kind, EventKind::Drop(DropReason::PolicyDenied));
    for _ in 0..100 {
        ping(&mut kept).unwrap();
    }
    // Allowed again, what was sent meanwhile arrives.
    cluster.police(&server, Direction::Ingress, &[allow(301), allow(302)]);
    revoked.set_read_timeout(Some(SOON)).unwrap();
    ping(&mut revoked).unwrap();
}

#[test]
fn an_address_has_no_past() {
    let mut cluster = Cluster::new(Routing::Native);
    let server = cluster.pod(0, 300);
    let echo = Echo::start(&server.namespace, server.port(0));
    let allow = entry(Direction::Ingress, 301, echo.addr().port(), Verdict::Allow);
    cluster.police(&server, Direction::Ingress, &[allow]);
    for node in [0, 1] {
        let first = cluster.pod(node, 301);
        let mut stream = first.namespace.connect(echo.addr(), SOON).unwrap();
        who_am_i(&mut stream);
        // The pod goes while its connection is open; another gets its address.
        let addr = first.addr();
        cluster.nodes[node].datapath.detach_endpoint(addr).unwrap();
        cluster.nodes[node]
            .policy
            .remove_endpoint(first.endpoint.id)
            .unwrap();
        drop(stream);
        cluster.unplug(first);
        let second = cluster.pod_at(node, 302, addr);
        // What another node knows of the address changes with its agent, which
        // then judges anew.
        cluster.nodes[0].datapath.bump_epoch().unwrap();
        second.namespace.is_refused_by(echo.addr());
        let drop = cluster.nodes[0].wait_for("drop of the successor", |event| {
            matches!(event.kind, EventKind::Drop(_))
                && event.src == addr
                && event.src_identity == 302
        });
        assert_eq!(drop.kind, EventKind::Drop(DropReason::PolicyDenied));
    }
}

#[test]
fn a_new_veth_under_an_old_address_is_attached() {
    let mut cluster = Cluster::new(Routing::Native);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let echo = Echo::start(&server.namespace, server.port(0));
    client.namespace.talks_to(echo.addr());
    let addr = client.addr();
    let ifindex = client.endpoint.ifindex;
    cluster.unplug(client);
    let node = &mut cluster.nodes[0];
    let again = plug_pod(&node.namespace, 0, 1, 300, addr);
    node.attach(&again.endpoint);
    assert_ne!(again.endpoint.ifindex, ifindex);
    again.namespace.talks_to(echo.addr());
    cluster.police(&again, Direction::Egress, &[]);
    again.namespace.is_refused_by(echo.addr());
    let endpoints = cluster.nodes[0].datapath.endpoints().unwrap();
    assert_eq!(endpoints.len(), 2, "{endpoints:?}");
}

#[test]
fn a_pod_that_nobody_announced_is_cut_off() {
    let mut cluster = Cluster::new(Routing::Native);
    let server = cluster.pod(0, 300);
    let echo = Echo::start(&server.namespace, server.port(0));
    let addr = std::net::Ipv4Addr::new(10, 244, 1, 200);
    let unknown = plug_pod(&cluster.nodes[0].namespace, 0, 99, 301, addr);
    unknown.namespace.is_refused_by(echo.addr());
    let drop = cluster.nodes[0].wait_for_drop(addr, server.addr());
    assert_eq!(drop.kind, EventKind::Drop(DropReason::UnknownSender));
    let far = Echo::start(
        &cluster.world,
        std::net::SocketAddrV4::new(crate::cluster::WORLD, 0),
    );
    unknown.namespace.is_refused_by(far.addr());
    cluster.identify(addr, 301, 0);
    cluster.nodes[0].attach(&unknown.endpoint);
    unknown.namespace.talks_to(echo.addr());
}

#[test]
fn routing_by_marks_may_be_elsewhere() {
    let namespace = Namespace::new("routing");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.json");
    let marks = Marks {
        mask: 0xf_0000,
        to_proxy: 0x1_0000,
        from_proxy: 0xb_0000,
        judged: 0xd_0000,
    };
    let usual = NodeSettings::new(&marks);
    for (table, preference) in [(0, 9), (254, 9), (255, 9), (2004, 0), (2004, 32766)] {
        let refused = usual.routing(table, preference);
        assert!(refused.is_err(), "{table} {preference}");
    }
    let before = namespace.command("ip", &["rule", "show"]);
    // Changed without being put back in between.
    for (table, preference) in [(2004, 9), (4711, 77)] {
        let settings = usual.routing(table, preference).unwrap();
        namespace.enter(|| settings.apply(&file)).unwrap();
        let rules = namespace.command("ip", &["rule", "show"]);
        assert_eq!(rules.matches("fwmark").count(), 1, "{rules}");
        let rule = format!("{preference}:\tfrom all fwmark 0x10000/0xf0000 lookup {table}");
        assert!(rules.contains(&rule), "{rules}");
    }
    namespace.enter(|| NodeSettings::restore(&file)).unwrap();
    assert_eq!(namespace.command("ip", &["rule", "show"]), before);
}

#[test]
fn a_nodes_settings_are_put_back() {
    let namespace = Namespace::new("settings");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.json");
    let marks = Config::new(
        "172.18.0.2".parse().unwrap(),
        "10.244.1.0/24".parse().unwrap(),
    )
    .marks;
    let rules = || namespace.command("ip", &["rule", "show"]);
    let sysctl = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        namespace
            .enter(|| std::fs::read_to_string(&path))
            .unwrap()
            .trim()
            .to_owned()
    };
    namespace.enter(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "2").unwrap();
        std::fs::write("/proc/sys/net/ipv4/tcp_early_demux", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "4321").unwrap();
    });
    let values = || {
        [
            sysctl("conf/all/rp_filter"),
            sysctl("tcp_early_demux"),
            sysctl("tcp_max_tw_buckets"),
        ]
    };
    let before = rules();
    for _ in 0..2 {
        namespace
            .enter(|| NodeSettings::new(&marks).apply(&file))
            .unwrap();
        let after = rules();
        assert_eq!(
            after.matches("fwmark 0x200/0xf00 lookup 2004").count(),
            1,
            "{after}"
        );
        let routes = namespace.command("ip", &["route", "show", "table", "2004"]);
        assert!(routes.contains("local default dev lo"), "{routes}");
        assert_eq!(values(), ["0", "0", "0"]);
    }
    namespace.enter(|| NodeSettings::restore(&file)).unwrap();
    assert_eq!(rules(), before);
    assert_eq!(values(), ["2", "1", "4321"]);
    assert!(!file.exists());
    namespace.enter(|| NodeSettings::restore(&file)).unwrap();
}
