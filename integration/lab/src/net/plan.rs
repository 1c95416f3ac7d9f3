//! The address plan: which node, pod and service lives where. Pure.

use std::fmt;
use std::net::Ipv4Addr;

/// Bridge of the underlay.
pub const FABRIC_IP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
/// The world's address on the underlay: the nodes' default gateway.
pub const WORLD_IP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 200);
/// Prefix length of the underlay.
pub const UNDERLAY_PREFIX: u8 = 16;
/// Gateway as pods see it: one address for all, answered by a static neighbour.
pub const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// ClusterIP of the cluster's DNS.
pub const DNS_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The overlay device of a node.
pub const VXLAN_DEVICE: &str = "weft_vxlan";
/// VXLAN network identifier of the overlay.
pub const VXLAN_ID: u32 = 42;
/// UDP port of the overlay (the one that Linux and Cilium default to).
pub const VXLAN_PORT: u16 = 8472;
/// Most nodes of a lab: their addresses end before the world's.
pub const MAX_NODES: u8 = 100;
/// First host number given to a pod in its node's /24.
pub const FIRST_POD: u8 = 10;

/// How packets between nodes travel.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// Encapsulated, through a VXLAN device.
    Vxlan,
    /// As they are, through plain routes.
    Native,
}

impl Routing {
    /// MTU of a pod's eth0 in bytes: VXLAN over IPv4 takes 50 of the 1500.
    pub fn pod_mtu(self) -> u32 {
        match self {
            Self::Vxlan => 1450,
            Self::Native => 1500,
        }
    }
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "vxlan",
            Self::Native => "native",
        })
    }
}

/// What a lab consists of.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// Name of the lab: prefix of its namespaces, directory of its state.
    pub lab: String,
    /// How packets between nodes travel.
    pub routing: Routing,
    /// Its nodes in order.
    pub nodes: Vec<NodePlan>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NodePlan {
    /// 1-based.
    pub index: u8,
    /// As kind names them: `kind-worker`, `kind-worker2`, ...
    pub name: String,
    /// Address on the underlay.
    pub ip: Ipv4Addr,
}

/// A name or number that no lab can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// Names become parts of namespace names and paths.
    #[error("lab name {0:?} must be 1 to 20 of a-z, 0-9 and -, beginning with a letter")]
    Name(String),
    /// The address plan has room for a limited number.
    #[error("{0} nodes: a lab has 1 to {MAX_NODES}")]
    Nodes(u8),
}

impl Plan {
    /// Plans a lab of that many nodes.
    ///
    /// # Errors
    /// On a name or a number that does not fit.
    pub fn new(lab: &str, nodes: u8, routing: Routing) -> Result<Self, PlanError> {
        check_name(lab)?;
        if nodes == 0 || nodes > MAX_NODES {
            return Err(PlanError::Nodes(nodes));
        }
        Ok(Self {
            lab: lab.to_owned(),
            routing,
            nodes: (1..=nodes).map(NodePlan::new).collect(),
        })
    }

    /// Namespace that holds the underlay's bridge.
    pub fn fabric_netns(&self) -> String {
        format!("{}-fabric", self.lab)
    }

    /// Namespace of the hosts outside the cluster.
    pub fn world_netns(&self) -> String {
        format!("{}-world", self.lab)
    }

    /// Namespace of a node.
    pub fn node_netns(&self, node: &str) -> String {
        format!("{}-{node}", self.lab)
    }

    /// Namespace of a pod; cut and made unique by a hash when too long to read.
    pub fn pod_netns(&self, namespace: &str, pod: &str) -> String {
        const MOST: usize = 63;
        let name = format!("{}-{namespace}-{pod}", self.lab);
        if name.len() <= MOST {
            return name;
        }
        format!(
            "{}-{:08x}",
            &name[..MOST - 9],
            fnv1a(name.as_bytes()) as u32
        )
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&NodePlan> {
        self.nodes.iter().find(|n| n.name == name)
    }
}

impl NodePlan {
    fn new(index: u8) -> Self {
        Self {
            index,
            name: match index {
                1 => "kind-worker".to_owned(),
                n => format!("kind-worker{n}"),
            },
            ip: Ipv4Addr::new(172, 18, 0, index + 1),
        }
    }

    /// First address of the node's pods, which also names it on the overlay.
    pub fn pod_net(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.index, 0)
    }

    /// The node's pod range, `10.244.<index>.0/24`.
    pub fn pod_cidr(&self) -> String {
        format!("{}/24", self.pod_net())
    }

    /// MAC of the overlay device.
    pub fn vxlan_mac(&self) -> [u8; 6] {
        mac(0xfe, self.ip)
    }
}

/// MAC of a pod's eth0.
pub fn pod_mac(ip: Ipv4Addr) -> [u8; 6] {
    mac(0x00, ip)
}

/// MAC of the node's side of a pod's veth.
pub fn host_mac(ip: Ipv4Addr) -> [u8; 6] {
    mac(0xff, ip)
}

/// Name of the node's side of a pod's veth: 15 characters, the kernel's most.
pub fn host_veth(uid: &str) -> String {
    format!("lxc{:012x}", fnv1a(uid.as_bytes()) & 0xffff_ffff_ffff)
}

/// Checks a lab's name.
///
/// # Errors
/// When it cannot be part of namespace names and paths.
pub fn check_name(lab: &str) -> Result<(), PlanError> {
    let fits = (1..=20).contains(&lab.len())
        && lab.starts_with(|c: char| c.is_ascii_lowercase())
        && lab
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if fits {
        Ok(())
    } else {
        Err(PlanError::Name(lab.to_owned()))
    }
}

/// Locally administered, so it can meet no real card's.
fn mac(second: u8, ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x02, second, a, b, c, d]
}

/// 64-bit FNV-1a: short stable names, no security in it.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Host numbers of one node's pods. The lowest free one is given out, so an
/// address comes back at once when its pod is gone: whatever confuses an old
/// pod's identity with a new one's is found here and not in production.
#[derive(Debug)]
pub struct AddressPool {
    net: Ipv4Addr,
    taken: std::collections::BTreeSet<u8>,
}

impl AddressPool {
    /// The pool of a node.
    pub fn new(node: &NodePlan) -> Self {
        Self {
            net: node.pod_net(),
            taken: Default::default(),
        }
    }

    /// The lowest free address, or `None` when all are taken.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let host = (FIRST_POD..=254).find(|h| !self.taken.contains(h))?;
        self.taken.insert(host);
        let [a, b, c, _] = self.net.octets();
        Some(Ipv4Addr::new(a, b, c, host))
    }

    /// Gives an address back.
    pub fn release(&mut self, ip: Ipv4Addr) {
        self.taken.remove(&ip.octets()[3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_and_numbered_like_kinds() {
        let plan = Plan::new("weft", 3, Routing::Vxlan).unwrap();
        let names: Vec<_> = plan.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["kind-worker", "kind-worker2", "kind-worker3"]);
        assert_eq!(plan.nodes[2].ip, Ipv4Addr::new(172, 18, 0, 4));
        assert_eq!(plan.nodes[2].pod_cidr(), "10.244.3.0/24");
        assert_eq!(plan.node_netns("kind-worker2"), "weft-kind-worker2");
    }

    #[test]
    fn bad_labs_are_refused() {
        assert_eq!(
            Plan::new("We/ft", 1, Routing::Native).unwrap_err(),
            PlanError::Name("We/ft".to_owned())
        );
        assert_eq!(
            Plan::new("weft", 0, Routing::Native).unwrap_err(),
            PlanError::Nodes(0)
        );
        assert!(Plan::new("weft", 101, Routing::Native).is_err());
    }

    #[test]
    fn long_pod_names_stay_short_and_distinct() {
        let plan = Plan::new("weft", 1, Routing::Vxlan).unwrap();
        let long = "x".repeat(80);
        let (a, b) = (
            plan.pod_netns("default", &format!("{long}a")),
            plan.pod_netns("default", &format!("{long}b")),
        );
        assert_eq!(plan.pod_netns("default", "xwing"), "weft-default-xwing");
        assert_eq!(a.len(), 63);
        assert_ne!(a, b);
    }

    #[test]
    fn host_veths_fit_the_kernel() {
        assert_eq!(host_veth("2e0c8a6c-5d0e-4f6e").len(), 15);
        assert_ne!(host_veth("a"), host_veth("b"));
    }

    #[test]
    fn a_released_address_is_the_next_given() {
        let plan = Plan::new("weft", 1, Routing::Vxlan).unwrap();
        let mut pool = AddressPool::new(&plan.nodes[0]);
        let first = pool.take().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 244, 1, 10));
        assert_eq!(pool.take(), Some(Ipv4Addr::new(10, 244, 1, 11)));
        pool.release(first);
        assert_eq!(pool.take(), Some(first));
        while pool.take().is_some() {}
        pool.release(Ipv4Addr::new(10, 244, 1, 200));
        assert_eq!(pool.take(), Some(Ipv4Addr::new(10, 244, 1, 200)));
        assert_eq!(pool.take(), None);
    }
}
