//! Policies that name a port which no pod has: most likely a slip, and without a
//! word it looks like a rule that is in force.

use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::jiff::Timestamp;
use tracing::warn;
use weft_core::model::Direction;
use weft_core::policy::PolicyKind;

use super::pass::Engine;
use super::work::Work;
use crate::kube::event::{self, Teller};
use crate::kube::{ccnp_resource, cnp_resource};
use crate::plan::{self, Compiled, UnknownName};
use crate::program::Kernel;

/// Why, as events name it.
const REASON: &str = "UnknownPortName";

impl<K: Kernel> Engine<K> {
    /// Tells of each such name once, in the log and by an event on its policy;
    /// looks when something was compiled, which a policy or a pod with other ports
    /// makes happen.
    pub(super) fn tell_names(&mut self, compiled: &Compiled, work: &mut Work) {
        if compiled.compiled == 0 {
            return;
        }
        let local = self.table.endpoints().values().map(|one| &one.labels);
        let cluster = &self.settings.cluster;
        let unknown = plan::unknown_names(&self.rules.list, local, &self.state, cluster);
        for name in unknown.difference(&self.unknown_names) {
            let text = text(name);
            warn!(policy = %name.key, "{text}");
            let object = self.state.policies.get(&(name.kind, name.key.clone()));
            let uid = object.map_or("", |object| object.uid.as_str());
            work.tell(event(name, uid, &text, &self.settings.node));
        }
        self.unknown_names = unknown;
    }
}

fn text(unknown: &UnknownName) -> String {
    let UnknownName { place, name, .. } = unknown;
    let whose = match unknown.direction {
        Direction::Ingress => "pod that the policy selects",
        Direction::Egress => "pod",
    };
    format!(
        "{place}: no {whose} has a port named \"{name}\", so nothing matches there; name a port of \
         a container, or give its number"
    )
}

fn event(unknown: &UnknownName, uid: &str, text: &str, node: &str) -> Event {
    let resource = match unknown.kind {
        PolicyKind::CiliumNetworkPolicy => cnp_resource(),
        PolicyKind::CiliumClusterwideNetworkPolicy => ccnp_resource(),
    };
    let key = &unknown.key;
    let policy = ObjectReference {
        api_version: Some(resource.api_version),
        kind: Some(resource.kind),
        namespace: (!key.namespace.is_empty()).then(|| key.namespace.clone()),
        name: Some(key.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    };
    let teller = Teller {
        component: "weft-agent",
        host: Some(node),
    };
    // The same on every node: one of them is heard.
    let about = [uid, text];
    event::warning(policy, &about, (REASON, text), teller, Timestamp::now())
}
