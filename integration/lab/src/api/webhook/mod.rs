//! Validating admission webhooks: whoever else has a say before the store changes.
//!
//! ```text
//! Subject ── rules (which webhooks) ── review (the question) ── call ── review (the answer)
//!                                                                │
//!                                                  place, peers (Services), TLS
//! ```
//!
//! What may be in the objects that configure them is in `admission/webhook_configuration.rs`, from
//! where in a write they are called in `write.rs`.

mod call;
mod peers;
mod place;
mod review;
mod rules;

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::Value;

use super::object;
use super::resource::{NAMESPACES, ResourceType, WEBHOOK_CONFIGURATIONS};
use super::runtime::PodRuntime;
use super::status::ApiError;
use super::store::Store;

pub(super) use place::{Place, authorities};

/// What a request does to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// It is new.
    Create,
    /// It has new content.
    Update,
    /// It goes.
    Delete,
}

impl Operation {
    /// As rules and reviews name it.
    fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// What is to be judged.
pub(super) struct Subject<'a> {
    /// The resource.
    pub info: &'a ResourceType,
    /// The version in the request's path.
    pub version: &'a str,
    /// "" for the object itself.
    pub subresource: &'a str,
    /// What happens to it.
    pub operation: Operation,
    /// "" for cluster-scoped objects.
    pub namespace: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// The object as it is to be; none when it goes.
    pub object: Option<Value>,
    /// The object as it is; none when it is new.
    pub old: Option<Value>,
    /// Nothing will change.
    pub dry_run: bool,
    /// The request's options.
    pub options: Value,
}

/// The webhooks that there are, in the order of their configurations' names.
pub(super) struct Hooks(Vec<Arc<Value>>);

impl Hooks {
    /// Those of the store.
    pub fn of(store: &Store) -> Self {
        Self(store.list_objects(&WEBHOOK_CONFIGURATIONS, None).0)
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks all webhooks that the subject concerns, at once. What they warn of is returned,
    /// also with an error.
    ///
    /// # Errors
    /// The first refusal, or what kept a webhook from being asked that must be.
    pub async fn admit(
        &self,
        store: &Store,
        runtime: &dyn PodRuntime,
        subject: &Subject<'_>,
    ) -> Result<Vec<String>, ApiError> {
        // A webhook that refuses everything could not be taken away any more.
        if subject.info.group == WEBHOOK_CONFIGURATIONS.group {
            return Ok(Vec::new());
        }
        let namespace = store.get_object(&NAMESPACES, "", subject.namespace).ok();
        let concerned = self
            .0
            .iter()
            .flat_map(|configuration| object::list(configuration, "/webhooks"))
            .filter(|hook| rules::concern(hook, subject, namespace.as_deref()));
        let asked = concerned.map(|hook| ask(hook, store, runtime, subject));
        let (mut warnings, mut refusal) = (Vec::new(), None);
        for outcome in join_all(asked).await {
            warnings.extend(outcome.warnings);
            refusal = refusal.or(outcome.refusal);
        }
        match refusal {
            None => Ok(warnings),
            Some(mut error) => {
                error.warnings = warnings;
                Err(error)
            }
        }
    }
}

/// What one webhook says.
#[derive(Debug, Default)]
struct Outcome {
    warnings: Vec<String>,
    refusal: Option<ApiError>,
}

async fn ask(
    hook: &Value,
    store: &Store,
    runtime: &dyn PodRuntime,
    subject: &Subject<'_>,
) -> Outcome {
    let name = object::text(hook, "/name");
    let uid = uuid::Uuid::new_v4().to_string();
    let question = review::question(subject, &uid).to_string();
    let called = call::post(hook, store, runtime, question.into_bytes().into()).await;
    let read = called.and_then(|answer| {
        review::read(&answer, &uid)
            .map_err(|error| format!("received invalid webhook response: {error}"))
    });
    match read {
        Ok(answer) => Outcome {
            refusal: (!answer.allowed).then(|| review::refusal(name, &answer.status)),
            warnings: answer.warnings,
        },
        Err(error) if hook["failurePolicy"] == "Ignore" => {
            tracing::warn!(webhook = name, %error, "failed calling webhook, its policy is to ignore that");
            Outcome::default()
        }
        Err(error) => {
            let message =
                format!("Internal error occurred: failed calling webhook {name:?}: {error}");
            Outcome {
                refusal: Some(ApiError::internal(message)),
                ..Outcome::default()
            }
        }
    }
}
