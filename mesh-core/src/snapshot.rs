//! The immutable configuration that the proxy runs from.
//!
//! Built as a whole from what the agent sent, never changed, replaced as a
//! whole. A connection looks up once who its ends are and which policies hold
//! ([`Snapshot::connection`]); each request then only runs the matchers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::filter::{Callout, Chain, ChainSpec, FilterSpec};
use crate::model::{Direction, Endpoint, EndpointId, Labels, NumericIdentity, PodAddr, PrefixMap};
use crate::policy::http::{Matcher, PeerPolicy, Request, Verdict};
use crate::policy::{PeerRule, PortPolicy};

mod by_subject;
mod settings;

use by_subject::BySubject;
pub use settings::{MOST_HEADERS, Settings, SettingsError};

/// The node that a proxy serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Box<str>,
    /// Its address; the source towards hosts and the world.
    pub address: IpAddr,
    /// Name of the cluster.
    pub cluster: Box<str>,
    /// TCP ports of nodes that are not for pods.
    pub private_ports: Box<[u16]>,
}

/// A socket to accept on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: Box<str>,
    /// Where to bind.
    pub address: SocketAddr,
    /// Where its traffic goes.
    pub mode: ListenerMode,
}

/// Where a listener's traffic goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerMode {
    /// To the connection's own original destination.
    Transparent {
        /// Mark of everything that the proxy sends. Of all transparent
        /// listeners the same.
        mark: u32,
    },
    /// To the cluster of this name.
    Cluster(Box<str>),
}

/// A named set of upstream addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: Box<str>,
    /// How long connecting may take. Default 5 s.
    pub connect_timeout: Duration,
    /// Addresses.
    pub endpoints: Box<[SocketAddr]>,
    /// Requests that came as HTTP/2 go on as HTTP/2.
    pub http2: bool,
}

impl Cluster {
    /// The default of [`Cluster::connect_timeout`].
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
}

/// What a snapshot is built from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Changes whenever the content does.
    pub version: Box<str>,
    /// The node.
    pub node: Node,
    /// Sockets to accept on.
    pub listeners: Vec<Listener>,
    /// Pods of the node.
    pub endpoints: Vec<Endpoint>,
    /// Labels of every identity that may appear.
    pub identities: Vec<(NumericIdentity, Labels)>,
    /// Identities by address; the longest prefix wins.
    pub addresses: Vec<(IpNet, NumericIdentity)>,
    /// What the proxy judges.
    pub policies: Vec<PortPolicy>,
    /// Upstream clusters.
    pub clusters: Vec<Cluster>,
    /// Filters that are attached somewhere on the node.
    pub filters: Vec<Arc<FilterSpec>>,
    /// Where they are attached.
    pub chains: Vec<ChainSpec>,
    /// Services that they may ask.
    pub callouts: Vec<Callout>,
    /// Limits and names.
    pub settings: Settings,
}

/// Why a snapshot is refused; the last good one goes on serving.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct SnapshotError {
    /// Where: `policies[3].path`, `clusters[0]`.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

/// The configuration of a proxy.
#[derive(Debug)]
pub struct Snapshot {
    version: Box<str>,
    node: Node,
    listeners: Box<[Listener]>,
    endpoints: HashMap<EndpointId, Endpoint>,
    endpoint_by_address: HashMap<PodAddr, EndpointId>,
    identities: HashMap<NumericIdentity, Labels>,
    addresses: PrefixMap<NumericIdentity>,
    /// Ranges of ports, sorted; they never overlap.
    policies: BySubject<Arc<Matcher>>,
    clusters: HashMap<Box<str>, Arc<Cluster>>,
    filters: Box<[Arc<FilterSpec>]>,
    chains: BySubject<ChainSpec>,
    callouts: HashMap<Box<str>, Callout>,
    settings: Arc<Settings>,
}

impl Snapshot {
    /// Builds a snapshot. Policies that did not change since `previous` keep
    /// their compiled matchers, so that a small change costs little.
    ///
    /// # Errors
    /// The first part that is wrong; nothing is left half-built.
    pub fn build(parts: Parts, previous: Option<&Self>) -> Result<Self, SnapshotError> {
        let policies = compile(&parts.policies, previous)?;
        let clusters = clusters(parts.clusters)?;
        let filters: Box<[_]> = parts.filters.into();
        let chains = chains(parts.chains, &filters)?;
        for (index, listener) in parts.listeners.iter().enumerate() {
            if let ListenerMode::Cluster(name) = &listener.mode
                && !clusters.contains_key(name)
            {
                return Err(SnapshotError {
                    field: format!("listeners[{index}].cluster"),
                    reason: format!("there is no cluster `{name}`"),
                });
            }
        }
        let by_address = |endpoint: &Endpoint| (endpoint.address, endpoint.id);
        Ok(Self {
            version: parts.version,
            node: parts.node,
            listeners: parts.listeners.into(),
            endpoint_by_address: parts.endpoints.iter().map(by_address).collect(),
            endpoints: parts
                .endpoints
                .into_iter()
                .map(|one| (one.id, one))
                .collect(),
            identities: parts.identities.into_iter().collect(),
            addresses: parts.addresses.into_iter().collect(),
            policies,
            clusters,
            filters,
            chains,
            callouts: parts
                .callouts
                .into_iter()
                .map(|one| (one.service.clone(), one))
                .collect(),
            settings: Arc::new(parts.settings),
        })
    }

    /// The version that its builder was given.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Sockets to accept on.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Limits and names.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    /// Filters that are attached somewhere on the node.
    pub fn filters(&self) -> &[Arc<FilterSpec>] {
        &self.filters
    }

    /// Whether the filter at this position is attached to a pod, in any direction
    /// and on any port.
    pub fn is_attached(&self, filter: u32, endpoint: EndpointId) -> bool {
        let mut chains = self.chains.values();
        chains.any(|chain| {
            let mut steps = chain.steps.iter();
            chain.endpoint == endpoint && steps.any(|step| step.filter == filter)
        })
    }

    /// A Service that filters may ask, by `name.namespace:port`.
    pub fn callout(&self, service: &str) -> Option<&Callout> {
        self.callouts.get(service)
    }

    /// The pod of that number.
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(&id)
    }

    /// The labels of an identity.
    pub fn identity_labels(&self, identity: NumericIdentity) -> Option<&Labels> {
        self.identities.get(&identity)
    }

    /// Who has an address.
    pub fn end(&self, address: IpAddr) -> End {
        let address = address.to_canonical();
        let endpoint = self.endpoint_by_address.get(&PodAddr(address)).copied();
        let own = endpoint
            .and_then(|id| self.endpoints.get(&id))
            .map(|endpoint| endpoint.identity);
        let known = own.or_else(|| self.addresses.lookup(address).copied());
        End {
            address,
            identity: known.unwrap_or(NumericIdentity::WORLD),
            endpoint,
        }
    }

    /// Everything that is looked up once for a connection. Look again when the
    /// snapshot was replaced: a revoked policy must cut what it revoked.
    pub fn connection(&self, source: IpAddr, destination: IpAddr, port: u16) -> Connection {
        let source = self.end(source);
        let destination = self.end(destination);
        Connection {
            egress: self.policy(source, Direction::Egress, port, destination.identity),
            ingress: self.policy(destination, Direction::Ingress, port, source.identity),
            chain: self.chain(source, destination, port),
            source,
            destination,
        }
    }

    fn policy(
        &self,
        subject: End,
        direction: Direction,
        port: u16,
        peer: NumericIdentity,
    ) -> Option<PeerPolicy> {
        let matcher = self.policies.get(subject.endpoint?, direction, port)?;
        Some(matcher.peer(peer))
    }

    fn chain(&self, source: End, destination: End, port: u16) -> Option<Chain> {
        let of = |end: End, direction| self.chains.get(end.endpoint?, direction, port);
        Chain::join(
            of(source, Direction::Egress),
            of(destination, Direction::Ingress),
        )
    }
}

fn compile(
    policies: &[PortPolicy],
    previous: Option<&Snapshot>,
) -> Result<BySubject<Arc<Matcher>>, SnapshotError> {
    // Replicas of one workload have equal policies: they share a matcher.
    let known = previous
        .into_iter()
        .flat_map(|snapshot| snapshot.policies.values());
    let mut known: HashMap<Arc<[PeerRule]>, Arc<Matcher>> = known
        .map(|matcher| (matcher.source().into(), Arc::clone(matcher)))
        .collect();
    let mut compiled = BySubject::default();
    for (index, policy) in policies.iter().enumerate() {
        let refused = |field: &str, reason: String| SnapshotError {
            field: format!("policies[{index}]{field}"),
            reason,
        };
        let matcher = match known.get(&policy.rules) {
            Some(matcher) => Arc::clone(matcher),
            None => {
                let matcher = Matcher::compile(&policy.rules)
                    .map_err(|error| refused(&format!(".{}", error.field), error.reason))?;
                let matcher = Arc::new(matcher);
                known.insert(policy.rules.clone(), Arc::clone(&matcher));
                matcher
            }
        };
        let subject = (policy.endpoint, policy.direction);
        compiled
            .add(subject, (policy.first, policy.last), matcher)
            .map_err(|reason| refused("", reason.into()))?;
    }
    compiled.finish("policies")
}

fn chains(
    list: Vec<ChainSpec>,
    filters: &[Arc<FilterSpec>],
) -> Result<BySubject<ChainSpec>, SnapshotError> {
    let mut chains = BySubject::default();
    for (index, chain) in list.into_iter().enumerate() {
        let refused = |field: String, reason: &str| SnapshotError {
            field: format!("chains[{index}]{field}"),
            reason: reason.into(),
        };
        for (place, step) in chain.steps.iter().enumerate() {
            if filters.get(step.filter as usize).is_none() {
                let field = format!(".steps[{place}].filter");
                return Err(refused(field, "is no position in `filters`"));
            }
        }
        let subject = (chain.endpoint, chain.direction);
        chains
            .add(subject, (chain.first, chain.last), chain)
            .map_err(|reason| refused(String::new(), reason))?;
    }
    chains.finish("chains")
}

fn clusters(list: Vec<Cluster>) -> Result<HashMap<Box<str>, Arc<Cluster>>, SnapshotError> {
    let mut clusters = HashMap::new();
    for (index, cluster) in list.into_iter().enumerate() {
        let name = cluster.name.clone();
        if clusters.insert(name, Arc::new(cluster)).is_some() {
            return Err(SnapshotError {
                field: format!("clusters[{index}].name"),
                reason: "two clusters have this name".into(),
            });
        }
    }
    Ok(clusters)
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its address; IPv4 even when it came mapped into IPv6.
    pub address: IpAddr,
    /// Its identity; the world when nothing narrower is known.
    pub identity: NumericIdentity,
    /// Its number, if it is a pod of this node.
    pub endpoint: Option<EndpointId>,
}

/// What is known of a connection for all its requests.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The end that opened it.
    pub source: End,
    /// The end that it was opened to.
    pub destination: End,
    egress: Option<PeerPolicy>,
    ingress: Option<PeerPolicy>,
    chain: Option<Chain>,
}

impl Connection {
    /// Whether the proxy has anything to judge in that direction, and hence
    /// whether it is an observation point for flows.
    pub fn has_policy(&self, direction: Direction) -> bool {
        self.policy(direction).is_some()
    }

    /// Whether headers, but for the host, may decide about a request in either
    /// direction or are changed by a rule.
    pub fn reads_headers(&self) -> bool {
        let policies = [&self.egress, &self.ingress];
        policies
            .into_iter()
            .flatten()
            .any(PeerPolicy::reads_headers)
    }

    /// Judges a request in one direction. `None`: there are no L7 rules in
    /// that direction; the datapath already allowed the connection.
    pub fn judge(&self, direction: Direction, request: &Request<'_>) -> Option<Verdict<'_>> {
        self.policy(direction).map(|policy| policy.judge(request))
    }

    /// Filters that its requests meet; none where nothing is attached.
    pub fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    fn policy(&self, direction: Direction) -> Option<&PeerPolicy> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests;
