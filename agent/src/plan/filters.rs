//! Which filters the requests of a pod meet, and on which ports.

mod callouts;
mod cut;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_core::filter::{FailPolicy, FilterKey, FilterSpec, Intercept, Phase};
use weft_core::model::{Direction, Labels, Protocol};
use weft_core::policy::{Bounded, Excess, PortRange};

pub use callouts::{Asked, callouts};
use cut::Meeting;

use super::policies::Intercepts;
use crate::endpoint::LocalEndpoint;
use crate::filter::{Attachment, ResolvedFilter, Subject};
use crate::state::{ClusterState, ObjectKey};

/// Most steps in the chains of one endpoint. Nothing real comes near; who may
/// attach filters must not fill the proxy's snapshot with one pod.
pub(super) const MAX_STEPS: usize = 2048;

/// A filter in a chain.
#[derive(Debug, Clone)]
pub struct Step {
    /// Where in a request's way.
    pub phase: Phase,
    /// The filter.
    pub filter: Arc<FilterSpec>,
}

impl Step {
    /// Whether requests do not pass while it cannot be loaded.
    pub fn fails_closed(&self) -> bool {
        self.filter.on_error.load == FailPolicy::Closed
    }
}

/// Of one filter all versions are the same step: which of them is in force is
/// the proxy's business.
impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        self.phase == other.phase && self.filter.key == other.filter.key
    }
}

impl Eq for Step {}

/// The filters of an endpoint for one direction and range of TCP ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Whether the endpoint is asked, or asks.
    pub direction: Direction,
    /// First port of the range.
    pub first: u16,
    /// Last port, inclusive.
    pub last: u16,
    /// The filters, in the order of a request. Never empty.
    pub steps: Arc<[Step]>,
}

impl Chain {
    /// Whether one of its filters must not be left out.
    pub fn fails_closed(&self) -> bool {
        self.steps.iter().any(Step::fails_closed)
    }

    /// Takes over these versions of its filters.
    pub fn follow<'f>(&mut self, newest: impl Fn(&FilterKey) -> Option<&'f Arc<FilterSpec>>) {
        let newest = |step: &Step| newest(&step.filter.key).unwrap_or(&step.filter).clone();
        if self
            .steps
            .iter()
            .all(|step| Arc::ptr_eq(&step.filter, &newest(step)))
        {
            return;
        }
        let steps = self.steps.iter().map(|step| Step {
            phase: step.phase,
            filter: newest(step),
        });
        self.steps = steps.collect();
    }

    fn intercept(&self) -> Intercept {
        Intercept {
            direction: self.direction,
            first: self.first,
            last: self.last,
        }
    }
}

/// Chains by endpoint number, in the order of directions and ports, which do not
/// overlap.
pub type Chains = BTreeMap<u32, Vec<Chain>>;

/// What is attached to the endpoints of the node.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Their chains.
    pub chains: Chains,
    /// Endpoints with more filters than there may be. They have no chains; what
    /// filters are attached to has to stay closed.
    pub over: BTreeMap<u32, Excess>,
    /// The ports of those.
    closed: Intercepts,
    /// What stands for versions that are awaited, and of which filters.
    awaited: BTreeMap<FilterKey, FilterKey>,
}

impl Attached {
    /// The filters that are met by any of them, or will be.
    pub fn keys(&self) -> BTreeSet<FilterKey> {
        let steps = self.chains.values().flatten();
        let steps = steps.flat_map(|chain| chain.steps.iter());
        let keys = steps.map(|step| &step.filter.key);
        let keys = keys.map(|key| self.awaited.get(key).unwrap_or(key));
        let keys: BTreeSet<&FilterKey> = keys.collect();
        keys.into_iter().cloned().collect()
    }

    /// The ports whose traffic has to come to the proxy. One that does not know
    /// filters (`supported`, if that was ever heard) could only pass requests by
    /// them: where all of them may be left out they are.
    pub fn intercepts(&self, supported: Option<bool>) -> Intercepts {
        let leaves_out = |chain: &&Chain| supported == Some(false) && !chain.fails_closed();
        let of_chains = self.chains.iter().map(|(id, chains)| {
            let chains = chains.iter().filter(|chain| !leaves_out(chain));
            (*id, merged(chains.map(Chain::intercept)))
        });
        let all = of_chains.chain(self.closed.iter().map(|(id, ports)| (*id, ports.clone())));
        all.filter(|(_, ports)| !ports.is_empty()).collect()
    }
}

/// Sorted, with those that touch made one.
fn merged(intercepts: impl Iterator<Item = Intercept>) -> Vec<Intercept> {
    let mut sorted: Vec<_> = intercepts.collect();
    sorted.sort_unstable();
    let mut merged: Vec<Intercept> = Vec::with_capacity(sorted.len());
    for one in sorted {
        match merged.last_mut() {
            Some(before)
                if before.direction == one.direction
                    && one.first <= before.last.saturating_add(1) =>
            {
                before.last = before.last.max(one.last);
            }
            _ => merged.push(one),
        }
    }
    merged
}

/// What these filters come to on the endpoints of the node. A filter without a
/// module is attached like any other: what becomes of its requests is its
/// `onError`'s to say. So is one whose newest version has no module here, of
/// which the one in force knows nothing.
pub fn attach(
    filters: &[ResolvedFilter],
    endpoints: &BTreeMap<Ipv4Addr, LocalEndpoint>,
    state: &ClusterState,
) -> Attached {
    let mut attached = Attached::default();
    if filters.is_empty() {
        return attached;
    }
    let awaited = filters.iter().filter_map(|filter| {
        let awaited = filter.awaited.as_ref()?;
        Some((awaited.spec.key.clone(), filter.spec.key.clone()))
    });
    attached.awaited = awaited.collect();
    let behind = behind_services(filters, endpoints, state);
    let mut by_labels: HashMap<&Labels, Met<'_>> = HashMap::new();
    for endpoint in endpoints.values() {
        let alike = by_labels
            .entry(&endpoint.labels)
            .or_insert_with(|| Met::new(of_labels(filters, &endpoint.labels)));
        let own = behind.get(&endpoint.ip).map(|more| {
            let meetings = alike.meetings.iter().chain(more).copied();
            Met::new(meetings.collect())
        });
        let met = own.as_ref().unwrap_or(alike);
        match &met.chains {
            Some(chains) if chains.is_empty() => {}
            Some(chains) => {
                attached.chains.insert(endpoint.id, chains.clone());
            }
            None => {
                let ports = merged(met.meetings.iter().map(Meeting::intercept));
                attached.closed.insert(endpoint.id, ports);
                attached.over.insert(endpoint.id, excess(&met.meetings));
            }
        }
    }
    attached
}

/// What pods meet, and the chains of it unless they are too many.
struct Met<'f> {
    meetings: Vec<Meeting<'f>>,
    chains: Option<Vec<Chain>>,
}

impl<'f> Met<'f> {
    fn new(meetings: Vec<Meeting<'f>>) -> Self {
        Self {
            chains: cut::chains(&meetings, MAX_STEPS),
            meetings,
        }
    }
}

/// Names the filter that is in most ranges of ports.
fn excess(meetings: &[Meeting<'_>]) -> Excess {
    let mut by_filter: BTreeMap<String, usize> = BTreeMap::new();
    for meeting in meetings {
        *by_filter.entry(meeting.filter.key.to_string()).or_default() += 1;
    }
    Excess {
        of: Bounded::Filters,
        limit: MAX_STEPS,
        most: by_filter.into_iter().max_by_key(|(_, ranges)| *ranges),
    }
}

/// A version of a filter.
#[derive(Debug, Clone, Copy)]
struct Version<'f> {
    filter: &'f Arc<FilterSpec>,
    /// The version in force, where this one is awaited.
    before: Option<&'f FilterKey>,
}

/// Every filter with every one of its attachments, and those that are awaited.
fn attachments(filters: &[ResolvedFilter]) -> impl Iterator<Item = (Version<'_>, &Attachment)> {
    filters.iter().flat_map(|filter| {
        let in_force = Version {
            filter: &filter.spec,
            before: None,
        };
        let awaited = filter.awaited.iter().flat_map(|awaited| {
            let version = Version {
                filter: &awaited.spec,
                before: Some(&filter.spec.key),
            };
            let attachments = awaited.attachments.iter();
            attachments.map(move |attachment| (version, attachment))
        });
        let attachments = filter.attachments.iter();
        let attachments = attachments.map(move |attachment| (in_force, attachment));
        attachments.chain(awaited)
    })
}

/// What pods with these labels meet on account of them.
fn of_labels<'f>(filters: &'f [ResolvedFilter], labels: &Labels) -> Vec<Meeting<'f>> {
    let selected = attachments(filters).filter(|(_, attachment)| match &attachment.subject {
        Subject::Pods(selector) => selector.matches(labels),
        Subject::Service { .. } => false,
    });
    let meetings = selected.flat_map(|(version, attachment)| {
        let all = [PortRange {
            first: 0,
            last: u16::MAX,
        }];
        let ports = match attachment.ports.is_empty() {
            true => all.to_vec(),
            false => attachment.ports.clone(),
        };
        let meeting = move |ports| Meeting::new(version, attachment, ports);
        ports.into_iter().map(meeting)
    });
    meetings.collect()
}

/// What pods of this node meet since they are behind a Service, whether they are
/// ready or not: on the ports to which it leads them. Where the filter names
/// ports, they are the Service's own.
fn behind_services<'f>(
    filters: &'f [ResolvedFilter],
    endpoints: &BTreeMap<Ipv4Addr, LocalEndpoint>,
    state: &ClusterState,
) -> HashMap<Ipv4Addr, Vec<Meeting<'f>>> {
    let mut meetings: HashMap<Ipv4Addr, Vec<Meeting<'f>>> = HashMap::new();
    let mut targets: HashMap<ObjectKey, BTreeSet<Target>> = HashMap::new();
    for (version, attachment) in attachments(filters) {
        let Subject::Service { namespace, name } = &attachment.subject else {
            continue;
        };
        let targets = targets
            .entry(ObjectKey::new(namespace, name))
            .or_insert_with_key(|service| targets_of(service, endpoints, state));
        // Whoever writes a Service without a selector can put anybody's pods behind it.
        let own = |target: &Target| {
            let of = &*version.filter.key.namespace;
            let pod = endpoints.get(&target.ip);
            of.is_empty() || pod.is_some_and(|pod| pod.key.namespace == of)
        };
        let meant = |target: &&Target| {
            let mut ports = attachment.ports.iter();
            let port = attachment.ports.is_empty()
                || ports.any(|range| (range.first..=range.last).contains(&target.port));
            port && own(target)
        };
        for target in targets.iter().filter(meant) {
            let ports = PortRange {
                first: target.own_port,
                last: target.own_port,
            };
            let meeting = Meeting::new(version, attachment, ports);
            meetings.entry(target.ip).or_default().push(meeting);
        }
    }
    meetings
}

/// A pod behind a port of a Service.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    ip: Ipv4Addr,
    /// Port of the Service.
    port: u16,
    /// Port of the pod.
    own_port: u16,
}

fn targets_of(
    key: &ObjectKey,
    endpoints: &BTreeMap<Ipv4Addr, LocalEndpoint>,
    state: &ClusterState,
) -> BTreeSet<Target> {
    let mut targets = BTreeSet::new();
    let Some(service) = state.services.get(key) else {
        return targets;
    };
    let slices = state.slices.values();
    let slices =
        slices.filter(|slice| slice.service == key.name && slice.key.namespace == key.namespace);
    for slice in slices {
        for own in slice
            .ports
            .iter()
            .filter(|own| own.protocol == Protocol::Tcp)
        {
            let ports = service.ports.iter();
            let ports = ports.filter(|port| port.protocol == own.protocol && port.name == own.name);
            for port in ports {
                let local = slice.backends.iter().map(|backend| backend.ip);
                let local = local.filter(|ip| endpoints.contains_key(ip));
                targets.extend(local.map(|ip| Target {
                    ip,
                    port: port.port,
                    own_port: own.port,
                }));
            }
        }
    }
    targets
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
