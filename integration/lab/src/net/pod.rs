//! A pod's wiring: its namespace, its veth, its only route.

use std::net::Ipv4Addr;

use super::ns::{self, NetNs};
use super::plan::{self, Plan};
use super::rtnl::{Route, Rtnl, RtnlError, VethEnd, write_sysctls};
use super::topology::QUIET_IPV6;

/// What a pod's network consists of.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct PodNet {
    /// Namespace of the pod.
    pub netns: String,
    /// Namespace of its node.
    pub node_netns: String,
    /// The node's side of the veth.
    pub veth: String,
    /// The pod's address.
    pub ip: Ipv4Addr,
}

impl PodNet {
    /// Makes the namespace and wires it to its node. Every address is static:
    /// the pod finds its gateway, and the node finds the pod, without ARP.
    ///
    /// # Errors
    /// When the kernel refuses; what was made is removed again.
    pub async fn create(&self, plan: &Plan) -> Result<(), RtnlError> {
        // A name that is taken is another's: nothing of it is removed.
        let pod = NetNs::create(&self.netns)?;
        let made = self.wire(plan, &pod).await;
        if made.is_err() {
            // The first error is the one to tell.
            let _ = self.remove().await;
        }
        made
    }

    async fn wire(&self, plan: &Plan, pod: &NetNs) -> Result<(), RtnlError> {
        write_sysctls(pod, &QUIET_IPV6)?;
        let node = NetNs::open(&self.node_netns)?;
        let node_links = Rtnl::open(&node)?;
        let here = VethEnd {
            name: &self.veth,
            mac: Some(plan::host_mac(self.ip)),
        };
        let there = VethEnd {
            name: "eth0",
            mac: Some(plan::pod_mac(self.ip)),
        };
        node_links
            .add_veth(here, there, pod, plan.routing.pod_mtu())
            .await?;

        let links = Rtnl::open(pod)?;
        links.up("lo").await?;
        links.up("eth0").await?;
        links.add_address("eth0", self.ip, 32).await?;
        links
            .add_route(Route {
                net: Ipv4Addr::UNSPECIFIED,
                prefix: 0,
                link: "eth0",
                via: Some(plan::POD_GATEWAY),
                source: None,
            })
            .await?;
        links
            .add_neighbour("eth0", plan::POD_GATEWAY, plan::host_mac(self.ip))
            .await?;

        // The neighbour before the route: who sees the route sees a whole pod.
        node_links
            .add_neighbour(&self.veth, self.ip, plan::pod_mac(self.ip))
            .await?;
        node_links
            .add_route(Route {
                net: self.ip,
                prefix: 32,
                link: &self.veth,
                via: None,
                source: None,
            })
            .await
    }

    /// Removes veth and namespace. Missing ones are fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove(&self) -> Result<(), RtnlError> {
        // The link goes first and at once; a namespace's own end is lazy, and
        // its address may be given out again right after this.
        if let Ok(node) = NetNs::open(&self.node_netns) {
            Rtnl::open(&node)?.delete_link(&self.veth).await?;
        }
        Ok(ns::delete(&self.netns)?)
    }
}
