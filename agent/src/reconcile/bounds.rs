//! Endpoints whose policies say more than an endpoint may have: who they are,
//! and telling it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use tracing::{info, warn};
use weft_core::policy::{Bounded, EndpointPolicy};

use super::pass::Engine;
use super::work::Work;
use crate::endpoint::LocalEndpoint;
use crate::kube::event::{self, Teller};
use crate::metrics::Metrics;
use crate::plan::Compiled;
use crate::program::Kernel;

/// Why, as events name it.
const REASON: &str = "PolicyOverBounds";
/// The bound of all endpoints together: the snapshot.
const SNAPSHOT: &str = "snapshot";

/// A bound that keeps something from an endpoint.
struct Shortfall {
    bound: &'static str,
    /// The object that has most of what there is too much of, if one has.
    object: Option<String>,
    /// What is kept from the endpoint, and why.
    text: String,
}

/// The bounds that each endpoint exceeds, with the objects that have most of it,
/// as they were reported.
pub(super) type Reported = BTreeMap<u32, BTreeMap<&'static str, Option<String>>>;

/// What an endpoint has less than its policies say.
fn shortfalls(policy: &EndpointPolicy, no_room: bool) -> Vec<Shortfall> {
    const HTTP: &str = "its ports with HTTP rules or filters are closed";
    let denied = policy.entries.is_empty();
    let mut found: Vec<Shortfall> = policy
        .excess
        .iter()
        .map(|excess| {
            let outcome = match excess.of {
                Bounded::HttpBytes
                | Bounded::HttpTables
                | Bounded::HttpSteps
                | Bounded::Filters => HTTP,
                _ if denied => "everything is denied",
                Bounded::OthersRanges => {
                    "it is not allowed these ranges, and everything else as they say"
                }
                _ => "it keeps what it was allowed before and still is, and gets nothing new",
            };
            Shortfall {
                bound: excess.of.as_str(),
                object: excess.most.as_ref().map(|(object, _)| object.clone()),
                text: format!("{excess}: {outcome}"),
            }
        })
        .collect();
    if no_room {
        found.push(Shortfall {
            bound: SNAPSHOT,
            object: None,
            text: format!("its HTTP rules find no room in the snapshot for the proxy: {HTTP}"),
        });
    }
    found
}

/// The same as a sentence; empty when nothing is missing.
pub(super) fn shortfall(policy: &EndpointPolicy, no_room: bool) -> String {
    let found = shortfalls(policy, no_room);
    let texts: Vec<_> = found.into_iter().map(|one| one.text).collect();
    texts.join("; ")
}

impl<K: Kernel> Engine<K> {
    /// Counts the endpoints that exceed bounds, and tells of each in the log and
    /// by an event on its pod: once, and again when another policy is to blame.
    pub(super) fn tell_bounds(&mut self, compiled: &Compiled, work: &mut Work) {
        let mut now = Reported::new();
        for endpoint in self.table.endpoints().values() {
            let Some(policy) = compiled.policies.get(&endpoint.id) else {
                continue;
            };
            let found = shortfalls(policy, compiled.no_room.contains(&endpoint.id));
            let before = self.reported.get(&endpoint.id);
            for Shortfall {
                bound,
                object,
                text,
            } in &found
            {
                if before.and_then(|before| before.get(bound)) != Some(object) {
                    warn!(endpoint = %endpoint.key, %bound, "over its bounds: {text}");
                    work.tell(event(endpoint, bound, text, &self.settings.node));
                }
            }
            if found.is_empty() && before.is_some() {
                info!(endpoint = %endpoint.key, "within its bounds again");
            }
            if !found.is_empty() {
                let bounds = found.into_iter().map(|one| (one.bound, one.object));
                now.insert(endpoint.id, bounds.collect());
            }
        }
        count(&self.metrics, &now);
        self.reported = now;
    }
}

fn count(metrics: &Metrics, reported: &Reported) {
    let all = Bounded::ALL.iter().map(|bound| bound.as_str());
    for bound in all.chain([SNAPSHOT]) {
        let over = reported.values();
        let over = over.filter(|bounds| bounds.contains_key(bound));
        metrics.over_bounds(bound, over.count());
    }
}

fn event(
    endpoint: &LocalEndpoint,
    bound: &str,
    text: &str,
    node: &str,
) -> k8s_openapi::api::core::v1::Event {
    let pod = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(endpoint.key.namespace.clone()),
        name: Some(endpoint.key.name.clone()),
        uid: Some(endpoint.uid.clone()),
        ..ObjectReference::default()
    };
    let teller = Teller {
        component: "weft-agent",
        host: Some(node),
    };
    let about = [endpoint.uid.as_str(), bound, text];
    event::warning(pod, &about, (REASON, text), teller, Timestamp::now())
}
