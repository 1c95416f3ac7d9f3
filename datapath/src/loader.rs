//! Loading the programs, attaching them, and the handles to their maps.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

#[cfg(feature = "testing")]
use aya::Pod;
#[cfg(feature = "testing")]
use aya::maps::HashMap;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use rustix::system::uname;
use weft_datapath_common::{Config as RawConfig, CtEntry, CtKey, NatEntry, NatKey, map_names};

use crate::conntrack::Shared;
use crate::endpoints::Endpoints;
use crate::links::{self, HOOKS, Hook, OVERLAY, POD, UPLINK};
use crate::pins::Pins;
use crate::resize::Resizable;
use crate::{Config, Conntrack, Endpoint, Error, Events, Ipcache, PolicyMap, Services, TableSizes};

pub(crate) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft-ebpf"));

/// The programs of a node, loaded, and their maps.
///
/// Dropping it changes nothing in the kernel: the pins keep programs and maps.
pub struct Datapath {
    ebpf: Ebpf,
    pins: Pins,
    config: Array<MapData, RawConfig>,
    epoch: Array<MapData, u32>,
    lost: PerCpuArray<MapData, u64>,
    endpoints: Endpoints,
    conntrack: Conntrack,
    shared: Shared,
}

impl Datapath {
    /// Loads the programs. Maps that are pinned below `pin_dir` are used as
    /// they are, but for a table of another size than `config` wants: a new one
    /// takes its place with all entries. Wherever an earlier loader attached
    /// programs, the new ones take their place without a packet in between.
    ///
    /// A loader may be killed at any point: what is attached goes on, with maps
    /// that are whole, and the next loader goes on from there.
    ///
    /// # Errors
    /// Without the right to load programs, without bpffs, on a kernel before
    /// 6.6, or when the kernel refuses.
    pub fn load(pin_dir: &Path, config: &Config) -> Result<Self, Error> {
        check_kernel(&uname().release().to_string_lossy())?;
        config.check()?;
        let pins = Pins::new(pin_dir);
        pins.create()?;
        let mut ebpf = load_object(&pins)?;
        // The programs see it at once, the old ones as well as those to come.
        fit_tables(&pins, config)?;
        for hook in HOOKS {
            classifier(&mut ebpf, hook)?
                .load()
                .map_err(Error::program(hook.program))?;
        }
        let shared = Shared::open(&pins)?;
        let endpoints = Endpoints::open(&pins)?;
        shared.pending.settle(&endpoints)?;
        let mut this = Self {
            ebpf,
            config: pins.open(map_names::CONFIG)?,
            epoch: pins.open(map_names::EPOCH)?,
            lost: pins.open(map_names::LOST)?,
            endpoints,
            conntrack: Conntrack::open(&pins, &shared)?,
            shared,
            pins,
        };
        this.set_config(config)?;
        this.replace_programs()?;
        Ok(this)
    }

    /// Puts the new programs where the old ones are.
    fn replace_programs(&mut self) -> Result<(), Error> {
        let folder = self.pins.links();
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            let Some((program, _)) = links::parse_pin(&path) else {
                continue;
            };
            let hook = hook(program)?;
            links::replace(classifier(&mut self.ebpf, hook)?, hook, &path)?;
        }
        Ok(())
    }

    /// Removes what loaders of other versions left pinned. Call it once every
    /// interface is attached: until then their programs go on enforcing.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove_other_versions(&self) -> Result<(), Error> {
        self.pins.remove_other_versions()
    }

    /// Changes the settings; the programs see them with the next packet.
    ///
    /// # Errors
    /// When they contradict each other, or the kernel refuses.
    pub fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        config.check()?;
        self.config
            .set(0, config.to_raw(), 0)
            .map_err(Error::map(map_names::CONFIG))
    }

    /// Has every flow judged again at its next packet, by the policies and
    /// identities then in the maps: what they no longer allow is cut. Returns
    /// the new epoch.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn bump_epoch(&mut self) -> Result<u32, Error> {
        let failed = Error::map(map_names::EPOCH);
        let epoch = self.epoch.get(&0, 0).map_err(&failed)?.wrapping_add(1);
        self.epoch.set(0, epoch, 0).map_err(&failed)?;
        Ok(epoch)
    }

    /// Announces a pod and attaches its programs. Repeating it is harmless. A
    /// pod that the maps do not know cannot send or receive anything, so its
    /// policy should be in place before.
    ///
    /// Flows of a pod that had the address before are forgotten by now, if need
    /// be here.
    ///
    /// # Errors
    /// When the interface does not exist in this network namespace, or the
    /// kernel refuses.
    pub fn attach_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        if let Some(old) = self.endpoints.get(endpoint.addr)?
            && old.ifindex != endpoint.ifindex
        {
            self.endpoints.remove_interface(&old)?;
            self.detach(&POD, old.ifindex)?;
        }
        // Announced first: its programs would drop what it says meanwhile, and
        // without them it is judged where its packets arrive.
        self.announce(endpoint)?;
        self.attach(&POD, endpoint.ifindex)
    }

    /// Changes what the maps say of a pod, its identity or default deny, and
    /// has flows judged again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn update_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        self.announce(endpoint)?;
        self.bump_epoch().map(drop)
    }

    fn announce(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        let pending = &self.shared.pending;
        if pending.has_address(endpoint.addr)? {
            // Also one whose removal did not come to its end: this takes its place.
            pending.removed(endpoint.addr)?;
            self.conntrack.forget()?;
        }
        self.endpoints.insert(endpoint)
    }

    /// Removes a pod and its programs: nothing reaches its address any more, or
    /// comes from it. Its flows and its masquerading are to be forgotten with
    /// [`Conntrack::forget`], for many pods at once; until they are, no other
    /// pod gets the address. Its policy entries are [`PolicyMap`]'s. An address
    /// that is not there is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach_endpoint(&mut self, addr: Ipv4Addr) -> Result<(), Error> {
        // Before anything is removed, for the loader that comes after this one.
        self.shared.pending.going(addr)?;
        if let Some(endpoint) = self.endpoints.get(addr)? {
            self.endpoints.remove_interface(&endpoint)?;
            self.detach(&POD, endpoint.ifindex)?;
            // Last: by its address the next loader finds what is left to do.
            self.endpoints.remove(&endpoint)?;
        }
        self.shared.pending.removed(addr)?;
        self.bump_epoch().map(drop)
    }

    /// Attaches the programs of the interface to the other nodes and the world.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn attach_uplink(&mut self, interface: &str) -> Result<(), Error> {
        self.attach(&UPLINK, links::interface_index(interface)?)
    }

    /// Attaches the programs of the overlay device.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn attach_overlay(&mut self, interface: &str) -> Result<(), Error> {
        self.attach(&OVERLAY, links::interface_index(interface)?)
    }

    fn attach(&mut self, programs: &[&'static str; 2], ifindex: u32) -> Result<(), Error> {
        for program in programs {
            let hook = hook(program)?;
            links::attach(classifier(&mut self.ebpf, hook)?, hook, ifindex, &self.pins)?;
        }
        Ok(())
    }

    fn detach(&mut self, programs: &[&'static str; 2], ifindex: u32) -> Result<(), Error> {
        for program in programs {
            links::remove(&links::pin(&self.pins, program, ifindex))?;
        }
        Ok(())
    }

    /// The pods that the kernel holds.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        self.endpoints.list()
    }

    /// Events that were lost because the ring was full, since the maps were
    /// made.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn lost_events(&self) -> Result<u64, Error> {
        let lost = self.lost.get(&0, 0).map_err(Error::map(map_names::LOST))?;
        Ok(lost.iter().sum())
    }

    /// A handle to the policies.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn policy(&self) -> Result<PolicyMap, Error> {
        PolicyMap::open(&self.pins)
    }

    /// A handle to the identities of addresses.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn ipcache(&self) -> Result<Ipcache, Error> {
        Ipcache::open(&self.pins)
    }

    /// A handle to the services.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn services(&self) -> Result<Services, Error> {
        Services::open(&self.pins, &self.shared.pending)
    }

    /// A handle to connection tracking.
    ///
    /// # Errors
    /// When a map cannot be opened.
    pub fn conntrack(&self) -> Result<Conntrack, Error> {
        Conntrack::open(&self.pins, &self.shared)
    }

    /// The reader of events.
    ///
    /// # Errors
    /// When the ring cannot be opened.
    pub fn events(&self) -> Result<Events, Error> {
        Events::open(&self.pins)
    }

    /// One of the tables that grow with traffic.
    #[cfg(feature = "testing")]
    pub(crate) fn table<K: Pod, V: Pod>(
        &self,
        name: &'static str,
    ) -> Result<HashMap<MapData, K, V>, Error> {
        self.pins.table(name)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, Error> {
        classifier(&mut self.ebpf, hook(name)?)
    }
}

/// Loads the object: maps are made and pinned, or taken over; programs are not
/// loaded yet.
fn load_object(pins: &Pins) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(pins.maps());
    for slot in [map_names::CONNTRACK, map_names::NAT] {
        loader.map_pin_path(slot, pins.maps().join(slot));
    }
    Ok(loader.load(OBJECT).map_err(Box::new)?)
}

/// Gives the tables that grow with traffic the sizes that the settings name.
fn fit_tables(pins: &Pins, config: &Config) -> Result<(), Error> {
    let TableSizes { conntrack, nat } = config.tables;
    Resizable {
        name: map_names::CONNTRACK,
        room: conntrack,
        last_seen: |entry: &CtEntry| entry.last_seen,
    }
    .fit::<CtKey>(pins)?;
    Resizable {
        name: map_names::NAT,
        room: nat,
        last_seen: |entry: &NatEntry| entry.last_seen,
    }
    .fit::<NatKey>(pins)
}

/// TCX links came with 6.6, the youngest of what the programs need.
const KERNEL: (u32, u32) = (6, 6);

fn check_kernel(release: &str) -> Result<(), Error> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) if (major, minor) < KERNEL => Err(Error::OldKernel {
            found: release.to_owned(),
            needed: "6.6",
        }),
        _ => Ok(()),
    }
}

fn hook(program: &'static str) -> Result<Hook, Error> {
    HOOKS
        .iter()
        .find(|hook| hook.program == program)
        .copied()
        .ok_or(Error::MissingProgram(program))
}

fn classifier(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier, Error> {
    let program = ebpf
        .program_mut(hook.program)
        .ok_or(Error::MissingProgram(hook.program))?;
    program.try_into().map_err(Error::program(hook.program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_tcx_are_named() {
        for (release, fine) in [
            ("6.18.44-fc", true),
            ("6.6.0", true),
            ("7.0", true),
            ("6.5.13-generic", false),
            ("5.15.0", false),
        ] {
            assert_eq!(check_kernel(release).is_ok(), fine, "{release}");
        }
        let error = check_kernel("5.10.0-8").unwrap_err().to_string();
        assert!(
            error.contains("5.10.0-8") && error.contains("6.6"),
            "{error}"
        );
    }
}
