//! The kernel through the datapath's maps and links.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::sync::Notify;
use tracing::warn;
use weft_core::model::Protocol;
use weft_datapath::{Endpoint, Ipcache, PolicyEntry, PolicyMap, Service, Services, TableUse};

use super::{Kernel, KernelError};
use crate::plan::{Address, Frontend, ServiceEntry};

/// The loaded datapath and its maps.
pub struct Datapath {
    programs: weft_datapath::Datapath,
    policy: PolicyMap,
    addresses: Ipcache,
    services: Services,
    gone: Arc<Notify>,
}

impl Datapath {
    /// Takes the maps of a loaded datapath. `gone` is notified of what
    /// connection tracking has to forget.
    ///
    /// # Errors
    /// When a map cannot be opened.
    pub fn new(programs: weft_datapath::Datapath, gone: Arc<Notify>) -> Result<Self, KernelError> {
        Ok(Self {
            policy: programs.policy().map_err(failed("policy map"))?,
            addresses: programs.ipcache().map_err(failed("address map"))?,
            services: programs.services().map_err(failed("service maps"))?,
            programs,
            gone,
        })
    }

    /// What a former run left: endpoints, their entries, and identities of
    /// addresses.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn found(&self) -> Result<Leftovers, KernelError> {
        let endpoints = self.programs.endpoints().map_err(failed("endpoint map"))?;
        let entries = self
            .policy
            .endpoints()
            .into_iter()
            .map(|id| (id, self.policy.entries(id)))
            .collect();
        let addresses = self.addresses.iter();
        Ok(Leftovers {
            endpoints,
            entries,
            identities: addresses
                .map(|(range, address)| (range, address.identity))
                .collect(),
        })
    }
}

/// What a former run of the agent left in the kernel.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Policy entries by endpoint number.
    pub entries: BTreeMap<u32, Vec<PolicyEntry>>,
    /// Identities of addresses and ranges.
    pub identities: Vec<(Ipv4Net, u32)>,
}

fn failed(what: &'static str) -> impl Fn(weft_datapath::Error) -> KernelError {
    move |error| KernelError {
        what,
        reason: error.to_string(),
    }
}

impl Kernel for Datapath {
    fn detach(&mut self, ip: Ipv4Addr) -> Result<(), KernelError> {
        // The entries of its policy are removed as any other endpoint's that
        // is gone.
        let detached = self.programs.detach_endpoint(ip);
        self.gone.notify_one();
        detached.map_err(failed("detaching an endpoint"))
    }

    fn policy(&mut self, endpoint: u32, entries: &[PolicyEntry]) -> Result<bool, KernelError> {
        self.policy
            .apply(endpoint, entries)
            .map(|difference| !difference.is_empty())
            .map_err(failed("policy entries"))
    }

    fn forget_policy(&mut self, endpoint: u32) -> Result<(), KernelError> {
        self.policy
            .remove_endpoint(endpoint)
            .map(drop)
            .map_err(failed("policy entries"))
    }

    fn addresses(&mut self, all: &BTreeMap<Ipv4Net, Address>) -> Result<bool, KernelError> {
        let entries: Vec<_> = all
            .iter()
            .map(|(range, address)| {
                let address = weft_datapath::Address {
                    identity: address.identity.0,
                    node: address.node,
                };
                (*range, address)
            })
            .collect();
        self.addresses
            .apply(&entries)
            .map(|difference| !difference.is_empty())
            .map_err(failed("addresses"))
    }

    fn services(&mut self, all: &BTreeMap<Frontend, ServiceEntry>) -> Result<bool, KernelError> {
        let services: Vec<_> = all
            .iter()
            // SCTP has no translation.
            .filter(|(frontend, _)| frontend.protocol != Protocol::Sctp)
            .map(|(frontend, entry)| Service {
                vip: frontend.ip,
                port: frontend.port,
                protocol: frontend.protocol.number(),
                backends: entry
                    .backends
                    .iter()
                    .map(|backend| (*backend.ip(), backend.port()))
                    .collect(),
                redirect: None,
            })
            .collect();
        let changed = self
            .services
            .apply(&services)
            .map(|difference| !difference.is_empty());
        // Clients of UDP backends that are gone have to choose anew.
        if !matches!(changed, Ok(false)) {
            self.gone.notify_one();
        }
        changed.map_err(failed("services"))
    }

    fn attach(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.programs
            .attach_endpoint(endpoint)
            .map_err(failed("attaching an endpoint"))
    }

    fn update(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.programs
            .update_endpoint(endpoint)
            .map_err(failed("changing an endpoint"))
    }

    fn tables(&self) -> [(&'static str, TableUse); 2] {
        [
            ("policy", self.policy.usage()),
            ("ipcache", self.addresses.usage()),
        ]
    }

    fn bump_epoch(&mut self) -> Result<u32, KernelError> {
        self.programs.bump_epoch().map_err(failed("epoch"))
    }

    fn settled(&mut self) {
        if let Err(error) = self.programs.remove_other_versions() {
            warn!(%error, "pins of another version are left");
        }
    }
}
