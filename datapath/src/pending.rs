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
/// What the map says of an address whose pod is being removed: its packets may
/// still make entries.
const GOING: u8 = 0;
/// And of one whose pod is removed: what is forgotten now is forgotten.
const REMOVED: u8 = 1;
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
        for raw in self.addresses(GOING)? {
            match endpoints.get(addr(raw))? {
                Some(_) => self.forgot(&[raw])?,
                None => self.removed(addr(raw))?,
            }
        }
        Ok(())
    }

    /// The flows of this address are to be forgotten, once its pod is
    /// [removed][Self::removed].
    pub(crate) fn going(&self, address: Ipv4Addr) -> Result<(), Error> {
        self.mark(address, GOING)
    }

    /// Nothing makes flows of this address any more.
    pub(crate) fn removed(&self, address: Ipv4Addr) -> Result<(), Error> {
        self.mark(address, REMOVED)
    }

    fn mark(&self, address: Ipv4Addr, state: u8) -> Result<(), Error> {
        lock(&self.0.gone)
            .insert(raw_addr(address), state, 0)
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
    /// stays, for the next time, and so does a pod that is still on its way out:
    /// a pass that began before its end may miss its last flows.
    pub(crate) fn forget(
        &self,
        pass: impl FnOnce(&Forget) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        let _one_at_a_time = lock(&self.0.forgetting);
        let forget = Forget {
            addresses: self.addresses(REMOVED)?,
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

    fn addresses(&self, state: u8) -> Result<Vec<u32>, Error> {
        let gone = lock(&self.0.gone);
        let entries: Result<Vec<_>, _> = gone.iter().collect();
        let entries = entries.map_err(Error::map(GONE))?.into_iter();
        let keys = entries.filter(|(_, held)| *held == state);
        let mut keys: Vec<u32> = keys.map(|(key, _)| key).collect();
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

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::TempBpffs;

    #[test]
    fn a_pass_that_began_while_a_pod_goes_does_not_answer_for_it() {
        let bpffs = TempBpffs::new().expect("a bpffs needs root");
        let pins = Pins::new(bpffs.path());
        pins.create().unwrap();
        let pending = Pending::open(&pins).unwrap();
        let [gone, going] = [10, 11].map(|low| Ipv4Addr::new(10, 244, 1, low));
        pending.going(gone).unwrap();
        pending.removed(gone).unwrap();
        pending.going(going).unwrap();
        let pass = |forget: &Forget| {
            assert_eq!(forget.addresses, [raw_addr(gone)]);
            // Its end comes while the pass is at its work.
            pending.removed(going)?;
            Ok(1)
        };
        assert_eq!(pending.forget(pass).unwrap(), 1);
        assert!(!pending.has_address(gone).unwrap());
        assert!(pending.has_address(going).unwrap(), "not forgotten yet");
        let pass = |forget: &Forget| {
            assert_eq!(forget.addresses, [raw_addr(going)]);
            Ok(1)
        };
        assert_eq!(pending.forget(pass).unwrap(), 1);
        assert!(!pending.has_address(going).unwrap());
    }
}
