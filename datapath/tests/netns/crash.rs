//! Loaders that are killed halfway: what is in force stays in force, and the
//! next one goes on. strace kills the real loader before each call that changes
//! something.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Socket, Type};
use weft_datapath::testing::{SMALL_TABLES, TempBpffs};
use weft_datapath::{Datapath, Direction, DropReason, EventKind, TableSizes, Verdict, uninstall};

use crate::cluster::{Cluster, Node, Pod, Routing, WORLD, config, entry, plug_pod};
use crate::loader::{Order, Point, Then, is_the_loader, pinned};
use crate::support::{Echo, Namespace, SOON, ping, v4, who_am_i};

/// One table grows and the other shrinks.
const OTHER_TABLES: TableSizes = TableSizes {
    conntrack: 8192,
    nat: 1024,
};

/// A node with connections, and what must hold at any time.
struct Stage {
    cluster: Cluster,
    /// Lets its friend in, and nobody else.
    _server: Pod,
    friend: Pod,
    stranger: Pod,
    /// Lets nobody in.
    _client: Pod,
    echo: Echo,
    /// From the friend to the server.
    local: TcpStream,
    /// From the client to the world, both ends: only the tables know that the
    /// client began.
    near: TcpStream,
    far: TcpStream,
}

impl Stage {
    fn new() -> Self {
        let mut cluster = Cluster::new(Routing::Native);
        let server = cluster.pod(0, 300);
        let (friend, stranger) = (cluster.pod(0, 301), cluster.pod(0, 302));
        let client = cluster.pod(0, 303);
        let echo = Echo::start(&server.namespace, server.port(0));
        let allow = entry(Direction::Ingress, 301, echo.addr().port(), Verdict::Allow);
        cluster.police(&server, Direction::Ingress, &[allow]);
        cluster.police(&client, Direction::Ingress, &[]);
        let mut local = friend.namespace.connect(echo.addr(), SOON).unwrap();
        who_am_i(&mut local);
        let listener = cluster
            .world
            .enter(|| TcpListener::bind((WORLD, 0)))
            .unwrap();
        let addr = v4(listener.local_addr().unwrap());
        let near = client.namespace.connect(addr, SOON).unwrap();
        let (far, _) = listener.accept().unwrap();
        Self {
            cluster,
            _server: server,
            friend,
            stranger,
            _client: client,
            echo,
            local,
            near,
            far,
        }
    }

    fn node(&mut self) -> &mut Node {
        &mut self.cluster.nodes[0]
    }

    fn pins(&self) -> PathBuf {
        self.cluster.nodes[0].pins.clone()
    }

    /// Connections go on, new ones are judged.
    fn holds(&mut self, when: &str) {
        // The far end speaks first: without its entries this is nobody's
        // packet.
        self.far.write_all(b"x").unwrap();
        let arrived = self.near.read_exact(&mut [0]);
        arrived.unwrap_or_else(|error| panic!("{when}: from outside: {error}"));
        ping(&mut self.local).unwrap_or_else(|error| panic!("{when}: between pods: {error}"));
        self.friend.namespace.talks_to(self.echo.addr());
        let node = &mut self.cluster.nodes[0];
        let reason = refused(node, &self.stranger, self.echo.addr());
        assert_eq!(reason, DropReason::PolicyDenied, "{when}");
    }
}

/// Asserts that the first packet of a connection is dropped on its node; for
/// what reason.
fn refused(node: &mut Node, from: &Pod, to: SocketAddrV4) -> DropReason {
    node.forget_events();
    let socket = from.namespace.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // It does not wait for the answer.
        assert!(socket.connect(&to.into()).is_err());
        socket
    });
    let drop = node.wait_for_drop(from.addr(), *to.ip());
    assert!(socket.peer_addr().is_err(), "connected");
    match drop.kind {
        EventKind::Drop(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// How many of these calls there are.
fn count(points: &[Point], what: &str) -> usize {
    points.iter().filter(|point| point.what == what).count()
}

#[test]
fn tables_that_change_size() {
    if is_the_loader() {
        return;
    }
    let mut stage = Stage::new();
    let (pins, expected) = (stage.pins(), pinned(&stage.pins()));
    let namespace = stage.cluster.nodes[0].namespace.name().to_owned();
    let order = |tables| Order {
        test: "crash::tables_that_change_size",
        namespace: &namespace,
        pins: &pins,
        tables,
        then: Then::Nothing,
    };
    let points = order(OTHER_TABLES).trace();
    stage.holds("after the first change");
    let links = expected.iter().filter(|pin| pin.contains("links/"));
    assert_eq!(count(&points, "BPF_LINK_UPDATE"), links.count());
    assert_eq!(count(&points, "BPF_OBJ_PIN"), 2, "the old tables");
    assert!(points.len() > 15, "{points:?}");
    let mut killed = 0;
    for (round, point) in points.iter().enumerate() {
        let tables = [SMALL_TABLES, OTHER_TABLES][round % 2];
        killed += usize::from(order(tables).killed_at(point));
        let when = format!("killed before {point:?}");
        stage.holds(&when);
        let node = stage.node();
        node.config.tables = tables;
        node.reload();
        assert_eq!(pinned(&pins), expected, "{when}, and started again");
        let report = node.datapath.conntrack().unwrap().gc().unwrap();
        let sizes = (report.conntrack.capacity, report.nat.capacity);
        assert_eq!(sizes, (tables.conntrack, tables.nat), "{when}");
        assert!(
            report.nat.entries >= 2,
            "{when}: both sides of a connection"
        );
        stage.holds(&format!("{when}, and started again"));
    }
    // How many entries move late, and so how many calls there are, is a matter
    // of the moment.
    assert!(killed + 4 > points.len(), "{killed} of {points:?}");
}

#[test]
fn the_very_first_start() {
    if is_the_loader() {
        return;
    }
    let bpffs = TempBpffs::new().unwrap();
    let pins = bpffs.path().join("node0");
    let namespace = Namespace::new("n0");
    let order = Order {
        test: "crash::the_very_first_start",
        namespace: namespace.name(),
        pins: &pins,
        tables: SMALL_TABLES,
        then: Then::Nothing,
    };
    let points = order.trace();
    let expected = pinned(&pins);
    assert_eq!(count(&points, "BPF_OBJ_PIN"), expected.len() - 1);
    for point in &points {
        uninstall(&pins).unwrap();
        assert!(order.killed_at(point), "{point:?}");
        started(&namespace, &pins);
        assert_eq!(pinned(&pins), expected, "killed before {point:?}");
    }
}

/// Starts it in this process and sees whether it can work.
fn started(namespace: &Namespace, pins: &Path) {
    let mut datapath = namespace
        .enter(|| Datapath::load(pins, &config(0)))
        .unwrap();
    let conntrack = datapath.conntrack().unwrap();
    assert_eq!(conntrack.entries().unwrap(), []);
    assert_eq!(datapath.endpoints().unwrap(), []);
    datapath.bump_epoch().unwrap();
}

/// A pod that policy lets do nothing but call one server, while a loader
/// announces it or removes it.
#[test]
fn a_pod_that_comes_or_goes() {
    if is_the_loader() {
        return;
    }
    let mut stage = Stage::new();
    let (pins, without) = (stage.pins(), pinned(&stage.pins()));
    let namespace = stage.cluster.nodes[0].namespace.name().to_owned();
    let order = |then| Order {
        test: "crash::a_pod_that_comes_or_goes",
        namespace: &namespace,
        pins: &pins,
        tables: SMALL_TABLES,
        then,
    };
    let mut pod = plug_pod(
        &stage.cluster.nodes[0].namespace,
        0,
        9,
        304,
        [10, 244, 1, 99].into(),
    );
    pod.endpoint.default_deny_ingress = true;
    pod.endpoint.default_deny_egress = true;
    pod.endpoint.policed = true;
    stage.cluster.identify(pod.addr(), 304, 0);
    let open = Echo::start(&stage.friend.namespace, stage.friend.port(0));
    let allow = entry(Direction::Egress, 301, open.addr().port(), Verdict::Allow);
    let closed = Echo::start(&stage.friend.namespace, stage.friend.port(0));
    let own = Echo::start(&pod.namespace, pod.port(0));
    stage.node().policy.apply(9, &[allow]).unwrap();

    order(Then::Attach(pod.endpoint)).trace();
    let with = pinned(&pins);
    assert_eq!(with.len(), without.len() + 2);
    pod.namespace.talks_to(open.addr());
    let goes = order(Then::Detach(pod.endpoint)).trace();
    assert_eq!(pinned(&pins), without);
    let comes = order(Then::Attach(pod.endpoint)).trace();
    for (points, then, after) in [
        (goes, Then::Detach(pod.endpoint), &without),
        (comes, Then::Attach(pod.endpoint), &with),
    ] {
        // Loading is another test's.
        let loaded = points.iter().rposition(|one| one.what == "BPF_LINK_UPDATE");
        let points = &points[loaded.unwrap() + 1..];
        assert!(points.len() >= 6, "{points:?}");
        let mut killed = 0;
        for point in points {
            let before = match then {
                Then::Attach(_) => Then::Detach(pod.endpoint),
                _ => Then::Attach(pod.endpoint),
            };
            order(before).run();
            // With less left behind by those before it, it has fewer calls to make.
            if !order(then).killed_at(point) {
                continue;
            }
            killed += 1;
            let when = format!("killed before {point:?}");
            pod.namespace.is_refused_by(closed.addr());
            stage.friend.namespace.is_refused_by(own.addr());
            stage.holds(&when);
            order(then).run();
            assert_eq!(&pinned(&pins), after, "{when}");
            pod.namespace.is_refused_by(closed.addr());
            if let Then::Attach(_) = then {
                pod.namespace.talks_to(open.addr());
            }
        }
        assert!(killed >= 5, "{killed} of {points:?}");
    }
}
