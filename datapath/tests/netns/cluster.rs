//! Two nodes on a bridge, pods on them, and a world outside.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_datapath::testing::{SMALL_TABLES, TempBpffs};
use weft_datapath::{
    Address, Config, Datapath, Direction, Endpoint, Event, EventKind, Events, Ipcache,
    NodeSettings, PolicyEntry, PolicyMap, Verdict,
};

use crate::support::{Namespace, SOON};

pub const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const OVERLAY_PORT: u16 = 8472;
const OVERLAY: &str = "weft_vxlan";

/// How nodes reach each other's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    Native,
    Vxlan,
}

/// A pod and its namespace.
pub struct Pod {
    pub namespace: Namespace,
    pub endpoint: Endpoint,
    pub node: usize,
}

impl Pod {
    pub fn addr(&self) -> Ipv4Addr {
        self.endpoint.addr
    }

    pub fn port(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.addr(), port)
    }
}

/// A node with the programs attached.
pub struct Node {
    pub namespace: Namespace,
    pub addr: Ipv4Addr,
    pub config: Config,
    pub datapath: Datapath,
    pub policy: PolicyMap,
    pub pins: PathBuf,
    ipcache: Ipcache,
    events: Events,
    seen: Vec<Event>,
    _state_file: RemoveFile,
}

/// Everything, taken down when dropped.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub world: Namespace,
    next: u32,
    _fabric: Namespace,
    _bpffs: TempBpffs,
}

impl Cluster {
    pub fn new(routing: Routing) -> Self {
        Self::with(routing, |_| {})
    }

    /// With other settings than the usual.
    pub fn with(routing: Routing, change: impl Fn(&mut Config)) -> Self {
        let bpffs = TempBpffs::new().expect("mounting bpffs needs root");
        let fabric = Namespace::new("fabric");
        fabric.ip("link add br0 type bridge\naddr add 172.18.0.1/16 dev br0\nlink set br0 up");
        let world = Namespace::new("world");
        plug(&fabric, &world, "w0");
        world.ip(&format!(
            "addr add 172.18.0.200/16 dev eth0\naddr add {WORLD}/32 dev lo"
        ));
        let nodes = (0..2)
            .map(|index| node(index, routing, &fabric, &bpffs, &change))
            .collect();
        Self {
            nodes,
            world,
            next: 0,
            _fabric: fabric,
            _bpffs: bpffs,
        }
    }

    /// Starts a pod: announced, attached, known to both nodes.
    pub fn pod(&mut self, node: usize, identity: u32) -> Pod {
        self.next += 1;
        let addr = Ipv4Addr::new(10, 244, node as u8 + 1, 9 + self.next as u8);
        self.pod_at(node, identity, addr)
    }

    /// Starts a pod with this address.
    pub fn pod_at(&mut self, node: usize, identity: u32, addr: Ipv4Addr) -> Pod {
        self.next += 1;
        let id = self.next;
        let pod = plug_pod(&self.nodes[node].namespace, node, id, identity, addr);
        self.identify(addr, identity, node);
        self.nodes[node].attach(&pod.endpoint);
        pod
    }

    /// Takes a pod's veth and namespace away; nobody tells the datapath.
    pub fn unplug(&self, pod: Pod) {
        let veth = format!("link del veth{}", pod.endpoint.id);
        self.nodes[pod.node].namespace.ip(&veth);
    }

    /// Tells both nodes whose address it is.
    pub fn identify(&mut self, addr: Ipv4Addr, identity: u32, host: usize) {
        let host_addr = self.nodes[host].addr;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let node_addr = (index != host).then_some(host_addr);
            let address = Address {
                identity,
                node: node_addr,
            };
            node.ipcache.upsert(Ipv4Net::from(addr), address).unwrap();
        }
    }

    /// Turns default deny on for the pod in this direction and sets its
    /// entries.
    pub fn police(&mut self, pod: &Pod, direction: Direction, entries: &[PolicyEntry]) {
        let node = &mut self.nodes[pod.node];
        node.policy.apply(pod.endpoint.id, entries).unwrap();
        let mut endpoint = pod.endpoint;
        endpoint.default_deny_ingress = direction == Direction::Ingress;
        endpoint.default_deny_egress = direction == Direction::Egress;
        endpoint.policed = true;
        node.datapath.update_endpoint(&endpoint).unwrap();
    }
}

impl Node {
    pub fn attach(&mut self, endpoint: &Endpoint) {
        let datapath = &mut self.datapath;
        self.namespace
            .enter(|| datapath.attach_endpoint(endpoint))
            .unwrap();
    }

    /// Gives up everything but the namespace.
    pub fn disband(self) -> Namespace {
        self.namespace
    }

    /// Loads the programs anew, as a restarted agent does.
    pub fn reload(&mut self) {
        let (pins, config) = (&self.pins, &self.config);
        self.datapath = self
            .namespace
            .enter(|| Datapath::load(pins, config))
            .unwrap();
    }

    /// Waits for an event; events before it are kept for [`Node::seen`].
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let start = Instant::now();
        let mut checked = 0;
        loop {
            self.seen.extend(std::iter::from_fn(|| self.events.next()));
            if let Some(event) = self.seen[checked..].iter().find(|event| wanted(event)) {
                return event.clone();
            }
            checked = self.seen.len();
            let left = SOON.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "no {what} among {:#?}", self.seen);
            let mut fds = [PollFd::new(&self.events, PollFlags::IN)];
            let left = Timespec::try_from(left.min(Duration::from_millis(100))).unwrap();
            poll(&mut fds, Some(&left)).unwrap();
        }
    }

    /// Waits for a drop between these.
    pub fn wait_for_drop(&mut self, src: Ipv4Addr, dst: Ipv4Addr) -> Event {
        self.wait_for(&format!("drop from {src} to {dst}"), |event| {
            matches!(event.kind, EventKind::Drop(_)) && event.src == src && event.dst == dst
        })
    }

    /// Forgets the events so far.
    pub fn forget_events(&mut self) {
        while self.events.next().is_some() {}
        self.seen.clear();
    }

    /// The events since the last [`Node::forget_events`].
    pub fn seen(&mut self) -> &[Event] {
        self.seen.extend(std::iter::from_fn(|| self.events.next()));
        &self.seen
    }
}

/// Removes a file when dropped.
struct RemoveFile(PathBuf);

impl Drop for RemoveFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// An entry for one peer and TCP port, as rule 11.
pub fn entry(direction: Direction, identity: u32, port: u16, verdict: Verdict) -> PolicyEntry {
    PolicyEntry {
        identity,
        direction,
        protocol: 6,
        port,
        port_bits: 16,
        verdict,
        priority: if matches!(verdict, Verdict::Redirect(_)) {
            90
        } else {
            0
        },
        matched: 24,
        rule: 11,
    }
}

/// Connects a namespace's `eth0` to the bridge.
fn plug(fabric: &Namespace, namespace: &Namespace, port: &str) {
    fabric.ip(&format!(
        "link add {port} type veth peer name eth0 netns {}\nlink set {port} master br0 up",
        namespace.name()
    ));
    namespace.ip("link set eth0 up");
}

/// The settings of a node whose pods are reached by plain routes.
pub fn config(index: usize) -> Config {
    let pods = format!("10.244.{}.0/24", index + 1).parse().unwrap();
    let mut config = Config::new(node_addr(index), pods);
    config.tables = SMALL_TABLES;
    config
}

fn node_addr(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 18, 0, index as u8 + 2)
}

fn node(
    index: usize,
    routing: Routing,
    fabric: &Namespace,
    bpffs: &TempBpffs,
    change: &impl Fn(&mut Config),
) -> Node {
    let namespace = Namespace::new(&format!("n{index}"));
    plug(fabric, &namespace, &format!("n{index}"));
    let (addr, peer) = (node_addr(index), node_addr(1 - index));
    namespace.ip(&format!(
        "addr add {addr}/16 dev eth0\nroute add default via 172.18.0.200"
    ));
    route_to_peer(&namespace, index, routing, addr, peer);
    let mut config = config(index);
    config.overlay = (routing == Routing::Vxlan).then_some(OVERLAY_PORT);
    change(&mut config);
    let pins = bpffs.path().join(format!("node{index}"));
    let state_file = std::env::temp_dir().join(format!("{}.json", namespace.name()));
    let datapath = namespace.enter(|| {
        NodeSettings::new(&config.marks).apply(&state_file).unwrap();
        let mut datapath = Datapath::load(&pins, &config).expect("loading needs root");
        datapath.attach_uplink("eth0").unwrap();
        if routing == Routing::Vxlan {
            datapath.attach_overlay(OVERLAY).unwrap();
        }
        datapath
    });
    let mut ipcache = datapath.ipcache().unwrap();
    for (node, identity) in [(addr, 1), (peer, 6)] {
        ipcache
            .upsert(
                Ipv4Net::from(node),
                Address {
                    identity,
                    node: None,
                },
            )
            .unwrap();
    }
    Node {
        policy: datapath.policy().unwrap(),
        events: datapath.events().unwrap(),
        ipcache,
        namespace,
        addr,
        config,
        datapath,
        pins,
        seen: Vec::new(),
        _state_file: RemoveFile(state_file),
    }
}

fn route_to_peer(
    namespace: &Namespace,
    index: usize,
    routing: Routing,
    addr: Ipv4Addr,
    peer: Ipv4Addr,
) {
    let other = 2 - index;
    if routing == Routing::Native {
        namespace.ip(&format!("route add 10.244.{other}.0/24 via {peer}"));
        return;
    }
    let mac = |node: usize| format!("02:42:00:00:00:0{node}");
    namespace.ip(&format!(
        "link add {OVERLAY} address {} mtu 1450 type vxlan id 42 dstport {OVERLAY_PORT} nolearning local {addr}\n\
         link set {OVERLAY} up\n\
         route add 10.244.{other}.0/24 via 10.244.{other}.0 dev {OVERLAY} onlink src {addr}\n\
         neigh add 10.244.{other}.0 dev {OVERLAY} lladdr {} nud permanent",
        mac(index + 1),
        mac(other),
    ));
    namespace.bridge(&format!(
        "fdb append {} dev {OVERLAY} dst {peer}",
        mac(other)
    ));
}

/// Makes a pod's namespace and its veth; nothing is announced.
pub fn plug_pod(node: &Namespace, index: usize, id: u32, identity: u32, addr: Ipv4Addr) -> Pod {
    let namespace = Namespace::new(&format!("p{id}"));
    let veth = format!("veth{id}");
    let (mac, host_mac) = ([2, 0, 0, 0, 0, id as u8], [2, 1, 0, 0, 0, id as u8]);
    let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    node.ip(&format!(
        "link add {veth} address {} type veth peer name eth0 address {} netns {}\n\
         link set {veth} up\n\
         route add {addr}/32 dev {veth}\n\
         neigh add {addr} dev {veth} lladdr {} nud permanent",
        text(host_mac),
        text(mac),
        namespace.name(),
        text(mac),
    ));
    namespace.ip(&format!(
        "addr add {addr}/32 dev eth0\n\
         link set eth0 up\n\
         route add default via 169.254.1.1 dev eth0 onlink\n\
         neigh add 169.254.1.1 dev eth0 lladdr {} nud permanent",
        text(host_mac),
    ));
    let ifindex = interface_index(node, &veth);
    let endpoint = Endpoint {
        id,
        identity,
        addr,
        ifindex,
        mac,
        host_mac,
        default_deny_ingress: false,
        default_deny_egress: false,
        policed: false,
    };
    Pod {
        namespace,
        endpoint,
        node: index,
    }
}

fn interface_index(node: &Namespace, name: &str) -> u32 {
    let text = node.command("ip", &["-o", "link", "show", name]);
    text.split(':').next().unwrap().trim().parse().unwrap()
}
