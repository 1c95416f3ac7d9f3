//! One pass: from everything that is known to everything that is written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tracing::{debug, info, warn};
use weft_core::model::{Labels, NumericIdentity};
use weft_core::policy::{Bounds, RuleTable};

use super::Start;
use super::bounds::Reported;
use super::publish::{Known, Publisher, Wish};
use super::work::Work;
use crate::control::ProxyStatus;
use crate::endpoint::{Interfaces, Table, Update};
use crate::filter::{Needed, Resolved, ResolvedFilter};
use crate::identity::{CidrIdentities, Numbers, pod_labels};
use crate::metrics::Metrics;
use crate::plan::filters::{self, Attached};
use crate::plan::{self, Compiled, Frontend, Rules, ServiceEntry, UnknownName, Unnumbered};
use crate::policy::{Keep, LastGood, Repository};
use crate::program::{Kernel, Outcome, Programmer, Wanted};
use crate::state::{Change, ClusterState, ObjectKey, Pod};
use crate::status::StatusSender;
use crate::view::ViewHandle;

/// Past so many rules with a number those of objects that are gone lose theirs:
/// until then the flows of their last connections still name them.
const MANY_RULES: usize = 1 << 17;

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this node.
    pub node: String,
    /// Address of this node.
    pub ip: Ipv4Addr,
    /// Name of the cluster.
    pub cluster: String,
    /// Port of the proxy's transparent listener.
    pub proxy_port: u16,
    /// Mark of what the proxy sends.
    pub proxy_mark: u32,
    /// Limits, deadlines and names of the proxy.
    pub proxy: weft_core::snapshot::Settings,
    /// Ports of nodes that pods may not reach through the proxy.
    pub private_ports: Vec<u16>,
    /// What the policies of one endpoint may come to.
    pub bounds: Bounds,
    /// Bytes that a snapshot may have.
    pub max_snapshot: usize,
}

/// What the loop has to know of a pass.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// When to come again at the latest.
    pub(super) again: Option<Instant>,
    /// A pod waits for its interface.
    pub(super) waiting: bool,
}

/// The state and everything that is derived from it.
pub(super) struct Engine<K> {
    pub(super) settings: Settings,
    pub(super) kernel: K,
    pub(super) programmer: Programmer,
    pub(super) state: ClusterState,
    pub(super) table: Table,
    interfaces: Interfaces,
    pub(super) numbers: Arc<Numbers>,
    /// Numbers that this node was given and that the watch has not shown yet.
    allocated: BTreeMap<NumericIdentity, Labels>,
    pub(super) cidrs: CidrIdentities,
    pub(super) repository: Repository,
    last_good: LastGood,
    /// Writes of valid policies that failed, to be tried again.
    unsaved: Vec<Keep>,
    pub(super) rules: Rules,
    /// The labels for whose rules address ranges are numbered: those of the pods
    /// of this node.
    numbered_for: BTreeSet<Labels>,
    /// The filters in force; none before they are known.
    pub(super) filters: Resolved,
    needed: watch::Sender<Needed>,
    pub(super) compiled: Compiled,
    pub(super) rule_table: RuleTable,
    pub(super) publisher: Publisher,
    pub(super) view: ViewHandle,
    pub(super) status: StatusSender,
    pub(super) metrics: Metrics,
    pub(super) revision: u64,
    /// Entries that tables had no room for, as counted so far.
    refused: BTreeMap<&'static str, u64>,
    /// The endpoints over their bounds, as they were reported.
    pub(super) reported: Reported,
    /// Names of ports that no pod has, of which was told.
    pub(super) unknown_names: BTreeSet<UnknownName>,
    unfinished: bool,
    /// Everything was as wanted once.
    settled: bool,
}

impl<K: Kernel> Engine<K> {
    pub(super) fn new(start: Start<K>) -> Self {
        let publisher = Publisher::new(start.control, start.published, &start.settings.bounds);
        Self {
            compiled: Compiled::bounded(start.settings.bounds),
            settings: start.settings,
            kernel: start.kernel,
            programmer: start.programmer,
            state: ClusterState::default(),
            table: Table::restore(start.found),
            interfaces: Interfaces::default(),
            numbers: Arc::default(),
            allocated: BTreeMap::new(),
            cidrs: start.cidrs,
            repository: start.repository,
            last_good: start.last_good,
            unsaved: Vec::new(),
            rules: Rules::default(),
            numbered_for: BTreeSet::new(),
            filters: None,
            needed: start.needed,
            rule_table: RuleTable::default(),
            publisher,
            view: start.view,
            status: start.status,
            metrics: start.metrics,
            revision: 0,
            refused: BTreeMap::new(),
            reported: Reported::new(),
            unknown_names: BTreeSet::new(),
            unfinished: true,
            settled: false,
        }
    }

    /// Takes a change of the cluster in; true when it is one.
    pub(super) fn change(&mut self, change: Change) -> bool {
        if let Change::Identities(_) = &change {
            let changed = self.state.apply(change);
            // What the watch shows it also takes away.
            let identities = &self.state.identities;
            self.allocated
                .retain(|id, _| !identities.contains_key(&ObjectKey::new("", id.to_string())));
            return changed;
        }
        self.state.apply(change)
    }

    /// A question about an identity was answered.
    pub(super) fn allocated(&mut self, labels: Labels, result: Option<NumericIdentity>) {
        if let Some(id) = result {
            self.allocated.insert(id, labels);
        }
    }

    /// A question about a pod was answered. A pod that is gone will leave the
    /// state by the watch.
    pub(super) fn confirmed(&mut self, uid: String, ifindex: u32, lives: Option<bool>) {
        if lives == Some(true) {
            self.table.confirm(uid, ifindex);
        }
    }

    /// What is known of the proxy changed.
    pub(super) fn proxy(&mut self, proxy: ProxyStatus) {
        self.publisher.heard(proxy);
    }

    /// Filters are these from now on; true when they changed.
    pub(super) fn filters(&mut self, filters: Arc<[ResolvedFilter]>) -> bool {
        let changed = self.filters.as_ref() != Some(&filters);
        self.filters = Some(filters);
        changed
    }

    /// The node's interfaces were read; true when they changed.
    pub(super) fn interfaces(&mut self, interfaces: Interfaces) -> bool {
        let changed = self.interfaces != interfaces;
        self.interfaces = interfaces;
        changed
    }

    /// Whether the last pass left something to do, or there was none yet.
    pub(super) fn unfinished(&self) -> bool {
        self.unfinished
    }

    /// Whether every kind was listed once, and filters are known: before that,
    /// what is missing cannot be told from what is gone.
    pub(super) fn in_sync(&self) -> bool {
        self.state.missing().is_empty() && self.filters.is_some()
    }

    /// Programs what is known.
    pub(super) fn pass(&mut self, work: &mut Work) -> Passed {
        let now = Instant::now();
        self.numbers = Arc::new(self.known_numbers());
        let update = self.update_endpoints(work);
        self.update_policies();
        let settings = &self.settings;
        let identities =
            plan::identities(&self.state, &settings.cluster, &self.numbers, &self.cidrs);
        let attached = self.attached();
        let mut compiled = std::mem::take(&mut self.compiled);
        compiled.intercepts = attached.intercepts(self.publisher.proxy().filters);
        compiled.update(
            self.table.endpoints(),
            &self.rules,
            identities,
            &mut self.rule_table,
            self.programmer.held(),
        );
        let addresses = plan::addresses(
            &self.state,
            &settings.node,
            self.interfaces.own(),
            &settings.cluster,
            &self.numbers,
            &self.cidrs,
        );
        let services = plan::frontends(&self.state);
        compiled.close_crowded(&attached.over);
        let known = Known::of(settings, &self.table, &compiled, &addresses);
        let room = known.room(&attached.chains);
        compiled.make_room(room, self.publisher.in_force());
        let wanted = Wanted {
            detach: &update.detach,
            endpoints: self.table.endpoints(),
            policies: &compiled.policies,
            chains: &attached.chains,
            addresses: &addresses,
            services: &services,
        };
        let mut outcome = self.programmer.run(
            &mut self.kernel,
            &wanted,
            &mut self.publisher.gate,
            settings.proxy_port,
            now,
        );
        // What is revoked is out of the kernel by now; what newly redirects
        // waits for the proxy's answer to this.
        let known = Known::of(settings, &self.table, &compiled, &addresses);
        let wish = Wish {
            policies: &compiled.policies,
            chains: &attached.chains,
            filters: self.filters.as_deref().unwrap_or_default(),
            state: &self.state,
        };
        self.publisher
            .publish(&known, &wish, &outcome.refused, &self.metrics);
        if outcome.changed || self.revision == 0 {
            self.revision += 1;
        }
        self.introduce(&mut outcome, now);
        self.tell_bounds(&compiled, work);
        self.tell_names(&compiled, work);
        self.count_tables();
        self.describe(&update, &compiled, &addresses, &services, &outcome);
        self.save_policies();
        self.compiled = compiled;
        let took = now.elapsed();
        self.metrics.pass(took);
        debug!(
            revision = self.revision,
            changed = outcome.changed,
            compiled = self.compiled.compiled,
            ?took,
            "pass"
        );
        self.passed(&update, &outcome)
    }

    /// What filters come to on the pods of this node; and tells which of them that
    /// are, so that their modules are fetched.
    fn attached(&self) -> Attached {
        let filters = self.filters.as_deref().unwrap_or_default();
        let attached = filters::attach(filters, self.table.endpoints(), &self.state);
        let needed = Some(Arc::new(attached.keys()));
        self.needed.send_if_modified(|known| {
            let news = *known != needed;
            if news {
                *known = needed;
            }
            news
        });
        attached
    }

    /// Notes the pods that the proxy has not heard of yet.
    fn introduce(&mut self, outcome: &mut Outcome, now: Instant) {
        for endpoint in self.table.endpoints().values() {
            if let Err(until) = self.publisher.gate.introduced(endpoint.id, now) {
                outcome.strangers.insert(endpoint.id);
                outcome.again_at(until);
            }
        }
    }

    fn passed(&mut self, update: &Update, outcome: &Outcome) -> Passed {
        self.unfinished = outcome.again.is_some() || !update.waiting.is_empty();
        if !self.unfinished && !self.settled {
            self.settled = true;
            self.kernel.settled();
        }
        Passed {
            again: outcome.again,
            waiting: !update.waiting.is_empty(),
        }
    }

    fn known_numbers(&self) -> Numbers {
        let of_api = self.state.identities.values();
        let of_api = of_api.map(|object| (object.id, object.labels.clone()));
        let own = self
            .allocated
            .iter()
            .map(|(id, labels)| (*id, labels.clone()));
        Numbers::new(of_api.chain(own))
    }

    fn local_pods(&self) -> impl Iterator<Item = &Pod> {
        self.state
            .pods
            .values()
            .filter(|pod| pod.node == self.settings.node)
    }

    /// The labels of the pods of this node, whether they are endpoints yet or
    /// still.
    fn local_labels(&self) -> BTreeSet<Labels> {
        let endpoints = self.table.endpoints().values();
        let endpoints = endpoints.map(|endpoint| endpoint.labels.clone());
        let cluster = &self.settings.cluster;
        let pods = self.local_pods().filter(|pod| pod.own_ip().is_some());
        let pods = pods.filter_map(|pod| pod_labels(pod, &self.state, cluster));
        endpoints.chain(pods).collect()
    }

    fn update_endpoints(&mut self, work: &mut Work) -> Update {
        let cluster = self.settings.cluster.clone();
        let wanted: BTreeSet<Labels> = self
            .local_pods()
            .filter(|pod| pod.own_ip().is_some())
            .filter_map(|pod| pod_labels(pod, &self.state, &cluster))
            .filter(|labels| self.numbers.of(labels).is_none())
            .collect();
        for labels in wanted {
            work.allocate(&self.numbers, labels);
        }
        let (state, numbers) = (&self.state, &self.numbers);
        let node = &self.settings.node;
        let local = state.pods.values().filter(|pod| pod.node == *node);
        let update = self.table.update(local, &self.interfaces, |pod| {
            let labels = pod_labels(pod, state, &cluster)?;
            Some((numbers.of(&labels)?, labels))
        });
        for (key, uid, ifindex) in &update.confirm {
            work.confirm(key, uid.clone(), *ifindex);
        }
        for ip in &update.detach {
            info!(%ip, "endpoint is gone");
        }
        update
    }

    fn update_policies(&mut self) {
        let (changed, keep) = self.repository.update(&self.state.policies);
        if changed {
            self.rules.replace(self.repository.rules());
            // Objects that come and go under ever new names must not fill it.
            if self.rule_table.len() > MANY_RULES {
                let repository = &self.repository;
                self.rule_table
                    .retain(|rule| repository.has_object_of(rule));
            }
        }
        // Once without a change: what a former run numbered may be out of use.
        let local = self.local_labels();
        if changed || self.revision == 0 || local != self.numbered_for {
            self.numbered_for = local;
            self.number_ranges();
        }
        self.unsaved.extend(keep);
    }

    /// Keeps valid policies on disk: after the kernel has them, which somebody
    /// waits for.
    fn save_policies(&mut self) {
        let last_good = &self.last_good;
        self.unsaved.retain(|change| match last_good.keep(change) {
            Ok(()) => false,
            Err(error) => {
                warn!(%error, "a valid policy was not kept on disk, trying again");
                true
            }
        });
    }

    fn count_tables(&mut self) {
        for (table, now) in self.kernel.tables() {
            let before = self.refused.insert(table, now.refused).unwrap_or_default();
            let refused = now.refused.saturating_sub(before);
            self.metrics.table(table, &now, 0, refused);
        }
    }

    /// Gives the ranges that policies name their identities.
    fn number_ranges(&mut self) {
        let plan::Ranges { numbered, refused } = plan::ranges(
            &self.rules.list,
            &self.numbered_for,
            &self.cidrs,
            plan::MAX_RANGES,
        );
        let objects = objects_of(&refused);
        if objects != objects_of(&self.rules.unnumbered) {
            if objects.is_empty() {
                info!("all address ranges of policies find room again");
            } else {
                warn!(
                    ranges = numbered.len(),
                    most = plan::MAX_RANGES,
                    policies = %some_of(&objects),
                    "no room for the address ranges of these policies: everything is denied to the \
                     pods that they select; name fewer ranges, or larger ones"
                );
            }
        }
        self.rules.unnumbered = refused;
        self.cidrs.update(&numbered);
    }

    fn describe(
        &mut self,
        update: &Update,
        compiled: &Compiled,
        addresses: &BTreeMap<ipnet::Ipv4Net, plan::Address>,
        services: &BTreeMap<Frontend, ServiceEntry>,
        outcome: &Outcome,
    ) {
        let view = self.view_of(compiled, addresses, services);
        self.view.store(view);
        let status = self.status_of(update, compiled, services, outcome);
        self.status.send_replace(Arc::new(status));
    }
}

/// The objects of these rules.
fn objects_of(rules: &[Unnumbered]) -> BTreeSet<String> {
    let objects = rules.iter().map(|one| one.rule.origin.object());
    objects.collect()
}

/// The first of these names, and how many more there are.
fn some_of(names: &BTreeSet<String>) -> String {
    const NAMED: usize = 10;
    let named: Vec<_> = names.iter().take(NAMED).map(String::as_str).collect();
    let named = named.join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
