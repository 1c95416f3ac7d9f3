//! What a snapshot says of filters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use weft_api::node;
use weft_core::filter::{
    Callout, FailPolicy, FilterKey, FilterLimits, FilterSpec, Isolation, OnError, Phase, Plugin,
};

use super::{duration, wire_direction};
use crate::plan::filters::{Chain, Chains, Step};
use crate::plan::room::{Claim, give_way};

/// The configurations of all filters may take this part of a snapshot.
const CONFIGURATIONS: usize = 4;
/// And the Services that they may ask.
const CALLOUTS: usize = 8;

/// Filters, where they are, and whom they may ask, as a snapshot has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FilterParts {
    pub(super) filters: Vec<node::Filter>,
    pub(super) chains: Vec<node::FilterChain>,
    pub(super) callouts: Vec<node::Callout>,
    /// Services for which there was no room.
    pub unanswered: BTreeSet<String>,
}

impl FilterParts {
    /// Of a snapshot of at most `limit` bytes. A filter whose configuration finds
    /// no room is there without its module, which is a failure to load; a Service
    /// that finds none has nothing behind it. Of two versions of a filter that
    /// chains have the last one counts.
    pub fn new(chains: &Chains, callouts: &[Callout], limit: usize) -> Self {
        let specs = specs(chains);
        let crowded = crowded(&specs, limit / CONFIGURATIONS);
        let filters = specs.iter().map(|(key, spec)| match crowded.contains(key) {
            true => without_room(spec),
            false => filter(spec),
        });
        let position: BTreeMap<&FilterKey, u32> = specs.keys().copied().zip(0..).collect();
        let chains = chains.iter().flat_map(|(endpoint, chains)| {
            let chains = chains.iter();
            chains.map(|chain| wire_chain(*endpoint, chain, &position))
        });
        let mut parts = Self {
            filters: filters.collect(),
            chains: chains.collect(),
            ..Self::default()
        };
        parts.add_callouts(callouts, &specs, limit / CALLOUTS);
        parts
    }

    /// Adds them, those without anything behind them for which there is no room:
    /// on the account of the first filter that declares the Service.
    fn add_callouts(
        &mut self,
        callouts: &[Callout],
        specs: &BTreeMap<&FilterKey, &Arc<FilterSpec>>,
        room: usize,
    ) {
        let mut tenants: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, spec) in specs {
            for service in spec.callouts.iter() {
                tenants.entry(service).or_insert(&key.namespace);
            }
        }
        let all: Vec<node::Callout> = callouts.iter().map(callout).collect();
        let claims = all.iter().enumerate().map(|(of, callout)| Claim {
            of,
            tenant: tenants.get(&*callout.service).copied().unwrap_or_default(),
            // With tag and length.
            size: 8 + callout.encoded_len(),
            new: false,
        });
        let leaving = give_way(&claims.collect::<Vec<_>>(), room);
        for (index, mut callout) in all.into_iter().enumerate() {
            if leaving.contains(&index) {
                callout.backends.clear();
                self.unanswered.insert(callout.service.clone());
            }
            self.callouts.push(callout);
        }
    }
}

/// How many bytes the same will take, whoever may be asked; rather more than
/// less.
pub(super) fn size(chains: &Chains, limit: usize) -> usize {
    /// Numbers, tags and lengths of a chain, and of a step.
    const CHAIN: usize = 32;
    const STEP: usize = 12;
    let specs = specs(chains);
    let (fixed, configurations) = specs.values().fold((0, 0), |(fixed, variable), spec| {
        (fixed + AROUND, variable + size_of(spec))
    });
    let chains = chains.values().flatten();
    let chains = chains.map(|chain| CHAIN + STEP * chain.steps.len());
    let asks = specs.values().any(|spec| !spec.callouts.is_empty());
    let callouts = if asks { limit / CALLOUTS } else { 0 };
    fixed + configurations.min(limit / CONFIGURATIONS) + chains.sum::<usize>() + callouts
}

/// What a filter takes beside what its owner writes, with the names of objects at
/// their longest.
const AROUND: usize = 1024;

/// What a filter's owner makes it take.
fn size_of(spec: &FilterSpec) -> usize {
    let callouts = spec.callouts.iter().map(|service| 4 + service.len());
    let plugin = &spec.plugin;
    let plugin = plugin.name.len() + plugin.root_id.len() + plugin.vm_id.len();
    let problem = spec.problem.as_ref().map_or(0, |problem| problem.len());
    spec.config.len() + callouts.sum::<usize>() + plugin + spec.plugin.vm_config.len() + problem
}

fn specs(chains: &Chains) -> BTreeMap<&FilterKey, &Arc<FilterSpec>> {
    let steps = chains
        .values()
        .flatten()
        .flat_map(|chain| chain.steps.iter());
    steps.map(|step| (&step.filter.key, &step.filter)).collect()
}

/// The filters whose configurations give way.
fn crowded<'s>(
    specs: &BTreeMap<&'s FilterKey, &'s Arc<FilterSpec>>,
    room: usize,
) -> BTreeSet<&'s FilterKey> {
    let claims = specs.iter().map(|(key, spec)| Claim {
        of: *key,
        tenant: &key.namespace,
        size: size_of(spec),
        new: false,
    });
    give_way(&claims.collect::<Vec<_>>(), room)
}

fn without_room(spec: &FilterSpec) -> node::Filter {
    let problem = format!(
        "its configuration has {} bytes, and those of all filters on this node find no room in \
         the proxy's snapshot: let it be smaller, or attach fewer filters",
        size_of(spec)
    );
    filter(&FilterSpec {
        module: None,
        problem: Some(problem.into()),
        config: Arc::default(),
        callouts: Arc::default(),
        plugin: Plugin::default(),
        ..spec.clone()
    })
}

fn filter(spec: &FilterSpec) -> node::Filter {
    node::Filter {
        kind: spec.key.kind.as_str().into(),
        namespace: spec.key.namespace.to_string(),
        name: spec.key.name.to_string(),
        sha256: spec
            .module
            .map_or_else(String::new, |digest| digest.to_string()),
        problem: spec.problem.as_deref().unwrap_or_default().to_owned(),
        config: spec.config.to_vec(),
        limits: Some(limits(&spec.limits)),
        on_error: Some(on_error(&spec.on_error)),
        isolated: spec.isolation == Isolation::Request,
        callouts: spec.callouts.iter().map(ToString::to_string).collect(),
        plugin: (spec.plugin != Plugin::default()).then(|| node::FilterPlugin {
            name: spec.plugin.name.to_string(),
            root_id: spec.plugin.root_id.to_string(),
            vm_id: spec.plugin.vm_id.to_string(),
            vm_config: spec.plugin.vm_config.to_vec(),
        }),
    }
}

fn limits(limits: &FilterLimits) -> node::FilterLimits {
    node::FilterLimits {
        deadline: limits.deadline.map(duration),
        start_deadline: limits.start_deadline.map(duration),
        memory: limits.memory,
        contexts: limits.contexts,
        held_body: limits.held_body,
        fetches_per_context: limits.fetches_per_context,
        fetch_timeout: limits.fetch_timeout.map(duration),
        fetch_body: limits.fetch_body,
    }
}

fn on_error(on_error: &OnError) -> node::FilterOnError {
    let policy = |policy| match policy {
        FailPolicy::Closed => node::FailPolicy::Closed.into(),
        FailPolicy::Open => node::FailPolicy::Open.into(),
    };
    node::FilterOnError {
        load: policy(on_error.load),
        config: policy(on_error.config),
        trap: policy(on_error.trap),
        timeout: policy(on_error.timeout),
    }
}

fn wire_chain(
    endpoint: u32,
    chain: &Chain,
    position: &BTreeMap<&FilterKey, u32>,
) -> node::FilterChain {
    let step = |step: &Step| {
        let phase = match step.phase {
            Phase::BeforePolicy => node::FilterPhase::BeforePolicy,
            Phase::AfterPolicy => node::FilterPhase::AfterPolicy,
            Phase::Upstream => node::FilterPhase::Upstream,
        };
        Some(node::FilterStep {
            phase: phase.into(),
            filter: *position.get(&step.filter.key)?,
        })
    };
    node::FilterChain {
        endpoint_id: endpoint,
        direction: wire_direction(chain.direction).into(),
        port_first: chain.first.into(),
        port_last: chain.last.into(),
        // All of them are in the list, which was made from these.
        steps: chain.steps.iter().filter_map(step).collect(),
    }
}

fn callout(callout: &Callout) -> node::Callout {
    let backends = callout.backends.iter().map(|one| node::CalloutBackend {
        address: one.address.to_string(),
        from: one.from.iter().map(|id| id.0).collect(),
    });
    node::Callout {
        service: callout.service.to_string(),
        backends: backends.collect(),
    }
}

#[cfg(test)]
mod tests;
