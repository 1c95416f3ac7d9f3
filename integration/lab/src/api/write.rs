//! Writes over HTTP: drafted, judged by webhooks, stored.
//!
//! Webhooks are asked without the store's lock, and what is stored is what they saw: when
//! its object changed meanwhile, the write is drafted and judged anew.

use std::sync::Arc;

use serde_json::{Value, json};

use super::object;
use super::server::Call;
use super::status::ApiError;
use super::store::{DeleteOptions, Deleted, Draft};
use super::webhook::{self, Operation, Subject};

/// How often a write is drafted before its writer has to try again.
const ATTEMPTS: usize = 10;

/// What became of a write.
pub(super) struct Written {
    /// The object as it is stored, or would be without `dryRun`.
    pub object: Arc<Value>,
    /// It was not there before.
    pub new: bool,
    /// What is to be warned of.
    pub warnings: Vec<String>,
}

/// Only checked and answered, as the query says.
pub(super) fn dry_run(call: &Call<'_>) -> bool {
    call.query.get("dryRun") == "All"
}

/// Stores what `draft` comes to. It is called anew for each attempt, and also says what is
/// to be warned of.
pub(super) async fn put(
    call: &Call<'_>,
    mut draft: impl FnMut() -> Result<(Draft, Vec<String>), ApiError>,
) -> Result<Written, ApiError> {
    let dry_run = dry_run(call);
    for _ in 0..ATTEMPTS {
        let (draft, mut warnings) = draft()?;
        let current = draft.current.as_deref();
        let operation = match current {
            None => Operation::Create,
            Some(_) => Operation::Update,
        };
        let judged = judge(call, operation, Some(&draft.object), current, dry_run).await;
        match judged {
            Ok(more) => warnings.extend(more),
            Err(mut error) => {
                warnings.append(&mut error.warnings);
                error.warnings = warnings;
                return Err(error);
            }
        }
        let new = draft.current.is_none();
        let stored = match dry_run {
            true => Some(draft.object),
            false => call.store.commit(&draft)?,
        };
        if let Some(object) = stored {
            return Ok(Written {
                object,
                new,
                warnings,
            });
        }
    }
    let name = call.target.name.as_deref().unwrap_or_default();
    Err(too_often(call, name))
}

/// Deletes the object that webhooks saw, and says what is to be warned of.
pub(super) async fn delete(
    call: &Call<'_>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<(Deleted, Vec<String>), ApiError> {
    let id = &call.target.id;
    let delete = |options: &DeleteOptions| call.store.delete_object(id, namespace, name, options);
    for _ in 0..ATTEMPTS {
        let current = call.store.get_object(id, namespace, name)?;
        // Preconditions come first.
        let outcome = delete(&DeleteOptions {
            dry_run: true,
            ..options.clone()
        })?;
        let operation = Operation::Delete;
        let warnings = judge(call, operation, None, Some(&current), options.dry_run).await?;
        if options.dry_run {
            return Ok((outcome, warnings));
        }
        let judged = DeleteOptions {
            uid: Some(object::uid(&current).to_owned()),
            resource_version: Some(object::meta(&current, "resourceVersion").to_owned()),
            ..options.clone()
        };
        match delete(&judged) {
            Err(error) if error.is_conflict() => {}
            outcome => return Ok((outcome?, warnings)),
        }
    }
    Err(too_often(call, name))
}

fn too_often(call: &Call<'_>, name: &str) -> ApiError {
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    ApiError::conflict(&call.info, name, why)
}

async fn judge(
    call: &Call<'_>,
    operation: Operation,
    object: Option<&Value>,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<Vec<String>, ApiError> {
    let hooks = webhook::Hooks::of(call.store);
    // They would have to be shown a Scale, and no rule may name one.
    if hooks.is_empty() || call.target.subresource == "scale" {
        return Ok(Vec::new());
    }
    let either = object.or(old).unwrap_or(&Value::Null);
    let subject = Subject {
        info: &call.info,
        version: &call.target.version,
        subresource: &call.target.subresource,
        operation,
        namespace: object::namespace(either),
        name: object::name(either),
        object: object.cloned(),
        old: old.cloned(),
        dry_run,
        options: options(call, operation, dry_run),
    };
    hooks.admit(call.store, call.runtime, &subject).await
}

/// The request's options as the API's own types show them.
fn options(call: &Call<'_>, operation: Operation, dry_run: bool) -> Value {
    let kind = match operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
    };
    let mut options = json!({ "kind": kind, "apiVersion": "meta.k8s.io/v1" });
    if dry_run {
        options["dryRun"] = json!(["All"]);
    }
    for field in ["fieldManager", "fieldValidation"] {
        let value = call.query.get(field);
        if operation != Operation::Delete && !value.is_empty() {
            options[field] = json!(value);
        }
    }
    options
}
