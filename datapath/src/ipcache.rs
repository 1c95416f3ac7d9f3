//! Whose address is whose.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{IterableMap as _, MapData};
use ipnet::Ipv4Net;
use weft_datapath_common::{IpcacheEntry, map_names};

use crate::config::{addr, raw_addr};
use crate::endpoints::gone;
use crate::pins::Pins;
use crate::{Difference, Error, TableUse};

/// Whose address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Security identity.
    pub identity: u32,
    /// The other node that hosts this pod. `None` for everything that is not a
    /// pod of another node; such traffic leaves with the node's address.
    pub node: Option<Ipv4Addr>,
}

impl Address {
    fn to_raw(self) -> IpcacheEntry {
        IpcacheEntry {
            identity: self.identity,
            node: self.node.map_or(0, raw_addr),
        }
    }

    fn from_raw(raw: IpcacheEntry) -> Self {
        let node = (raw.node != 0).then(|| addr(raw.node));
        Self {
            identity: raw.identity,
            node,
        }
    }
}

/// Identities of addresses; the longest prefix decides, what is not in here is
/// the world.
///
/// Keeps a copy of what the kernel holds, so there must be one writer only.
pub struct Ipcache {
    map: LpmTrie<MapData, u32, IpcacheEntry>,
    held: HashMap<Ipv4Net, Address>,
    capacity: u32,
    refused: u64,
}

impl Ipcache {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        let map: LpmTrie<_, u32, IpcacheEntry> = pins.open(map_names::IPCACHE)?;
        let mut held = HashMap::new();
        for entry in map.iter() {
            let (key, raw) = entry.map_err(Error::map(map_names::IPCACHE))?;
            let bits = u8::try_from(key.prefix_len()).unwrap_or(32);
            if let Ok(net) = Ipv4Net::new(addr(key.data()), bits) {
                held.insert(net, Address::from_raw(raw));
            }
        }
        let info = map.map().info().map_err(Error::map(map_names::IPCACHE))?;
        Ok(Self {
            capacity: info.max_entries(),
            map,
            held,
            refused: 0,
        })
    }

    /// Makes these the entries. Host bits of a network do not count.
    ///
    /// # Errors
    /// When the kernel refuses an entry, for want of room say. Everything else
    /// is as wanted then; an address without its entry is nobody's, and never
    /// whose it was before.
    pub fn apply(&mut self, entries: &[(Ipv4Net, Address)]) -> Result<Difference, Error> {
        let wanted: HashMap<_, _> = entries
            .iter()
            .map(|(net, address)| (net.trunc(), *address))
            .collect();
        let mut difference = Difference::default();
        let mut refused = Vec::new();
        for (net, address) in &wanted {
            let held = self.held.get(net).copied();
            if held == Some(*address) {
                continue;
            }
            match self.upsert(*net, *address) {
                Ok(()) => difference.wrote(held),
                Err(_) => refused.push((*net, *address)),
            }
        }
        let old: Vec<_> = self
            .held
            .keys()
            .filter(|net| !wanted.contains_key(*net))
            .copied()
            .collect();
        for net in old {
            self.remove(net)?;
            difference.removed += 1;
        }
        // The map may have been full, and there may be room now. Kernels before
        // 6.13 have none for another value of an entry either.
        let mut outcome = Ok(());
        for (net, address) in refused {
            let held = self.held.get(&net).copied();
            self.remove(net)?;
            match self.upsert(net, address) {
                Ok(()) => difference.wrote(held),
                Err(error) => {
                    self.refused += 1;
                    outcome = Err(error);
                }
            }
        }
        outcome.map(|()| difference)
    }

    /// How full the map is.
    pub fn usage(&self) -> TableUse {
        TableUse {
            capacity: self.capacity,
            entries: self.held.len(),
            evicted: 0,
            refused: self.refused,
        }
    }

    /// Writes one entry.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn upsert(&mut self, net: Ipv4Net, address: Address) -> Result<(), Error> {
        let net = net.trunc();
        self.map
            .insert(&key(net), address.to_raw(), 0)
            .map_err(Error::map(map_names::IPCACHE))?;
        self.held.insert(net, address);
        Ok(())
    }

    /// Removes one entry; that it is not there is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self, net: Ipv4Net) -> Result<(), Error> {
        let net = net.trunc();
        gone(self.map.remove(&key(net)), map_names::IPCACHE)?;
        self.held.remove(&net);
        Ok(())
    }

    /// Everything that the kernel holds, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Net, Address)> + '_ {
        self.held.iter().map(|(net, address)| (*net, *address))
    }

    /// The entry of exactly this network.
    pub fn get(&self, net: Ipv4Net) -> Option<Address> {
        self.held.get(&net.trunc()).copied()
    }
}

fn key(net: Ipv4Net) -> Key<u32> {
    Key::new(u32::from(net.prefix_len()), raw_addr(net.network()))
}
