//! What connection tracking has still to forget. It is gathered as it comes up,
//! so that one pass over the tables serves all of it.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{self, MapData};
use weft_datapath_common::{CtEntry, CtKey, NatEntry, NatKey, ct_flags, nat_kind, protocol};

use crate::Error;
use crate::config::{addr, raw_addr};
use crate::conntrack::ends;
use crate::endpoints::Endpoints;
use crate::error::is_missing;
use crate::pins::Pins;

/// Name of the pinned map of addresses whose flows are not forgotten yet. The
/// programs do not know it: it tells the next loader what this one left.
const GONE: &str = "GONE";
/// Many more than a node has pods; the map takes room only for what is in it.
const MOST_GONE: u32 = 65_536;
/// `BPF_F_NO_PREALLOC`, from the kernel's `bpf.h`.
const NO_PREALLOC: u32 = 1;

/// Backends that a UDP service has no longer, by service.
type Choices = HashMap<SocketAddrV4, HashSet<SocketAddrV4>>;

/// Shared by all handles of one loader.
#[derive(Clone)]
pub(crate) struct Pending(Arc<Inner>);

struct Inner {
    gone: Mutex<maps::HashMap<MapData, u32, u8>>,
    choices: Mutex<Choices>,
    /// Held while somebody forgets: whoever gives an address to a new pod must
    /// not do so while its flows are being removed.
    forgetting: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these protect is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pending {
    /// Opens the pinned map, or makes it.
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        let pin = pins.maps().join(GONE);
        if !pin.exists() {
            maps::HashMap::<_, u32, u8>::create(MOST_GONE, NO_PREALLOC)
                .map_err(Error::map(GONE))?
                .pin(&pin)
                .map_err(|source| Error::Pin { path: pin, source })?;
        }
        Ok(Self(Arc::new(Inner {
            gone: Mutex::new(pins.open(GONE)?),
            choices: Mutex::default(),
            forgetting: Mutex::default(),
        })))
    }

    /// The loader before may have died while it removed a pod: what is still an
    /// endpoint is not gone.
    pub(crate) fn settle(&self, endpoints: &Endpoints) -> Result<(), Error> {
        for raw in self.addresses()? {
            if endpoints.get(addr(raw))?.is_some() {
                self.forgot(&[raw])?;
            }
        }
        Ok(())
    }

    /// The flows of this address are to be forgotten.
    pub(crate) fn add_address(&self, address: Ipv4Addr) -> Result<(), Error> {
        lock(&self.0.gone)
            .insert(raw_addr(address), 0, 0)
            .map_err(Error::map(GONE))
    }

    /// Clients of this service are to forget that they chose one of these.
    pub(crate) fn add_choices(
        &self,
        service: SocketAddrV4,
        backends: impl IntoIterator<Item = SocketAddrV4>,
    ) {
        lock(&self.0.choices)
            .entry(service)
            .or_default()
            .extend(backends);
    }

    /// Whether the flows of this address are not forgotten yet.
    pub(crate) fn has_address(&self, address: Ipv4Addr) -> Result<bool, Error> {
        match lock(&self.0.gone).get(&raw_addr(address), 0) {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(Error::map(GONE)(error)),
        }
    }

    /// Has `pass` forget what has come up so far. What it could not forget
    /// stays, for the next time.
    pub(crate) fn forget(
        &self,
        pass: impl FnOnce(&Forget) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        let _one_at_a_time = lock(&self.0.forgetting);
        let forget = Forget {
            addresses: self.addresses()?,
            choices: std::mem::take(&mut *lock(&self.0.choices)),
        };
        if forget.is_empty() {
            return Ok(0);
        }
        let forgotten = pass(&forget).and_then(|removed| {
            self.forgot(&forget.addresses)?;
            Ok(removed)
        });
        if forgotten.is_err() {
            for (service, backends) in forget.choices {
                self.add_choices(service, backends);
            }
        }
        forgotten
    }

    fn addresses(&self) -> Result<Vec<u32>, Error> {
        let keys: Result<Vec<u32>, _> = lock(&self.0.gone).keys().collect();
        let mut keys = keys.map_err(Error::map(GONE))?;
        keys.sort_unstable();
        Ok(keys)
    }

    fn forgot(&self, addresses: &[u32]) -> Result<(), Error> {
        let mut gone = lock(&self.0.gone);
        for raw in addresses {
            crate::endpoints::gone(gone.remove(raw), GONE)?;
        }
        Ok(())
    }
}

/// What one pass is to forget.
pub(crate) struct Forget {
    /// In order.
    addresses: Vec<u32>,
    choices: Choices,
}

impl Forget {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.choices.is_empty()
    }

    /// Whether masquerading is concerned at all.
    pub(crate) fn has_addresses(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Whether this flow, or choice, goes.
    pub(crate) fn flow(&self, key: &CtKey, entry: &CtEntry) -> bool {
        self.has(key.low_addr)
            || self.has(key.high_addr)
            || self.has(entry.xlate_addr)
            || self.choice(key, entry)
    }

    /// Whether this entry of masquerading goes.
    pub(crate) fn nat(&self, key: &NatKey, entry: &NatEntry) -> bool {
        match key.kind {
            nat_kind::OUT => self.has(key.addr),
            _ => self.has(entry.addr),
        }
    }

    fn has(&self, raw: u32) -> bool {
        self.addresses.binary_search(&raw).is_ok()
    }

    fn choice(&self, key: &CtKey, entry: &CtEntry) -> bool {
        !self.choices.is_empty()
            && entry.flags & ct_flags::SERVICE != 0
            && key.protocol == protocol::UDP
            && self
                .choices
                .get(&ends(key, entry).1)
                .is_some_and(|removed| {
                    let backend = (entry.xlate_addr, entry.xlate_port);
                    removed.contains(&SocketAddrV4::new(addr(backend.0), u16::from_be(backend.1)))
                })
    }
}
