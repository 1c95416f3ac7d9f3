//! Settings of a node's datapath.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::Ipv4Net;
use weft_datapath_common::{Config as RawConfig, config_flags};

use crate::Error;

/// Packet marks, in the bits under `mask`. The defaults are the numbers that
/// are usual in Kubernetes networking for this purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Bits that belong to the datapath.
    pub mask: u32,
    /// On packets that the datapath gives to the proxy; the node's routing
    /// looks at it.
    pub to_proxy: u32,
    /// On packets that the proxy sends (`SO_MARK` of its sockets).
    pub from_proxy: u32,
    /// On packets of pods that leave the node as they are: the programs on the
    /// way out let them pass unseen.
    pub judged: u32,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            mask: 0x0f00,
            to_proxy: 0x0200,
            from_proxy: 0x0a00,
            judged: 0x0f00,
        }
    }
}

/// Room in the tables that grow with traffic. They are allocated as a whole
/// when the programs are loaded for the first time, and forget the idlest entry
/// when they are full: a connection that is forgotten is judged anew, and a
/// masqueraded one breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Entries of connection tracking: one for a connection between a pod and
    /// another end, two through a service or the proxy. 120 bytes each.
    pub conntrack: u32,
    /// Entries of masquerading: two for a connection from a pod to the outside.
    /// 96 bytes each.
    pub nat: u32,
}

impl TableSizes {
    /// Smallest size of a table: the kernel hands entries to CPUs by the hundred,
    /// and fewer would be evicted while in use.
    pub const LEAST: u32 = 1024;
    /// Largest size: two gigabytes are a mistake.
    pub const MOST: u32 = 1 << 24;

    fn possible(self) -> bool {
        [self.conntrack, self.nat]
            .iter()
            .all(|size| (Self::LEAST..=Self::MOST).contains(size))
    }
}

impl Default for TableSizes {
    fn default() -> Self {
        Self {
            conntrack: 524_288,
            nat: 262_144,
        }
    }
}

/// How much of a flow is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    /// What is new about a flow: TCP flags seen for the first time in a
    /// direction, and that it still lives after the report interval.
    #[default]
    Medium,
    /// Every packet.
    None,
}

/// Settings of a node's datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's address: source of masqueraded traffic and of the proxy's
    /// own.
    pub node: Ipv4Addr,
    /// Network of this node's pods.
    pub pods: Ipv4Net,
    /// Address that the proxy's listeners are bound to.
    pub listener: Ipv4Addr,
    /// Packet marks.
    pub marks: Marks,
    /// UDP port of the overlay, if pods of other nodes are reached through one.
    pub overlay: Option<u16>,
    /// Deliver between pods of this node, and from the network, past the host's
    /// stack.
    pub redirect_peer: bool,
    /// Give traffic from pods to the outside the node's address.
    pub masquerade: bool,
    /// Ports for masquerading: no socket of the node may use them.
    pub snat_ports: RangeInclusive<u16>,
    /// Local ports of the proxy's upstream connections.
    pub upstream_ports: RangeInclusive<u16>,
    /// Source address that a pod sees when it reaches itself through a service.
    pub hairpin: Ipv4Addr,
    /// A flow that goes on is reported again after this time, to the second.
    pub report_interval: Duration,
    /// How much of a flow is reported.
    pub aggregation: Aggregation,
    /// Room in the tables; what a loader finds with another size it replaces,
    /// and moves the entries over. [`crate::Datapath::set_config`] leaves it
    /// alone.
    pub tables: TableSizes,
}

impl Config {
    /// Settings with the usual marks, ports and addresses: proxy on loopback,
    /// native routing, redirect past the stack and masquerading on.
    pub fn new(node: Ipv4Addr, pods: Ipv4Net) -> Self {
        Self {
            node,
            pods,
            listener: Ipv4Addr::LOCALHOST,
            marks: Marks::default(),
            overlay: None,
            redirect_peer: true,
            masquerade: true,
            // Above the usual ephemeral range (32768 to 60999), of which the
            // proxy gets the upper part for itself.
            snat_ports: 61000..=65535,
            upstream_ports: 50000..=60999,
            hairpin: Ipv4Addr::new(169, 254, 42, 1),
            report_interval: Duration::from_secs(5),
            aggregation: Aggregation::Medium,
            tables: TableSizes::default(),
        }
    }

    /// Refuses what cannot work, before it is in the kernel.
    ///
    /// # Errors
    /// [`Error::Invalid`], which says what.
    pub fn check(&self) -> Result<(), Error> {
        let Marks {
            mask,
            to_proxy,
            from_proxy,
            judged,
        } = self.marks;
        let marks = [to_proxy, from_proxy, judged];
        let outside = marks.iter().any(|mark| mark & !mask != 0 || *mark == 0);
        let same = to_proxy == from_proxy || to_proxy == judged || from_proxy == judged;
        let wrong = if outside || same {
            "marks must differ, be none of them 0, and lie inside their mask"
        } else if self.snat_ports.is_empty() || *self.snat_ports.start() == 0 {
            "no ports for masquerading"
        } else if overlap(&self.snat_ports, &self.upstream_ports) {
            "ports for masquerading are the proxy's"
        } else if self.pods.contains(&self.node) {
            "the node's address is among its pods'"
        } else if !self.tables.possible() {
            "tables need room for 1024 to 16777216 entries"
        } else {
            return Ok(());
        };
        Err(Error::Invalid(format!("datapath settings: {wrong}")))
    }

    pub(crate) fn to_raw(&self) -> RawConfig {
        let flags = [
            (self.redirect_peer, config_flags::REDIRECT_PEER),
            (self.masquerade, config_flags::MASQUERADE),
            (
                self.aggregation == Aggregation::None,
                config_flags::REPORT_ALL,
            ),
            (self.overlay.is_some(), config_flags::OVERLAY),
        ];
        RawConfig {
            node: raw_addr(self.node),
            pod_net: raw_addr(self.pods.network()),
            pod_mask: raw_addr(self.pods.netmask()),
            listener: raw_addr(self.listener),
            hairpin: raw_addr(self.hairpin),
            mark_mask: self.marks.mask,
            mark_to_proxy: self.marks.to_proxy,
            mark_from_proxy: self.marks.from_proxy,
            mark_judged: self.marks.judged,
            flags: flags
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, flag)| flag)
                .sum(),
            report_interval: self
                .report_interval
                .as_secs()
                .try_into()
                .unwrap_or(u32::MAX),
            overlay_port: self.overlay.unwrap_or(0).to_be(),
            snat_first: *self.snat_ports.start(),
            snat_last: *self.snat_ports.end(),
            upstream_first: *self.upstream_ports.start(),
            upstream_last: *self.upstream_ports.end(),
            pad: 0,
        }
    }
}

fn overlap(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

/// An address as the maps hold it: network byte order.
pub(crate) fn raw_addr(addr: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(addr.octets())
}

/// An address out of a map.
pub(crate) fn addr(raw: u32) -> Ipv4Addr {
    Ipv4Addr::from(raw.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_settings_are_refused() {
        let pods = "10.244.1.0/24".parse().unwrap();
        let usual = || Config::new(Ipv4Addr::new(172, 18, 0, 2), pods);
        assert!(usual().check().is_ok());
        let refused = |change: fn(&mut Config)| {
            let mut config = usual();
            change(&mut config);
            config.check().is_err()
        };
        assert!(refused(|config| config.marks.to_proxy = 0x1200));
        assert!(refused(|config| config.marks.from_proxy = 0x0200));
        assert!(refused(|config| config.marks.to_proxy = 0));
        assert!(refused(
            |config| config.marks.judged = config.marks.from_proxy
        ));
        #[expect(clippy::reversed_empty_ranges, reason = "an empty range is the point")]
        let empty = |config: &mut Config| config.snat_ports = 62000..=61000;
        assert!(refused(empty));
        assert!(refused(|config| config.snat_ports = 60000..=65535));
        assert!(refused(|config| config.node = Ipv4Addr::new(10, 244, 1, 1)));
        assert!(refused(|config| config.tables.conntrack = 1000));
        assert!(refused(|config| config.tables.nat = u32::MAX));
    }
}
