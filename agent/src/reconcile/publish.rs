//! The proxy's snapshots: what they are made of, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tracing::warn;
use weft_core::filter::FilterKey;
use weft_core::policy::{Bounds, EndpointPolicy, IdentityTable, PortPolicy};

use super::pass::Settings;
use crate::control::{Control, ProxyStatus};
use crate::endpoint::{LocalEndpoint, Table};
use crate::filter::{Published, ResolvedFilter};
use crate::metrics::Metrics;
use crate::plan::filters::{Asked, Chains, callouts};
use crate::plan::{
    self, Address, Compiled, Coverage, FilterParts, Gate, PortsByEndpoint, SnapshotParts,
};
use crate::state::ClusterState;

/// What of a snapshot does not depend on policies.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    settings: &'a Settings,
    endpoints: &'a BTreeMap<Ipv4Addr, LocalEndpoint>,
    identities: &'a IdentityTable,
    addresses: &'a BTreeMap<Ipv4Net, Address>,
}

impl<'a> Known<'a> {
    pub(super) fn of(
        settings: &'a Settings,
        table: &'a Table,
        compiled: &'a Compiled,
        addresses: &'a BTreeMap<Ipv4Net, Address>,
    ) -> Self {
        Self {
            settings,
            endpoints: table.endpoints(),
            identities: &compiled.identities,
            addresses,
        }
    }

    /// How many bytes it leaves beside these filters for what the proxy judges.
    pub(super) fn room(&self, chains: &Chains) -> usize {
        let parts = self.parts(Vec::new(), FilterParts::default());
        plan::room_for_ports(&parts, chains, self.settings.max_snapshot)
    }

    fn parts(&self, ports: Vec<&'a PortPolicy>, filters: FilterParts) -> SnapshotParts<'a> {
        let settings = self.settings;
        let private_ports = settings.private_ports.iter().copied().map(u32::from);
        SnapshotParts {
            node: weft_api::node::Node {
                name: settings.node.clone(),
                ip: settings.ip.to_string(),
                cluster: settings.cluster.clone(),
                private_ports: private_ports.collect(),
            },
            proxy_port: settings.proxy_port,
            proxy_mark: settings.proxy_mark,
            settings: &settings.proxy,
            endpoints: self.endpoints,
            identities: self.identities,
            addresses: self.addresses,
            ports,
            filters,
        }
    }
}

/// What the proxy is to do.
pub(super) struct Wish<'a> {
    /// The policies by endpoint.
    pub(super) policies: &'a BTreeMap<u32, EndpointPolicy>,
    /// The filters by endpoint.
    pub(super) chains: &'a Chains,
    /// The filters in force.
    pub(super) filters: &'a [ResolvedFilter],
    /// What is behind Services.
    pub(super) state: &'a ClusterState,
}

/// Sends snapshots, and keeps redirects out of the kernel that the proxy does not
/// know.
pub(super) struct Publisher {
    /// Asked before anything that redirects is written.
    pub(super) gate: Gate,
    control: Control,
    published: watch::Sender<Published>,
    proxy: ProxyStatus,
    /// What the proxy is to judge, by endpoint: what the next snapshot says. It
    /// follows the policies, but for endpoints whose entries the kernel refused.
    judged: PortsByEndpoint,
    /// The filters that requests are to meet, likewise.
    met: Chains,
    /// Which versions of filters these are.
    revisions: BTreeMap<FilterKey, u64>,
    /// Services that filters may ask and that found no room in it.
    unanswered: BTreeSet<String>,
    /// What the last snapshot that was sent has it judge. The two differ while
    /// none can be sent; what is in force does not give way to what is new.
    in_force: PortsByEndpoint,
    version: String,
    unsent: String,
}

impl Publisher {
    pub(super) fn new(
        control: Control,
        published: watch::Sender<Published>,
        bounds: &Bounds,
    ) -> Self {
        Self {
            gate: Gate::bounded(bounds),
            control,
            published,
            proxy: ProxyStatus::default(),
            judged: PortsByEndpoint::new(),
            met: Chains::new(),
            revisions: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            in_force: PortsByEndpoint::new(),
            version: String::new(),
            unsent: String::new(),
        }
    }

    /// What is known of the proxy.
    pub(super) fn proxy(&self) -> &ProxyStatus {
        &self.proxy
    }

    /// What the last snapshot that was sent has the proxy judge.
    pub(super) fn in_force(&self) -> &PortsByEndpoint {
        &self.in_force
    }

    /// The version of that snapshot.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Why the newest snapshot was not sent; empty when it was.
    pub(super) fn unsent(&self) -> &str {
        &self.unsent
    }

    /// What is known of the proxy changed.
    pub(super) fn heard(&mut self, proxy: ProxyStatus) {
        self.proxy = proxy;
        self.tell_gate();
    }

    fn tell_gate(&mut self) {
        let proxy = &self.proxy;
        self.gate
            .proxy(proxy.connected, &proxy.acked, proxy.answered);
        self.gate.filters(proxy.filters);
    }

    /// Publishes what the proxy is to judge, and the filters that requests meet.
    /// Endpoints whose entries the kernel `refused` are judged as before: what it
    /// goes on redirecting must not find a proxy without rules and filters for it.
    pub(super) fn publish(
        &mut self,
        known: &Known<'_>,
        wish: &Wish<'_>,
        refused: &BTreeSet<u32>,
        metrics: &Metrics,
    ) {
        self.follow(wish, refused);
        let limit = known.settings.max_snapshot;
        let met = self.met.iter().map(|(id, chains)| (*id, chains.as_slice()));
        let asked = Asked {
            state: wish.state,
            endpoints: known.endpoints,
            policies: wish.policies,
            addresses: known.addresses,
            closed: refused,
        };
        let callouts = callouts(met, asked);
        let filters = FilterParts::new(&self.met, &callouts, limit);
        self.tell_unanswered(&filters.unanswered);
        let ports: Vec<_> = self.judged.values().flatten().collect();
        let endpoints = known.endpoints.values();
        let coverage = Coverage::of(endpoints.map(|one| one.id), ports.iter().copied());
        let coverage = coverage.with_chains(self.met.clone());
        let built = plan::snapshot(&known.parts(ports, filters), limit);
        let snapshot = match built {
            Ok((snapshot, size)) => {
                metrics.snapshot(size);
                self.unsent.clear();
                snapshot
            }
            // The proxy stays with the last one, and nothing is redirected to it
            // on account of this one.
            Err(error) => {
                metrics.snapshot(error.size);
                if self.unsent.is_empty() {
                    warn!(%error, "the snapshot is not sent");
                    metrics.unsent_snapshot();
                }
                self.unsent = error.to_string();
                return;
            }
        };
        if self.version != snapshot.version {
            self.in_force.clone_from(&self.judged);
        }
        self.version.clone_from(&snapshot.version);
        self.tell_revisions();
        let number = self.control.publish(snapshot);
        self.gate.published(number, &self.version, coverage);
        // The proxy may be running it already (after a restart of the agent).
        self.tell_gate();
    }

    fn follow(&mut self, wish: &Wish<'_>, refused: &BTreeSet<u32>) {
        let in_force = wish.filters.iter().map(|one| (&one.spec.key, one));
        let in_force: BTreeMap<&FilterKey, &ResolvedFilter> = in_force.collect();
        self.judged.retain(|id, _| wish.policies.contains_key(id));
        self.met
            .retain(|id, _| refused.contains(id) && wish.policies.contains_key(id));
        for (id, policy) in wish.policies {
            if refused.contains(id) {
                continue;
            }
            self.judged.insert(*id, policy.ports.clone());
            if let Some(chains) = wish.chains.get(id) {
                self.met.insert(*id, chains.clone());
            }
        }
        // One filter has one version, also where the ports are those of before.
        for chain in self.met.values_mut().flatten() {
            chain.follow(|key| in_force.get(key).map(|one| &one.spec));
        }
        let steps = self.met.values().flatten();
        let keys = steps.flat_map(|chain| chain.steps.iter().map(|step| &step.filter.key));
        let keys: BTreeSet<&FilterKey> = keys.collect();
        let met = keys.into_iter().filter_map(|key| in_force.get(key));
        let revisions = met.map(|one| (one.spec.key.clone(), one.revision));
        self.revisions = revisions.collect();
    }

    /// Before the proxy has it: what it says of this version is understood then.
    fn tell_revisions(&self) {
        let now = Published {
            version: self.version.clone(),
            revisions: self.revisions.clone(),
        };
        self.published.send_if_modified(|known| {
            let news = *known != now;
            if news {
                *known = now;
            }
            news
        });
    }

    fn tell_unanswered(&mut self, unanswered: &BTreeSet<String>) {
        for service in unanswered.difference(&self.unanswered) {
            warn!(
                service,
                "no room in the proxy's snapshot for what is behind it: filters cannot ask it"
            );
        }
        self.unanswered.clone_from(unanswered);
    }
}
