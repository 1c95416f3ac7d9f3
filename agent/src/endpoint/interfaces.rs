//! What the node's network looks like. Which host interface a pod is behind:
//! the route to its address names it, the permanent neighbour entry has the
//! pod's hardware address. And which addresses are the node's own.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::Ipv4Addr;

use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Why the node's interfaces could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InterfacesError {
    /// The kernel refused a dump.
    #[error("netlink: {0}")]
    Netlink(#[from] rtnetlink::Error),
    /// No netlink socket.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
}

/// The host's end of a pod's cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Index of the host interface.
    pub ifindex: u32,
    /// Hardware address of the pod's end.
    pub mac: [u8; 6],
    /// Hardware address of the host's end.
    pub host_mac: [u8; 6],
}

/// The interfaces of this node's pods at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    routes: HashMap<Ipv4Addr, u32>,
    neighbours: HashMap<(u32, Ipv4Addr), [u8; 6]>,
    links: HashMap<u32, [u8; 6]>,
    own: BTreeSet<Ipv4Net>,
}

impl Interfaces {
    /// Of pods with these addresses, each behind its interface.
    #[cfg(test)]
    pub(crate) fn these(pods: impl IntoIterator<Item = (Ipv4Addr, Interface)>) -> Self {
        let mut all = Self::default();
        for (ip, interface) in pods {
            all.routes.insert(ip, interface.ifindex);
            all.neighbours
                .insert((interface.ifindex, ip), interface.mac);
            all.links.insert(interface.ifindex, interface.host_mac);
        }
        all
    }

    /// What the node's stack takes for itself: its addresses on every
    /// interface and the broadcast addresses that go with them. Loopback is
    /// left out, for nothing from elsewhere gets there.
    pub fn own(&self) -> &BTreeSet<Ipv4Net> {
        &self.own
    }

    /// The interface behind which this address is; none while the route or the
    /// neighbour entry is missing.
    pub fn of(&self, ip: Ipv4Addr) -> Option<Interface> {
        let ifindex = *self.routes.get(&ip)?;
        Some(Interface {
            ifindex,
            mac: *self.neighbours.get(&(ifindex, ip))?,
            host_mac: *self.links.get(&ifindex)?,
        })
    }
}

/// Reads the node's interfaces and tells when they change.
pub struct Monitor {
    handle: rtnetlink::Handle,
    changed: mpsc::Receiver<()>,
}

impl Monitor {
    /// Opens the sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When no netlink socket can be had.
    pub fn open(tasks: &mut JoinSet<()>) -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tasks.spawn(connection);
        let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
        ])?;
        tasks.spawn(connection);
        // One pending signal says all: the whole picture is read each time.
        let (signal, changed) = mpsc::channel(1);
        tasks.spawn(async move {
            while messages.next().await.is_some() {
                if let Err(mpsc::error::TrySendError::Closed(())) = signal.try_send(()) {
                    return;
                }
            }
        });
        Ok(Self { handle, changed })
    }

    /// Returns when something changed since the last call.
    pub async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            // The socket is gone: nothing more will be told.
            std::future::pending::<()>().await;
        }
    }

    /// Reads the picture of this moment.
    ///
    /// # Errors
    /// When the kernel refuses a dump.
    pub async fn read(&self) -> Result<Interfaces, InterfacesError> {
        let mut found = Interfaces::default();
        let route = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(route).execute();
        while let Some(message) = routes.try_next().await? {
            if let Some((ip, ifindex)) = host_route(&message) {
                found.routes.insert(ip, ifindex);
            }
            found.own.extend(own_addresses(&message));
        }
        let mut neighbours = self
            .handle
            .neighbours()
            .get()
            .set_address_family(AddressFamily::Inet)
            .execute();
        while let Some(message) = neighbours.try_next().await? {
            if message.header.state != NeighbourState::Permanent {
                continue;
            }
            let mut ip = None;
            let mut mac = None;
            for attribute in &message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => ip = Some(*to),
                    NeighbourAttribute::LinkLayerAddress(bytes) => {
                        mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
                    }
                    _ => {}
                }
            }
            if let (Some(ip), Some(mac)) = (ip, mac) {
                found.neighbours.insert((message.header.ifindex, ip), mac);
            }
        }
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await? {
            let mac = message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
                    _ => None,
                });
            if let Some(mac) = mac {
                found.links.insert(message.header.index, mac);
            }
        }
        Ok(found)
    }
}

/// Address and interface of a route to a single host through an interface (not
/// through a gateway: that is another node's).
fn host_route(message: &RouteMessage) -> Option<(Ipv4Addr, u32)> {
    if message.header.destination_prefix_length != 32 {
        return None;
    }
    let mut ip = None;
    let mut ifindex = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => ip = Some(*to),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            // The kernel's own local and broadcast routes are no pods'.
            RouteAttribute::Table(table) if *table != MAIN_TABLE => return None,
            _ => {}
        }
    }
    Some((ip?, ifindex?))
}

/// The addresses of a route by which the kernel delivers to the node itself.
/// Other tables than its own may have such routes for other purposes: ours for
/// the proxy takes every address.
fn own_addresses(message: &RouteMessage) -> Option<Ipv4Net> {
    if !matches!(
        message.header.kind,
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast
    ) {
        return None;
    }
    let mut to = None;
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = Some(*ip),
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let range = Ipv4Net::new(to?, message.header.destination_prefix_length).ok()?;
    (table == LOCAL_TABLE && !range.addr().is_loopback()).then_some(range)
}

/// `RT_TABLE_MAIN`.
const MAIN_TABLE: u32 = 254;
/// `RT_TABLE_LOCAL`.
const LOCAL_TABLE: u32 = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.destination_prefix_length = prefix;
        message.attributes = attributes;
        message
    }

    fn to(ip: [u8; 4]) -> RouteAttribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip.into()))
    }

    #[test]
    fn only_direct_host_routes_of_the_main_table_are_pods() {
        let pod = [10, 244, 1, 10];
        let direct = route(
            32,
            vec![RouteAttribute::Table(254), to(pod), RouteAttribute::Oif(7)],
        );
        assert_eq!(host_route(&direct), Some((pod.into(), 7)));
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([10, 244, 2, 0].into()));
        for other in [
            route(24, vec![to(pod), RouteAttribute::Oif(7)]),
            route(32, vec![to(pod), RouteAttribute::Oif(7), gateway]),
            route(
                32,
                vec![RouteAttribute::Table(255), to(pod), RouteAttribute::Oif(7)],
            ),
        ] {
            assert_eq!(host_route(&other), None);
        }
    }

    #[test]
    fn own_addresses_are_those_of_the_local_table() {
        let of = |kind, table, ip: [u8; 4], prefix| {
            let mut message = route(prefix, vec![RouteAttribute::Table(table), to(ip)]);
            message.header.kind = kind;
            own_addresses(&message).map(|range| range.to_string())
        };
        let bridge = [172, 17, 0, 1];
        let found = of(RouteType::Local, 255, bridge, 32);
        assert_eq!(found.as_deref(), Some("172.17.0.1/32"));
        let found = of(RouteType::Broadcast, 255, [172, 17, 255, 255], 32);
        assert_eq!(found.as_deref(), Some("172.17.255.255/32"));
        assert_eq!(of(RouteType::Unicast, 254, [172, 17, 0, 0], 16), None);
        assert_eq!(of(RouteType::Local, 255, [127, 0, 0, 0], 8), None);
        assert_eq!(of(RouteType::Local, 2004, [10, 0, 0, 0], 8), None);
    }

    #[test]
    fn an_interface_is_complete_or_not_there() {
        let ip = Ipv4Addr::new(10, 244, 1, 10);
        let mut found = Interfaces::default();
        found.routes.insert(ip, 7);
        found.links.insert(7, [2; 6]);
        assert_eq!(found.of(ip), None);
        found.neighbours.insert((7, ip), [1; 6]);
        assert_eq!(
            found.of(ip),
            Some(Interface {
                ifindex: 7,
                mac: [1; 6],
                host_mac: [2; 6],
            })
        );
    }
}
