//! The pods of this node, as the kernel knows them.

use std::net::Ipv4Addr;

use aya::maps::{HashMap, MapData};
use weft_datapath_common::{EndpointEntry, endpoint_flags, map_names};

use crate::Error;
use crate::config::{addr, raw_addr};
use crate::error::is_missing;
use crate::pins::Pins;

/// A pod of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Node-local number, from 1; the subject of policy entries.
    pub id: u32,
    /// Security identity.
    pub identity: u32,
    /// Address.
    pub addr: Ipv4Addr,
    /// Index of the host's end of the veth, in this network namespace.
    pub ifindex: u32,
    /// MAC of the pod's end.
    pub mac: [u8; 6],
    /// MAC of the host's end.
    pub host_mac: [u8; 6],
    /// Whether what no ingress entry allows is denied.
    pub default_deny_ingress: bool,
    /// Whether what no egress entry allows is denied.
    pub default_deny_egress: bool,
    /// Whether any policy has a say about the pod, with or without default
    /// deny. The policies know no IPv6: such a pod gets none, but for neighbour
    /// discovery.
    pub policed: bool,
}

impl Endpoint {
    fn to_raw(self) -> EndpointEntry {
        let flags = [
            (
                self.default_deny_ingress,
                endpoint_flags::DEFAULT_DENY_INGRESS,
            ),
            (
                self.default_deny_egress,
                endpoint_flags::DEFAULT_DENY_EGRESS,
            ),
            (self.policed, endpoint_flags::POLICED),
        ];
        EndpointEntry {
            id: self.id,
            identity: self.identity,
            addr: raw_addr(self.addr),
            ifindex: self.ifindex,
            flags: flags
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, flag)| flag)
                .sum(),
            mac: self.mac,
            host_mac: self.host_mac,
        }
    }

    fn from_raw(raw: EndpointEntry) -> Self {
        let has = |flag| raw.flags & flag != 0;
        Self {
            id: raw.id,
            identity: raw.identity,
            addr: addr(raw.addr),
            ifindex: raw.ifindex,
            mac: raw.mac,
            host_mac: raw.host_mac,
            default_deny_ingress: has(endpoint_flags::DEFAULT_DENY_INGRESS),
            default_deny_egress: has(endpoint_flags::DEFAULT_DENY_EGRESS),
            policed: has(endpoint_flags::POLICED),
        }
    }
}

/// Both maps of the endpoints. Whatever interface is known, its address is.
pub(crate) struct Endpoints {
    by_ifindex: HashMap<MapData, u32, EndpointEntry>,
    by_addr: HashMap<MapData, u32, EndpointEntry>,
}

impl Endpoints {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            by_ifindex: pins.open(map_names::ENDPOINT_BY_IFINDEX)?,
            by_addr: pins.open(map_names::ENDPOINT_BY_ADDR)?,
        })
    }

    /// The endpoint with this address.
    pub(crate) fn get(&self, addr: Ipv4Addr) -> Result<Option<Endpoint>, Error> {
        match self.by_addr.get(&raw_addr(addr), 0) {
            Ok(raw) => Ok(Some(Endpoint::from_raw(raw))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(Error::map(map_names::ENDPOINT_BY_ADDR)(error)),
        }
    }

    /// All of them.
    pub(crate) fn list(&self) -> Result<Vec<Endpoint>, Error> {
        self.by_addr
            .iter()
            .map(|entry| entry.map(|(_, raw)| Endpoint::from_raw(raw)))
            .collect::<Result<_, _>>()
            .map_err(Error::map(map_names::ENDPOINT_BY_ADDR))
    }

    /// The address first: a pod whose address is not known would send past its
    /// own egress policy.
    pub(crate) fn insert(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        let raw = endpoint.to_raw();
        self.by_addr
            .insert(raw.addr, raw, 0)
            .map_err(Error::map(map_names::ENDPOINT_BY_ADDR))?;
        self.by_ifindex
            .insert(raw.ifindex, raw, 0)
            .map_err(Error::map(map_names::ENDPOINT_BY_IFINDEX))
    }

    /// Forgets an address, and the interface unless another address has taken
    /// it over. The interface first, for the same reason, and because the
    /// address is what the next loader would find.
    pub(crate) fn remove(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        self.remove_interface(endpoint)?;
        let raw = raw_addr(endpoint.addr);
        gone(self.by_addr.remove(&raw), map_names::ENDPOINT_BY_ADDR)
    }

    /// Forgets only the interface.
    pub(crate) fn remove_interface(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        let raw = raw_addr(endpoint.addr);
        match self.by_ifindex.get(&endpoint.ifindex, 0) {
            Ok(entry) if entry.addr != raw => Ok(()),
            _ => gone(
                self.by_ifindex.remove(&endpoint.ifindex),
                map_names::ENDPOINT_BY_IFINDEX,
            ),
        }
    }
}

/// A removal of what is not there is fine.
pub(crate) fn gone(
    result: Result<(), aya::maps::MapError>,
    name: &'static str,
) -> Result<(), Error> {
    match result {
        Err(error) if !is_missing(&error) => Err(Error::map(name)(error)),
        _ => Ok(()),
    }
}
