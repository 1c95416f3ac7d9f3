//! The status of policies: valid, or which field is wrong, which an event says
//! as well; and of objects that have no effect, which say so.
//!
//! Only the operator writes it: thousands of agents doing so would bring an
//! API server down.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use weft_api::k8s::{Condition, FieldError, FieldErrors, PolicyStatus};
use weft_core::policy::PolicyKind;

use crate::kube::event::{self, Teller};
use crate::kube::{ccec_resource, ccnp_resource, cec_resource, cnp_resource, convert};
use crate::policy::parse;

/// Why, as events name it.
const REASON: &str = "PolicyRefused";
/// Longest message of an event, less what says that it was cut.
const LONGEST: usize = 1000;
/// Wait before a status that could not be written is written again.
const RETRY: Duration = Duration::from_secs(1);

/// What objects of a kind are judged by.
#[derive(Clone, Copy)]
enum Judge {
    /// They are policies.
    Policy(PolicyKind),
    /// They are kept, and nothing acts on them.
    NoEffect,
}

impl Judge {
    /// None for an object without a name.
    fn verdict(self, object: &DynamicObject) -> Option<Result<(), FieldErrors>> {
        Some(match self {
            Self::Policy(kind) => {
                let policy = convert::policy(object.clone())?;
                parse(kind, &policy.raw).map(drop)
            }
            Self::NoEffect => Err(FieldErrors(vec![FieldError {
                path: "spec".into(),
                message: "without effect: Envoy configuration is kept, and not acted on".into(),
            }])),
        })
    }

    /// What users are told of a policy that is refused.
    fn event(
        self,
        object: &DynamicObject,
        resource: &ApiResource,
        verdict: &Condition,
        now: Timestamp,
    ) -> Option<Event> {
        if !matches!(self, Self::Policy(_)) || verdict.status != "False" {
            return None;
        }
        Some(refusal(object, resource, (REASON, &verdict.message), now))
    }
}

/// What users are told of an object that is refused: once for each of its versions.
pub(super) fn refusal(
    object: &DynamicObject,
    resource: &ApiResource,
    (reason, message): (&str, &str),
    now: Timestamp,
) -> Event {
    let about = ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        namespace: object.namespace(),
        name: object.metadata.name.clone(),
        uid: object.uid(),
        resource_version: object.resource_version(),
        ..ObjectReference::default()
    };
    let teller = Teller {
        component: "weft-operator",
        host: None,
    };
    let uid = object.uid().unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or_default().to_string();
    // Events hold 1,024 bytes.
    let mut message = message.to_owned();
    if message.len() > LONGEST {
        message.truncate(message.floor_char_boundary(LONGEST));
        message.push_str("...");
    }
    let told = [uid.as_str(), &generation, &message];
    event::warning(about, &told, (reason, &message), teller, now)
}

/// Starts a controller for each kind that has a status.
pub(super) fn spawn(client: &Client, stop: &CancellationToken, tasks: &mut JoinSet<()>) {
    use PolicyKind::{CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy};
    for (judge, resource) in [
        (Judge::Policy(CiliumNetworkPolicy), cnp_resource()),
        (
            Judge::Policy(CiliumClusterwideNetworkPolicy),
            ccnp_resource(),
        ),
        (Judge::NoEffect, cec_resource()),
        (Judge::NoEffect, ccec_resource()),
    ] {
        let context = Arc::new(Context {
            client: client.clone(),
            judge,
            resource: resource.clone(),
        });
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let stop = stop.clone();
        tasks.spawn(
            Controller::new_with(api, watcher::Config::default(), resource)
                .graceful_shutdown_on(stop.cancelled_owned())
                .run(reconcile, |_, _, _| Action::requeue(RETRY), context)
                .for_each(|result| async {
                    if let Err(error) = result {
                        debug!(%error, "status not written, trying again");
                    }
                }),
        );
    }
}

struct Context {
    client: Client,
    judge: Judge,
    resource: ApiResource,
}

async fn reconcile(
    object: Arc<DynamicObject>,
    context: Arc<Context>,
) -> Result<Action, kube::Error> {
    let name = object.name_any();
    let api = api_of(&context.client, &object, &context.resource);
    let before = condition_of(&object);
    let generation = object.metadata.generation;
    let Some(verdict) = context.judge.verdict(&object) else {
        return Ok(Action::await_change());
    };
    let Some(condition) = changed(before.as_ref(), generation, &verdict, Timestamp::now()) else {
        return Ok(Action::await_change());
    };
    info!(kind = %context.resource.kind, namespace = object.namespace(), name,
        valid = %condition.status, because = %condition.message, "status changed");
    // First: it is told once, and a status that says it already is not looked at
    // again.
    let (judge, resource) = (context.judge, &context.resource);
    if let Some(event) = judge.event(&object, resource, &condition, Timestamp::now()) {
        match event::tell(&context.client, &event).await {
            Err(kube::Error::Api(error)) => debug!(%error, "an event was refused"),
            told => drop(told?),
        }
    }
    let status = PolicyStatus {
        conditions: vec![condition],
    };
    let status = json!({"status": status});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(Action::await_change())
}

/// Where an object is.
pub(super) fn api_of(
    client: &Client,
    object: &DynamicObject,
    resource: &ApiResource,
) -> Api<DynamicObject> {
    match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

/// The condition in the object's status.
fn condition_of(object: &DynamicObject) -> Option<Condition> {
    let status = object.data.get("status")?.clone();
    let status: PolicyStatus = serde_json::from_value(status).ok()?;
    let valid = |condition: &Condition| condition.kind == Condition::VALID;
    status.conditions.into_iter().find(valid)
}

/// The condition to write; none when the status says it already.
fn changed(
    before: Option<&Condition>,
    generation: Option<i64>,
    verdict: &Result<(), FieldErrors>,
    now: Timestamp,
) -> Option<Condition> {
    let mut condition = Condition::valid(verdict, generation);
    if before.is_some_and(|before| before.same_as(&condition)) {
        return None;
    }
    // The time at which the status turned, not at which it was looked at.
    let same_status = before.filter(|before| before.status == condition.status);
    let since = same_status.and_then(|before| before.last_transition_time.clone());
    condition.last_transition_time = Some(since.unwrap_or(Time(now)));
    Some(condition)
}

#[cfg(test)]
mod tests {
    use weft_api::k8s::FieldError;

    use super::*;

    #[test]
    fn what_has_no_effect_says_so() {
        let object = DynamicObject::new("lb", &cec_resource());
        let verdict = Judge::NoEffect.verdict(&object).expect("judged");
        let condition = changed(None, Some(1), &verdict, at(1)).expect("a status");
        assert_eq!(condition.status, "False");
        assert!(condition.message.starts_with("spec: without effect"));
    }

    #[test]
    fn a_refused_policy_has_one_event_for_each_version() {
        let judge = Judge::Policy(PolicyKind::CiliumNetworkPolicy);
        let event = |generation, message: &str| {
            let mut object = DynamicObject::new("rule1", &cnp_resource()).within("default");
            object.metadata.uid = Some("u".into());
            object.metadata.generation = Some(generation);
            let error = FieldError {
                path: "spec".into(),
                message: message.into(),
            };
            let verdict: Result<(), _> = Err(FieldErrors(vec![error]));
            let condition = Condition::valid(&verdict, Some(generation));
            judge
                .event(&object, &cnp_resource(), &condition, at(1))
                .expect("an event")
        };
        let one = event(1, "wrong");
        assert_eq!(one.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(one.message.as_deref(), Some("spec: wrong"));
        let about = &one.involved_object;
        assert_eq!(about.kind.as_deref(), Some("CiliumNetworkPolicy"));
        assert_eq!(about.uid.as_deref(), Some("u"));
        assert_eq!(event(1, "wrong").metadata.name, one.metadata.name);
        assert_ne!(event(2, "wrong").metadata.name, one.metadata.name);
        let long = event(1, &"x".repeat(5000)).message.expect("a message");
        assert!(long.len() < 1024 && long.ends_with("..."));
    }

    #[test]
    fn a_valid_policy_has_no_event_and_one_of_the_whole_cluster_has_its_own() {
        let mut object = DynamicObject::new("rule1", &ccnp_resource());
        object.metadata.uid = Some("u".into());
        let judge = Judge::Policy(PolicyKind::CiliumClusterwideNetworkPolicy);
        let event = |verdict| {
            let condition = Condition::valid(&verdict, None);
            judge.event(&object, &ccnp_resource(), &condition, at(1))
        };
        assert!(event(Ok(())).is_none());
        let refused = event(Err(FieldErrors(Vec::new()))).expect("an event");
        assert_eq!(refused.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(refused.involved_object.namespace, None);
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn the_status_is_written_once_and_turns_both_ways() {
        let good = Ok(());
        let errors = |list: &[(&str, &str)]| {
            let error = |(path, message): &(&str, &str)| FieldError {
                path: (*path).into(),
                message: (*message).into(),
            };
            Err(FieldErrors(list.iter().map(error).collect()))
        };
        let bad = errors(&[
            ("spec.ingress[0].HTTP", "unknown field"),
            ("spec.egress", "second"),
        ]);
        let first = changed(None, Some(1), &good, at(1)).expect("a status");
        assert_eq!(first.status, "True");
        assert!(changed(Some(&first), Some(1), &good, at(2)).is_none());

        let broken = changed(Some(&first), Some(2), &bad, at(3)).expect("a status");
        assert_eq!(broken.status, "False");
        assert_eq!(
            broken.message,
            "spec.ingress[0].HTTP: unknown field; spec.egress: second"
        );
        assert_eq!(broken.last_transition_time, Some(Time(at(3))));

        // Another mistake: still False since then.
        let other = errors(&[("spec", "empty")]);
        let still = changed(Some(&broken), Some(3), &other, at(4)).expect("a status");
        assert_eq!(still.last_transition_time, Some(Time(at(3))));
        let mended = changed(Some(&still), Some(4), &good, at(5)).expect("a status");
        assert_eq!(
            (mended.status.as_str(), mended.last_transition_time),
            ("True", Some(Time(at(5))))
        );
    }
}
