//! Namespaces that flows were seen in lately.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_api::hubble::flow::Flow;
use weft_api::hubble::observer::Namespace;

/// A namespace without flows for this long is forgotten.
const FORGET: Duration = Duration::from_secs(3_600);

/// Cluster and namespace, and when a flow named it last.
#[derive(Debug, Default)]
pub(super) struct Namespaces(Mutex<BTreeMap<(String, String), Instant>>);

impl Namespaces {
    pub(super) fn see(&self, flow: &Flow) {
        let now = Instant::now();
        for end in [&flow.source, &flow.destination].into_iter().flatten() {
            if end.namespace.is_empty() {
                continue;
            }
            let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (end.cluster_name.clone(), end.namespace.clone());
            seen.insert(key, now);
        }
    }

    pub(super) fn list(&self) -> Vec<Namespace> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, last| last.elapsed() < FORGET);
        let namespace = |(cluster, namespace): &(String, String)| Namespace {
            cluster: cluster.clone(),
            namespace: namespace.clone(),
        };
        seen.keys().map(namespace).collect()
    }
}
