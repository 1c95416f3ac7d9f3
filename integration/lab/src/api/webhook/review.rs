//! `AdmissionReview`: the question, and reading the answer. Pure.

use serde_json::{Value, json};

use super::Subject;
use crate::api::object;
use crate::api::status::ApiError;

const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// The question about a subject.
pub(super) fn question(subject: &Subject<'_>, uid: &str) -> Value {
    let (info, version) = (subject.info, subject.version);
    let kind = json!({ "group": info.group, "version": version, "kind": info.kind });
    let resource = json!({ "group": info.group, "version": version, "resource": info.plural });
    let show = |side: &Option<Value>| {
        let mut object = side.clone().unwrap_or_default();
        if object.is_object() {
            object["apiVersion"] = json!(info.api_version(version));
        }
        object
    };
    let mut request = json!({
        "uid": uid,
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "name": subject.name,
        "operation": subject.operation.name(),
        // Nobody proves who he is here, and everybody may do everything: Kubernetes' word
        // for that.
        "userInfo": {
            "username": "system:unsecured",
            "groups": ["system:masters", "system:authenticated"],
        },
        "object": show(&subject.object),
        "oldObject": show(&subject.old),
        "dryRun": subject.dry_run,
        "options": subject.options,
    });
    if !subject.subresource.is_empty() {
        request["subResource"] = json!(subject.subresource);
        request["requestSubResource"] = json!(subject.subresource);
    }
    if !subject.namespace.is_empty() {
        request["namespace"] = json!(subject.namespace);
    }
    json!({ "kind": KIND, "apiVersion": VERSION, "request": request })
}

/// What a webhook answered.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Answer {
    uid: String,
    /// Whether the request may go on.
    pub allowed: bool,
    /// Why not.
    #[serde(default)]
    pub status: Value,
    /// What is to be warned of.
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    response: Option<Answer>,
}

/// Reads an answer to the question with that uid.
///
/// # Errors
/// When it is something else.
pub(super) fn read(body: &[u8], uid: &str) -> Result<Answer, String> {
    let review: Review = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if (review.api_version.as_str(), review.kind.as_str()) != (VERSION, KIND) {
        return Err(format!(
            "expected webhook response of {VERSION}, Kind={KIND}, got {}, Kind={}",
            review.api_version, review.kind
        ));
    }
    let answer = review.response.ok_or("webhook response was absent")?;
    if answer.uid != uid {
        return Err(format!(
            "expected response.uid={uid:?}, got {:?}",
            answer.uid
        ));
    }
    Ok(answer)
}

/// The refusal of a webhook, in Kubernetes' words.
pub(super) fn refusal(webhook: &str, status: &Value) -> ApiError {
    let code = status["code"].as_u64().and_then(|c| u16::try_from(c).ok());
    let code = code.filter(|c| (400..=599).contains(c)).unwrap_or(400);
    let reason = object::text(status, "/reason");
    let why = match (object::text(status, "/message"), reason) {
        ("", "") => " without explanation".to_owned(),
        ("", reason) => format!(": {reason}"),
        (message, _) => format!(": {message}"),
    };
    let message = format!("admission webhook {webhook:?} denied the request{why}");
    ApiError::denied(code, reason, message, status["details"].clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_the_words_of_kubernetes() {
        let told = |status: Value| {
            let error = refusal("a.b.c", &status);
            (error.code, error.reason.into_owned(), error.message)
        };
        let words = |rest: &str| format!("admission webhook \"a.b.c\" denied the request{rest}");
        let none = String::new();
        assert_eq!(
            told(Value::Null),
            (400, none.clone(), words(" without explanation"))
        );
        assert_eq!(
            told(json!({"code": 403, "reason": "Forbidden"})),
            (403, "Forbidden".to_owned(), words(": Forbidden"))
        );
        assert_eq!(
            told(json!({"code": 200, "message": "no"})),
            (400, none.clone(), words(": no"))
        );
        assert_eq!(told(json!({"code": 999, "message": "no"})).0, 400);
        assert_eq!(told(json!({"code": 422, "message": "no"})).0, 422);
        let details = json!({"causes": [{"field": "spec.x"}]});
        let error = refusal("a.b.c", &json!({ "details": details }));
        assert_eq!(error.to_status()["details"], details);
    }

    #[test]
    fn answers_to_something_else() {
        let right = json!({
            "apiVersion": VERSION, "kind": KIND,
            "response": {"uid": "u", "allowed": true, "warnings": ["w"]},
        });
        let answer = read(right.to_string().as_bytes(), "u").expect("an answer");
        assert!(answer.allowed && answer.warnings == ["w"]);
        for (pointer, value, part) in [
            (
                "/response/uid",
                json!("v"),
                "expected response.uid=\"u\", got \"v\"",
            ),
            ("/response", Value::Null, "webhook response was absent"),
            (
                "/kind",
                json!("Status"),
                "got admission.k8s.io/v1, Kind=Status",
            ),
            (
                "/apiVersion",
                json!("admission.k8s.io/v1beta1"),
                "got admission.k8s.io/v1beta1",
            ),
            ("/response/allowed", json!("yes"), "invalid type"),
        ] {
            let mut wrong = right.clone();
            *wrong.pointer_mut(pointer).expect("a field") = value;
            let error = read(wrong.to_string().as_bytes(), "u").expect_err(pointer);
            assert!(error.contains(part), "{error}");
        }
        assert!(read(b"<html>", "u").is_err());
    }
}
