//! Builds the underlay, the nodes and the world of a plan.

use std::net::Ipv4Addr;

use super::ns::NetNs;
use super::plan::{self, NodePlan, Plan, Routing};
use super::rtnl::{Route, Rtnl, RtnlError, VethEnd, write_sysctls};

/// The bridge of the underlay.
const BRIDGE: &str = "underlay";
const EVERYWHERE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// No link-local addresses: a node of this lab speaks IPv4, and duplicate
/// address detection and router solicitations would only fill the flow log.
pub(super) const QUIET_IPV6: [(&str, &str); 2] = [
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

/// Makes the fabric with its bridge, then the world and every node on it.
/// Names are written to `journal` before they are made, so that a crash leaves
/// nothing that `down` does not know.
///
/// # Errors
/// On the first thing that cannot be made; what was made stays for the caller
/// to remove.
pub async fn build(
    plan: &Plan,
    world_addresses: &[Ipv4Addr],
    journal: &mut (dyn FnMut(&str) -> std::io::Result<()> + Send),
) -> Result<(), RtnlError> {
    let fabric = create(&plan.fabric_netns(), journal)?;
    let fabric_links = Rtnl::open(&fabric)?;
    fabric_links.up("lo").await?;
    fabric_links.add_bridge(BRIDGE).await?;
    fabric_links
        .add_address(BRIDGE, plan::FABRIC_IP, plan::UNDERLAY_PREFIX)
        .await?;

    let world = create(&plan.world_netns(), journal)?;
    attach(&fabric_links, &world, "world", plan::WORLD_IP).await?;
    let world_links = Rtnl::open(&world)?;
    for address in world_addresses {
        world_links.add_address("lo", *address, 32).await?;
    }

    for node in &plan.nodes {
        let ns = create(&plan.node_netns(&node.name), journal)?;
        attach(&fabric_links, &ns, &format!("node{}", node.index), node.ip).await?;
        configure_node(plan, node, &ns).await?;
    }
    Ok(())
}

fn create(
    name: &str,
    journal: &mut (dyn FnMut(&str) -> std::io::Result<()> + Send),
) -> Result<NetNs, RtnlError> {
    journal(name).map_err(|source| RtnlError::Socket {
        namespace: name.to_owned(),
        source,
    })?;
    let ns = NetNs::create(name)?;
    write_sysctls(&ns, &QUIET_IPV6)?;
    Ok(ns)
}

/// Hangs a namespace on the bridge: `eth0` there, `port` on the bridge.
async fn attach(fabric: &Rtnl, ns: &NetNs, port: &str, ip: Ipv4Addr) -> Result<(), RtnlError> {
    let here = VethEnd {
        name: port,
        mac: None,
    };
    let there = VethEnd {
        name: "eth0",
        mac: None,
    };
    fabric.add_veth(here, there, ns, 1500).await?;
    fabric.enslave(port, BRIDGE).await?;
    let links = Rtnl::open(ns)?;
    links.up("lo").await?;
    links.up("eth0").await?;
    links.add_address("eth0", ip, plan::UNDERLAY_PREFIX).await
}

async fn configure_node(plan: &Plan, node: &NodePlan, ns: &NetNs) -> Result<(), RtnlError> {
    // Forwarding, and no reverse-path filter: the overlay's answers to a node's
    // own address come back on another link than the request left by.
    write_sysctls(
        ns,
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/eth0/rp_filter", "0"),
        ],
    )?;
    let links = Rtnl::open(ns)?;
    links
        .add_route(Route {
            net: EVERYWHERE,
            prefix: 0,
            link: "eth0",
            via: Some(plan::WORLD_IP),
            source: None,
        })
        .await?;
    if plan.routing == Routing::Vxlan {
        let mtu = plan.routing.pod_mtu();
        links.add_vxlan(node.ip, node.vxlan_mac(), mtu).await?;
    }
    for peer in plan.nodes.iter().filter(|peer| peer.index != node.index) {
        add_peer(plan, node, peer, &links).await?;
    }
    Ok(())
}

/// Teaches a node the way to another node's pods.
async fn add_peer(
    plan: &Plan,
    node: &NodePlan,
    peer: &NodePlan,
    links: &Rtnl,
) -> Result<(), RtnlError> {
    let mut route = Route {
        net: peer.pod_net(),
        prefix: 24,
        link: "eth0",
        via: Some(peer.ip),
        source: None,
    };
    if plan.routing == Routing::Vxlan {
        links
            .add_neighbour(plan::VXLAN_DEVICE, peer.pod_net(), peer.vxlan_mac())
            .await?;
        links.add_forwarding(peer.vxlan_mac(), peer.ip).await?;
        route.link = plan::VXLAN_DEVICE;
        route.via = Some(peer.pod_net());
        route.source = Some(node.ip);
    }
    links.add_route(route).await
}
