//! Services and their backends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use aya::maps::{self, MapData};
use weft_datapath_common::{Backend, ServiceKey, ServiceValue, map_names, protocol};

use crate::config::{addr, raw_addr};
use crate::endpoints::gone;
use crate::pending::Pending;
use crate::pins::Pins;
use crate::{Difference, Error};

/// Slots of the backend map.
const SLOTS: u32 = 65_536;

/// A virtual address and port, and who stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Virtual address.
    pub vip: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// IP protocol: TCP (6) or UDP (17).
    pub protocol: u8,
    /// Addresses and ports of the backends, each as likely as the others.
    pub backends: Vec<(Ipv4Addr, u16)>,
    /// Port of the proxy's listener, if the proxy balances the service instead.
    pub redirect: Option<u16>,
}

impl Service {
    fn frontend(&self) -> Frontend {
        (self.vip, self.port, self.protocol)
    }
}

type Frontend = (Ipv4Addr, u16, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    first: u32,
    count: u32,
}

/// The services that pods may dial.
///
/// Keeps a copy of what the kernel holds, so there must be one writer only.
pub struct Services {
    services: maps::HashMap<MapData, ServiceKey, ServiceValue>,
    backends: maps::HashMap<MapData, u32, Backend>,
    pending: Pending,
    held: HashMap<Frontend, (Service, Block)>,
    /// Slots in use, first to count.
    blocks: BTreeMap<u32, u32>,
    /// Slots given up by the last change: a packet may still be on its way to
    /// them.
    retired: Vec<Block>,
}

impl Services {
    pub(crate) fn open(pins: &Pins, pending: &Pending) -> Result<Self, Error> {
        let services: maps::HashMap<_, ServiceKey, ServiceValue> =
            pins.open(map_names::SERVICES)?;
        let mut this = Self {
            services,
            backends: pins.open(map_names::BACKENDS)?,
            pending: pending.clone(),
            held: HashMap::new(),
            blocks: BTreeMap::new(),
            retired: Vec::new(),
        };
        this.read()?;
        Ok(this)
    }

    fn read(&mut self) -> Result<(), Error> {
        let failed = Error::map(map_names::SERVICES);
        let entries: Vec<_> = self
            .services
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let (marked, entries): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(key, _)| key.protocol == 0);
        for (key, value) in entries {
            let mut backends = Vec::new();
            for slot in value.first..value.first + value.count {
                // A loader that died in the middle of a change leaves holes;
                // the next one mends.
                if let Ok(backend) = self.backends.get(&slot, 0) {
                    backends.push((addr(backend.addr), u16::from_be(backend.port)));
                }
            }
            let service = Service {
                vip: addr(key.addr),
                port: u16::from_be(key.port),
                protocol: key.protocol as u8,
                backends,
                redirect: (value.proxy_port != 0).then_some(value.proxy_port),
            };
            let block = Block {
                first: value.first,
                count: value.count,
            };
            if block.count > 0 {
                self.blocks.insert(block.first, block.count);
            }
            self.held.insert(service.frontend(), (service, block));
        }
        // One that died while it removed a service left its address marked.
        let in_use: HashSet<Ipv4Addr> = self.held.keys().map(|(vip, ..)| *vip).collect();
        for (key, _) in marked {
            if !in_use.contains(&addr(key.addr)) {
                gone(self.services.remove(&key), map_names::SERVICES)?;
            }
        }
        Ok(())
    }

    /// Makes these the services. A service without backends refuses its
    /// clients, and so do ports that a service's address does not have. Clients
    /// of a removed UDP backend choose anew after [`crate::Conntrack::forget`];
    /// TCP connections go on until they end.
    ///
    /// # Errors
    /// When two services have the same address, port and protocol, one is
    /// neither TCP nor UDP, there is no room, or the kernel refuses; what was
    /// written stays.
    pub fn apply(&mut self, services: &[Service]) -> Result<Difference, Error> {
        let wanted = by_frontend(services)?;
        for block in std::mem::take(&mut self.retired) {
            self.free(block)?;
        }
        let mut difference = Difference::default();
        for (frontend, service) in &wanted {
            match self.held.get(frontend) {
                Some((held, _)) if held == *service => continue,
                Some(_) => difference.updated += 1,
                None => difference.added += 1,
            }
            self.write(service)?;
        }
        let old: Vec<_> = self
            .held
            .keys()
            .filter(|frontend| !wanted.contains_key(*frontend))
            .copied()
            .collect();
        for frontend in old {
            self.remove(frontend)?;
            difference.removed += 1;
        }
        Ok(difference)
    }

    fn write(&mut self, service: &Service) -> Result<(), Error> {
        // The address is marked before it has a port, and as long as it has one:
        // its other ports must not reach the world in between.
        self.insert(address_key(service.vip), ServiceValue::default())?;
        let block = self.allocate(service.backends.len())?;
        for (slot, (backend, port)) in (block.first..).zip(&service.backends) {
            let backend = Backend {
                addr: raw_addr(*backend),
                port: port.to_be(),
                pad: 0,
            };
            self.backends
                .insert(slot, backend, 0)
                .map_err(Error::map(map_names::BACKENDS))?;
        }
        let value = ServiceValue {
            first: block.first,
            count: block.count,
            proxy_port: service.redirect.unwrap_or(0),
            pad: 0,
        };
        let frontend = service.frontend();
        self.insert(key(frontend), value)?;
        if let Some((old, block)) = self.held.insert(frontend, (service.clone(), block)) {
            self.retired.push(block);
            self.forget_clients(&old, Some(service));
        }
        Ok(())
    }

    fn remove(&mut self, frontend: Frontend) -> Result<(), Error> {
        gone(self.services.remove(&key(frontend)), map_names::SERVICES)?;
        if let Some((old, block)) = self.held.remove(&frontend) {
            self.retired.push(block);
            self.forget_clients(&old, None);
        }
        if !self.held.keys().any(|(vip, ..)| *vip == frontend.0) {
            gone(
                self.services.remove(&address_key(frontend.0)),
                map_names::SERVICES,
            )?;
        }
        Ok(())
    }

    fn insert(&mut self, key: ServiceKey, value: ServiceValue) -> Result<(), Error> {
        self.services
            .insert(key, value, 0)
            .map_err(Error::map(map_names::SERVICES))
    }

    fn forget_clients(&self, old: &Service, new: Option<&Service>) {
        if old.protocol != protocol::UDP {
            return;
        }
        let kept: &[_] = new.map_or(&[], |service| &service.backends);
        let removed: Vec<_> = old
            .backends
            .iter()
            .filter(|backend| !kept.contains(backend))
            .map(|(addr, port)| SocketAddrV4::new(*addr, *port))
            .collect();
        if !removed.is_empty() {
            let service = SocketAddrV4::new(old.vip, old.port);
            self.pending.add_choices(service, removed);
        }
    }

    fn allocate(&mut self, backends: usize) -> Result<Block, Error> {
        let count = u32::try_from(backends).unwrap_or(u32::MAX);
        if count == 0 {
            return Ok(Block { first: 0, count: 0 });
        }
        let mut first = 0;
        for (start, used) in &self.blocks {
            if start - first >= count {
                break;
            }
            first = start + used;
        }
        if count > SLOTS - first {
            return Err(Error::Full("a service's backends"));
        }
        self.blocks.insert(first, count);
        Ok(Block { first, count })
    }

    fn free(&mut self, block: Block) -> Result<(), Error> {
        if block.count == 0 {
            return Ok(());
        }
        for slot in block.first..block.first + block.count {
            gone(self.backends.remove(&slot), map_names::BACKENDS)?;
        }
        self.blocks.remove(&block.first);
        Ok(())
    }
}

fn by_frontend(services: &[Service]) -> Result<HashMap<Frontend, &Service>, Error> {
    let mut wanted = HashMap::new();
    for service in services {
        if !matches!(service.protocol, protocol::TCP | protocol::UDP) {
            return Err(Error::Invalid(format!(
                "service {}:{}: protocol {} cannot be balanced",
                service.vip, service.port, service.protocol
            )));
        }
        if wanted.insert(service.frontend(), service).is_some() {
            return Err(Error::Invalid(format!(
                "two services at {}:{}",
                service.vip, service.port
            )));
        }
    }
    Ok(wanted)
}

fn key((vip, port, protocol): Frontend) -> ServiceKey {
    ServiceKey {
        addr: raw_addr(vip),
        port: port.to_be(),
        protocol: u16::from(protocol),
    }
}

/// Stands for "this address is a service's".
fn address_key(vip: Ipv4Addr) -> ServiceKey {
    ServiceKey {
        addr: raw_addr(vip),
        port: 0,
        protocol: 0,
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::Bench;
    use crate::{Config, TableSizes};

    /// What a loader leaves that dies between two calls.
    #[test]
    fn an_address_without_a_service_is_nobodys() {
        let mut config = Config::new([172, 18, 0, 2].into(), "10.244.1.0/24".parse().unwrap());
        config.tables = TableSizes {
            conntrack: 1024,
            nat: 1024,
        };
        let bench = Bench::new(&config).expect("eBPF programs need root");
        let mut services = bench.datapath.services().unwrap();
        let service = |last, port| Service {
            vip: Ipv4Addr::new(10, 96, 0, last),
            port,
            protocol: protocol::TCP,
            backends: vec![],
            redirect: None,
        };
        services
            .apply(&[service(1, 80), service(2, 80), service(2, 81)])
            .unwrap();
        for port in [(1, 80), (2, 80)] {
            let frontend = service(port.0, port.1).frontend();
            services.services.remove(&key(frontend)).unwrap();
        }
        let services = bench.datapath.services().unwrap();
        let is_marked = |last| {
            let key = address_key(Ipv4Addr::new(10, 96, 0, last));
            services.services.get(&key, 0).is_ok()
        };
        assert!(!is_marked(1));
        assert!(is_marked(2), "81 is left");
    }
}
