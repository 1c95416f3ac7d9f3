//! What is answered to the API server.

use std::sync::Arc;

use kube::core::admission::{AdmissionRequest, AdmissionResponse};
use kube::core::{DynamicObject, Status};
use serde_json::Value;
use tracing::{info, warn};
use weft_api::k8s::filter::{FilterKind, read};
use weft_filter_schema::Invalid;

use super::schemas::{Schemas, Unknown};

/// What users can do, and what becomes of their object.
const CHECKED_LATER: &str =
    "nodes check it before it comes into force: see the condition Configured";

/// What is said of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is wrong with it.
    Good,
    /// It is accepted, and its user is told something.
    Unchecked(String),
    /// It is refused: each field that is wrong, and why.
    Refused(String),
}

/// Answers a request.
pub(super) async fn answer(
    schemas: &Schemas,
    request: &AdmissionRequest<DynamicObject>,
) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(request);
    let (namespace, name) = (
        request.namespace.as_deref().unwrap_or_default(),
        &request.name,
    );
    match verdict(schemas, request).await {
        Verdict::Good => {}
        Verdict::Unchecked(why) => {
            info!(kind = %request.kind.kind, namespace, name, why, "accepted, and not checked");
            response.warnings = Some(vec![why]);
        }
        Verdict::Refused(why) => {
            info!(kind = %request.kind.kind, namespace, name, why, "refused");
            response.allowed = false;
            response.result = Status::failure(&why, "Invalid").with_code(422);
        }
    }
    response
}

async fn verdict(schemas: &Schemas, request: &AdmissionRequest<DynamicObject>) -> Verdict {
    let kind = FilterKind::from_name(&request.kind.kind);
    let (Some(kind), Some(object)) = (kind, &request.object) else {
        return Verdict::Good;
    };
    // An object that came to be wrong can still be annotated, and deleted.
    let before = request.old_object.as_ref().map(spec);
    if before.is_some_and(|before| before == spec(object)) {
        return Verdict::Good;
    }
    let mut object = object.clone();
    if object.metadata.namespace.is_none() {
        object.metadata.namespace.clone_from(&request.namespace);
    }
    match serde_json::to_value(&object) {
        Ok(object) => judge(schemas, kind, &object).await,
        Err(error) => Verdict::Refused(error.to_string()),
    }
}

fn spec(object: &DynamicObject) -> &Value {
    &object.data["spec"]
}

/// Judges an object as nodes will.
pub(super) async fn judge(schemas: &Schemas, kind: FilterKind, object: &Value) -> Verdict {
    let filter = match read(kind, object) {
        Ok(filter) => filter,
        Err(errors) => return Verdict::Refused(errors.to_string()),
    };
    let schema = match schemas.of(&filter.module).await {
        Ok(Some(schema)) => schema,
        Ok(None) => return Verdict::Good,
        Err(unknown) => {
            if let Unknown::Unread(error) = &unknown {
                warn!(filter = %filter.key, %error, "a module cannot be read");
            }
            return Verdict::Unchecked(format!(
                "spec.config is not checked yet, for {unknown}; {CHECKED_LATER}"
            ));
        }
    };
    // Checking takes time where schema and configuration are large.
    let checked = tokio::task::spawn_blocking(move || check(&schema, &filter.config)).await;
    match checked {
        Ok(Ok(())) => Verdict::Good,
        Ok(Err(why)) => Verdict::Refused(why),
        Err(_) => Verdict::Unchecked(format!("spec.config is not checked; {CHECKED_LATER}")),
    }
}

fn check(schema: &Arc<str>, config: &[u8]) -> Result<(), String> {
    let config: Value = serde_json::from_slice(config).map_err(|error| error.to_string())?;
    weft_filter_schema::validate(schema, &config).map_err(|invalid| match invalid {
        Invalid::Schema(_) => format!("spec.module: {invalid}"),
        Invalid::Config(problems) => {
            let problems: Vec<_> = problems
                .iter()
                .map(|one| one.below("spec.config"))
                .collect();
            problems.join("; ")
        }
    })
}
