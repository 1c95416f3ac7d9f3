//! rtnetlink inside a namespace: the few requests that the lab makes, each with
//! what it was for in its error.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder,
};

use super::ns::{NetNs, NsError};
use super::plan;

/// A request to the kernel's network configuration failed.
#[derive(Debug, thiserror::Error)]
pub enum RtnlError {
    /// The namespace could not be entered or made.
    #[error(transparent)]
    Namespace(#[from] NsError),
    /// The netlink socket could not be opened.
    #[error("netlink socket in {namespace}: {source}")]
    Socket {
        /// Name of the namespace.
        namespace: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("cannot {action} in {namespace}: {source}")]
    Refused {
        /// What was asked.
        action: String,
        /// Name of the namespace.
        namespace: String,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// A setting under /proc/sys could not be written.
    #[error("cannot set {key} in {namespace}: {source}")]
    Sysctl {
        /// The setting.
        key: String,
        /// Name of the namespace.
        namespace: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A netlink socket of one namespace. It stays there whoever uses it, so all
/// requests run on the ordinary runtime.
pub struct Rtnl {
    handle: Handle,
    namespace: String,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Rtnl {
    /// Closes the socket, which would keep the namespace alive.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One side of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Name of the link.
    pub name: &'a str,
    /// Its hardware address; the kernel chooses when absent.
    pub mac: Option<[u8; 6]>,
}

impl Rtnl {
    /// Opens a netlink socket inside the namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the namespace cannot be joined or the socket not be made.
    pub fn open(ns: &NetNs) -> Result<Self, RtnlError> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = ns
            .run(|| {
                let _guard = runtime.enter();
                rtnetlink::new_connection()
            })?
            .map_err(|source| RtnlError::Socket {
                namespace: ns.name().to_owned(),
                source,
            })?;
        Ok(Self {
            handle,
            namespace: ns.name().to_owned(),
            driver: tokio::spawn(connection),
        })
    }

    /// Index of the link of that name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn index(&self, name: &str) -> Result<u32, RtnlError> {
        let found = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute()
            .try_next()
            .await
            .map_err(|e| self.refused(format!("find link {name}"), e))?;
        match found {
            Some(link) => Ok(link.header.index),
            None => Err(self.refused(format!("find link {name}"), rtnetlink::Error::RequestFailed)),
        }
    }

    /// Makes a veth pair: `here`, which is up, in this namespace, and `there` in
    /// the other, which cannot be brought up in the same request.
    ///
    /// # Errors
    /// When the kernel refuses, for example because a name is taken.
    pub async fn add_veth(
        &self,
        here: VethEnd<'_>,
        there: VethEnd<'_>,
        other: &NetNs,
        mtu: u32,
    ) -> Result<(), RtnlError> {
        // The descriptor stays open until the kernel has answered.
        let fd = other
            .run(|| std::fs::File::open("/proc/thread-self/ns/net"))?
            .map_err(|source| RtnlError::Socket {
                namespace: other.name().to_owned(),
                source,
            })?;
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(there.name)
            .mtu(mtu)
            .setns_by_fd(fd.as_raw_fd());
        if let Some(mac) = there.mac {
            peer = peer.address(mac.to_vec());
        }
        let mut message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(here.name)
            .mtu(mtu)
            .up()
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        if let Some(mac) = here.mac {
            message = message.address(mac.to_vec());
        }
        let added = self.handle.link().add(message.build()).execute().await;
        added.map_err(|e| self.refused(format!("add veth {}", here.name), e))
    }

    /// Makes a bridge that is up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn add_bridge(&self, name: &str) -> Result<(), RtnlError> {
        let message = LinkBridge::new(name).up().build();
        let added = self.handle.link().add(message).execute().await;
        added.map_err(|e| self.refused(format!("add bridge {name}"), e))
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// When either is missing.
    pub async fn enslave(&self, link: &str, bridge: &str) -> Result<(), RtnlError> {
        let message = LinkUnspec::new_with_index(self.index(link).await?)
            .controller(self.index(bridge).await?)
            .build();
        let changed = self.handle.link().change(message).execute().await;
        changed.map_err(|e| self.refused(format!("add {link} to bridge {bridge}"), e))
    }

    /// Makes the overlay device of a node, up, without learning: its neighbours
    /// and forwarding entries are written by whoever knows the nodes.
    ///
    /// # Errors
    /// When the kernel refuses or has no VXLAN.
    pub async fn add_vxlan(
        &self,
        local: Ipv4Addr,
        mac: [u8; 6],
        mtu: u32,
    ) -> Result<(), RtnlError> {
        let message = LinkVxlan::new(plan::VXLAN_DEVICE, plan::VXLAN_ID)
            .port(plan::VXLAN_PORT)
            .local(local)
            .learning(false)
            .address(mac.to_vec())
            .mtu(mtu)
            .up()
            .build();
        let added = self.handle.link().add(message).execute().await;
        added.map_err(|e| self.refused(format!("add vxlan {}", plan::VXLAN_DEVICE), e))
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn up(&self, link: &str) -> Result<(), RtnlError> {
        let message = LinkUnspec::new_with_index(self.index(link).await?)
            .up()
            .build();
        let changed = self.handle.link().change(message).execute().await;
        changed.map_err(|e| self.refused(format!("bring {link} up"), e))
    }

    /// Removes a link; a missing one is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_link(&self, link: &str) -> Result<(), RtnlError> {
        let Ok(index) = self.index(link).await else {
            return Ok(());
        };
        let deleted = self.handle.link().del(index).execute().await;
        deleted.map_err(|e| self.refused(format!("delete {link}"), e))
    }

    /// Gives a link an address.
    ///
    /// # Errors
    /// When the link is missing or has it already.
    pub async fn add_address(&self, link: &str, ip: Ipv4Addr, prefix: u8) -> Result<(), RtnlError> {
        let index = self.index(link).await?;
        let request = self.handle.address().add(index, IpAddr::V4(ip), prefix);
        let added = request.execute().await;
        added.map_err(|e| self.refused(format!("add {ip}/{prefix} to {link}"), e))
    }

    /// A permanent neighbour: who has `ip` on `link`.
    ///
    /// # Errors
    /// When the link is missing.
    pub async fn add_neighbour(
        &self,
        link: &str,
        ip: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), RtnlError> {
        let index = self.index(link).await?;
        let request = self.handle.neighbours().add(index, IpAddr::V4(ip));
        let request = request
            .state(NeighbourState::Permanent)
            .link_layer_address(&mac)
            .replace();
        let added = request.execute().await;
        added.map_err(|e| self.refused(format!("add neighbour {ip} on {link}"), e))
    }

    /// A forwarding entry of the overlay: frames for `mac` go to node `to`.
    ///
    /// # Errors
    /// When the overlay device is missing.
    pub async fn add_forwarding(&self, mac: [u8; 6], to: Ipv4Addr) -> Result<(), RtnlError> {
        let index = self.index(plan::VXLAN_DEVICE).await?;
        let request = self.handle.neighbours().add_bridge(index, &mac);
        let request = request
            .destination(IpAddr::V4(to))
            .flags(rtnetlink::packet_route::neighbour::NeighbourFlags::Own)
            .replace();
        let added = request.execute().await;
        added.map_err(|e| self.refused(format!("add forwarding entry to {to}"), e))
    }

    /// A route to `net/prefix`.
    ///
    /// # Errors
    /// When the link is missing or the route exists.
    pub async fn add_route(&self, route: Route<'_>) -> Result<(), RtnlError> {
        let index = self.index(route.link).await?;
        let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.net, route.prefix)
            .output_interface(index);
        builder = match route.via {
            Some(gateway) => builder.gateway(gateway).onlink(),
            None => builder.scope(rtnetlink::packet_route::route::RouteScope::Link),
        };
        if let Some(source) = route.source {
            builder = builder.pref_source(source);
        }
        let added = self.handle.route().add(builder.build()).execute().await;
        added.map_err(|e| {
            let Route {
                net, prefix, link, ..
            } = route;
            self.refused(format!("add route {net}/{prefix} dev {link}"), e)
        })
    }

    fn refused(&self, action: String, source: rtnetlink::Error) -> RtnlError {
        RtnlError::Refused {
            action,
            namespace: self.namespace.clone(),
            source,
        }
    }
}

/// An IPv4 route.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// Destination network.
    pub net: Ipv4Addr,
    /// Length of its prefix.
    pub prefix: u8,
    /// Link the packets leave by.
    pub link: &'a str,
    /// Gateway, taken as reachable on the link whatever its address.
    pub via: Option<Ipv4Addr>,
    /// Source address of packets that the namespace itself sends.
    pub source: Option<Ipv4Addr>,
}

/// Writes settings under /proc/sys inside a namespace, given as paths
/// (`net/ipv4/ip_forward`).
///
/// # Errors
/// On the first that cannot be written.
pub fn write_sysctls(ns: &NetNs, settings: &[(&str, &str)]) -> Result<(), RtnlError> {
    ns.run(|| {
        settings.iter().try_for_each(|(key, value)| {
            std::fs::write(format!("/proc/sys/{key}"), value).map_err(|source| RtnlError::Sysctl {
                key: (*key).to_owned(),
                namespace: ns.name().to_owned(),
                source,
            })
        })
    })?
}
