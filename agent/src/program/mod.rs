//! Writes what is wanted to the kernel, in the order that leaves neither a gap
//! for what is allowed nor a way for what is not.

mod datapath;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use tracing::{debug, warn};
use weft_core::policy::EndpointPolicy;
use weft_datapath::{Endpoint, PolicyEntry, TableUse};

pub use datapath::{Datapath, Leftovers};

use crate::endpoint::LocalEndpoint;
use crate::plan::filters::{Chain, Chains};
use crate::plan::{
    Address, Frontend, Gate, Gated, Judged, KernelEntries, ServiceEntry, map_entries,
};

/// Wait before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why the kernel could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct KernelError {
    /// What was being written.
    pub what: &'static str,
    /// Why it failed.
    pub reason: String,
}

/// The kernel as it is written here; each call says whether it changed
/// anything, where that matters.
pub trait Kernel {
    /// Removes the endpoint with this address: nothing reaches it any more, or
    /// comes from it. What connection tracking holds of it is forgotten before
    /// [`Kernel::attach`] gives the address to another.
    fn detach(&mut self, ip: Ipv4Addr) -> Result<(), KernelError>;
    /// Makes the entries of an endpoint exactly these.
    fn policy(&mut self, endpoint: u32, entries: &[PolicyEntry]) -> Result<bool, KernelError>;
    /// Removes the entries of an endpoint that is gone.
    fn forget_policy(&mut self, endpoint: u32) -> Result<(), KernelError>;
    /// Makes the addresses exactly these.
    fn addresses(&mut self, all: &BTreeMap<Ipv4Net, Address>) -> Result<bool, KernelError>;
    /// Makes the services exactly these.
    fn services(&mut self, all: &BTreeMap<Frontend, ServiceEntry>) -> Result<bool, KernelError>;
    /// Attaches the programs of an endpoint.
    fn attach(&mut self, endpoint: &Endpoint) -> Result<(), KernelError>;
    /// Changes the identity or the flags of an attached endpoint.
    fn update(&mut self, endpoint: &Endpoint) -> Result<(), KernelError>;
    /// How full the tables are that this writes, by name.
    fn tables(&self) -> [(&'static str, TableUse); 2];
    /// Has every connection judged again.
    fn bump_epoch(&mut self) -> Result<u32, KernelError>;
    /// Everything is as wanted for the first time: what another version of the
    /// datapath left may go.
    fn settled(&mut self);
}

/// Everything that the kernel is to hold.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Addresses whose endpoint is gone.
    pub detach: &'a [Ipv4Addr],
    /// The endpoints.
    pub endpoints: &'a BTreeMap<Ipv4Addr, LocalEndpoint>,
    /// Their policies by endpoint number.
    pub policies: &'a BTreeMap<u32, EndpointPolicy>,
    /// The filters that their requests meet in the proxy.
    pub chains: &'a Chains,
    /// Identities of addresses.
    pub addresses: &'a BTreeMap<Ipv4Net, Address>,
    /// Services.
    pub services: &'a BTreeMap<Frontend, ServiceEntry>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Something was written.
    pub changed: bool,
    /// Endpoints (by number) that are not as wanted, and why.
    pub failed: BTreeMap<u32, String>,
    /// Those whose entries the kernel refused: it may go on redirecting what
    /// it did before.
    pub refused: BTreeSet<u32>,
    /// Endpoints that wait for the proxy.
    pub held: BTreeSet<u32>,
    /// Endpoints that the proxy has not heard of.
    pub strangers: BTreeSet<u32>,
    /// When to come again at the latest.
    pub again: Option<Instant>,
    /// The newest trouble that is no single endpoint's.
    pub trouble: Option<String>,
}

impl Outcome {
    /// Asks to come again at this time, or earlier.
    pub fn again_at(&mut self, when: Instant) {
        self.again = Some(self.again.map_or(when, |earlier| earlier.min(when)));
    }
}

/// One run: what is written to, when, and what came of it so far.
struct Pass<'a, K> {
    kernel: &'a mut K,
    gate: &'a mut Gate,
    now: Instant,
    outcome: Outcome,
}

impl<K: Kernel> Pass<'_, K> {
    fn again_at(&mut self, when: Instant) {
        self.outcome.again_at(when);
    }

    /// Takes the result of a write that is no single endpoint's.
    fn note<T>(&mut self, result: Result<T, KernelError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                warn!(%error, "the kernel refused");
                self.outcome.trouble = Some(error.to_string());
                self.again_at(self.now + RETRY);
                None
            }
        }
    }

    fn fail(&mut self, endpoint: u32, error: &KernelError) {
        warn!(endpoint, %error, "endpoint is not as wanted");
        self.outcome.failed.insert(endpoint, error.to_string());
        self.again_at(self.now + RETRY);
    }
}

/// Knows what the kernel holds and writes the difference.
#[derive(Debug, Default)]
pub struct Programmer {
    /// Entries in the kernel by endpoint number.
    entries: KernelEntries,
    /// Endpoints in the kernel, by address.
    endpoints: BTreeMap<Ipv4Addr, Endpoint>,
    /// Those to which this process attached its programs.
    attached: BTreeSet<Ipv4Addr>,
    /// Removals that failed, to be tried again.
    undone: BTreeSet<Ipv4Addr>,
    /// The last run left the epoch as it was although something changed.
    epoch_due: bool,
    epoch: u32,
}

impl Programmer {
    /// Starts from what a former run left in the kernel.
    pub fn restore(endpoints: impl IntoIterator<Item = Endpoint>, entries: KernelEntries) -> Self {
        Self {
            entries,
            endpoints: endpoints.into_iter().map(|one| (one.addr, one)).collect(),
            ..Self::default()
        }
    }

    /// The epoch of the last write.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether the programs of the endpoint with this address are attached.
    pub fn is_attached(&self, ip: Ipv4Addr) -> bool {
        self.attached.contains(&ip)
    }

    /// Entries in the policy map.
    pub fn entries(&self) -> usize {
        self.entries.values().map(Vec::len).sum()
    }

    /// What is in the policy map, by endpoint number.
    pub fn held(&self) -> &KernelEntries {
        &self.entries
    }

    /// Brings the kernel in line. What fails is reported and tried again; the
    /// rest is written all the same.
    pub fn run(
        &mut self,
        kernel: &mut impl Kernel,
        wanted: &Wanted<'_>,
        gate: &mut Gate,
        proxy_port: u16,
        now: Instant,
    ) -> Outcome {
        let mut pass = Pass {
            kernel,
            gate,
            now,
            outcome: Outcome::default(),
        };
        // First what must not be taken for anybody else's.
        self.undone.extend(wanted.detach);
        self.detach(&mut pass);
        // Entries before identities: an address that gets a new identity finds
        // the rules for it.
        let known: BTreeSet<u32> = wanted.endpoints.values().map(|one| one.id).collect();
        pass.gate.retain(|id| known.contains(&id));
        let mut open = BTreeSet::new();
        for endpoint in wanted.endpoints.values() {
            let chains = wanted.chains.get(&endpoint.id);
            if let Some(policy) = wanted.policies.get(&endpoint.id)
                && let chains = chains.map_or(&[][..], Vec::as_slice)
                && self.policy(&mut pass, endpoint, policy, chains, proxy_port)
            {
                open.insert(endpoint.id);
            }
        }
        let written = pass.kernel.addresses(wanted.addresses);
        pass.outcome.changed |= pass.note(written).unwrap_or_default();
        let written = pass.kernel.services(wanted.services);
        pass.outcome.changed |= pass.note(written).unwrap_or_default();
        for endpoint in wanted.endpoints.values() {
            if let Some(policy) = wanted.policies.get(&endpoint.id)
                && open.contains(&endpoint.id)
            {
                self.endpoint(&mut pass, &flagged(endpoint, policy));
            }
        }
        self.forget(&mut pass, &known);
        self.epoch_due |= pass.outcome.changed;
        if self.epoch_due {
            let bumped = pass.kernel.bump_epoch();
            if let Some(epoch) = pass.note(bumped) {
                self.epoch_due = false;
                self.epoch = epoch;
            }
        }
        pass.outcome
    }

    fn detach<K: Kernel>(&mut self, pass: &mut Pass<'_, K>) {
        for ip in std::mem::take(&mut self.undone) {
            let detached = pass.kernel.detach(ip);
            if pass.note(detached).is_none() {
                self.undone.insert(ip);
                continue;
            }
            debug!(%ip, "endpoint detached");
            pass.outcome.changed = true;
            self.attached.remove(&ip);
            self.endpoints.remove(&ip);
        }
    }

    /// Writes an endpoint's entries as far as the gate lets them; true when the
    /// endpoint may get its flags.
    fn policy<K: Kernel>(
        &mut self,
        pass: &mut Pass<'_, K>,
        endpoint: &LocalEndpoint,
        policy: &EndpointPolicy,
        chains: &[Chain],
        proxy_port: u16,
    ) -> bool {
        let id = endpoint.id;
        let wanted = map_entries(policy, proxy_port);
        let held = self.entries.get(&id).map(Vec::as_slice);
        let judged = Judged {
            ports: &policy.ports,
            chains,
        };
        let gated = pass.gate.check(id, &wanted, judged, held, pass.now);
        let (entries, complete, in_time) = match gated {
            Gated::Write { entries, complete } => (entries, complete, true),
            Gated::Hold { entries, until } => {
                pass.again_at(until);
                // A pod that is new begins when the proxy has its rules.
                (entries, false, self.attached.contains(&endpoint.ip))
            }
        };
        if !complete {
            pass.outcome.held.insert(id);
        }
        let (ingress, egress) = (policy.ingress_default_deny, policy.egress_default_deny);
        self.tighten(pass, endpoint.ip, ingress, egress, policy.policed);
        let written = self.write(pass, id, entries);
        if !written && policy.policed {
            self.tighten(pass, endpoint.ip, true, true, true);
        }
        written && in_time
    }

    /// What is denied by default from now on is so before entries go that deny
    /// some of it. Nothing is denied by this that the old entries allow: they
    /// are complete. For the same reason flags are loosened only after all
    /// entries are written. A pod whose entries the kernel refused, for want of
    /// room say, is denied what they would have allowed rather than left open.
    fn tighten<K: Kernel>(
        &mut self,
        pass: &mut Pass<'_, K>,
        ip: Ipv4Addr,
        ingress: bool,
        egress: bool,
        policed: bool,
    ) {
        let Some(current) = self.endpoints.get(&ip) else {
            return;
        };
        let tightened = Endpoint {
            default_deny_ingress: current.default_deny_ingress || ingress,
            default_deny_egress: current.default_deny_egress || egress,
            policed: current.policed || policed,
            ..*current
        };
        if tightened != *current {
            let updated = pass.kernel.update(&tightened);
            self.updated(pass, &tightened, updated);
        }
    }

    fn write<K: Kernel>(
        &mut self,
        pass: &mut Pass<'_, K>,
        id: u32,
        entries: Vec<PolicyEntry>,
    ) -> bool {
        match pass.kernel.policy(id, &entries) {
            Ok(changed) => {
                pass.outcome.changed |= changed;
                self.entries.insert(id, entries);
                true
            }
            Err(error) => {
                // Part of it may have been written.
                pass.outcome.changed = true;
                pass.outcome.refused.insert(id);
                pass.fail(id, &error);
                false
            }
        }
    }

    fn endpoint<K: Kernel>(&mut self, pass: &mut Pass<'_, K>, target: &Endpoint) {
        let attached = self.attached.contains(&target.addr);
        if attached && self.endpoints.get(&target.addr) == Some(target) {
            return;
        }
        let result = if attached {
            pass.kernel.update(target)
        } else {
            pass.kernel.attach(target)
        };
        if self.updated(pass, target, result) {
            self.attached.insert(target.addr);
        }
    }

    /// Takes the result of telling the kernel of an endpoint; true when it knows.
    fn updated<K: Kernel>(
        &mut self,
        pass: &mut Pass<'_, K>,
        target: &Endpoint,
        result: Result<(), KernelError>,
    ) -> bool {
        match result {
            Ok(()) => {
                pass.outcome.changed = true;
                self.endpoints.insert(target.addr, *target);
                true
            }
            Err(error) => {
                pass.fail(target.id, &error);
                false
            }
        }
    }

    /// Removes entries of endpoints that exist no more. Endpoints of a former
    /// run that are neither taken over nor detached yet keep theirs.
    fn forget<K: Kernel>(&mut self, pass: &mut Pass<'_, K>, known: &BTreeSet<u32>) {
        let kept: BTreeSet<u32> = self.endpoints.values().map(|one| one.id).collect();
        let gone: Vec<u32> = self
            .entries
            .keys()
            .filter(|id| !known.contains(id) && !kept.contains(id))
            .copied()
            .collect();
        for id in gone {
            let forgotten = pass.kernel.forget_policy(id);
            if pass.note(forgotten).is_some() {
                self.entries.remove(&id);
                pass.outcome.changed = true;
            }
        }
    }
}

fn flagged(endpoint: &LocalEndpoint, policy: &EndpointPolicy) -> Endpoint {
    Endpoint {
        id: endpoint.id,
        identity: endpoint.identity.0,
        addr: endpoint.ip,
        ifindex: endpoint.interface.ifindex,
        mac: endpoint.interface.mac,
        host_mac: endpoint.interface.host_mac,
        default_deny_ingress: policy.ingress_default_deny,
        default_deny_egress: policy.egress_default_deny,
        policed: policy.policed,
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
