//! The one error type of the API, and how it looks on the wire: a `Status` object.

use std::borrow::Cow;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::resource::ResourceType;
use super::warning;

/// A refused request. kubectl prints `reason` and `message`, and for
/// [`ApiError::invalid`] one line per cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, as in Kubernetes' `metav1.StatusReason`.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// `Status.details`; null when there are none.
    pub details: Box<Value>,
    /// What is to be warned of beside it.
    pub warnings: Vec<String>,
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: Cow::Borrowed(reason),
            message: message.into(),
            details: Box::default(),
            warnings: Vec::new(),
        }
    }

    fn about(mut self, resource: &ResourceType, name: &str) -> Self {
        self.details =
            json!({ "name": name, "group": resource.group, "kind": resource.plural }).into();
        self
    }

    /// 404: no such object.
    pub fn not_found(resource: &ResourceType, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message).about(resource, name)
    }

    /// 404: no such path, group, version or resource.
    pub fn no_such_resource() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 404 with words of its own (a container, a log that is not there).
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(404, "NotFound", message)
    }

    /// 409: create of something that is there already.
    pub fn already_exists(resource: &ResourceType, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    /// 409: the writer had read an older version.
    pub fn conflict(resource: &ResourceType, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            resource.qualified()
        );
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// 409 of server-side apply: other managers own these fields.
    pub fn apply_conflict(causes: &[(String, String)]) -> Self {
        let lines: Vec<String> = causes
            .iter()
            .map(|(manager, field)| format!("conflict with \"{manager}\": {field}"))
            .collect();
        let noun = if causes.len() == 1 {
            "conflict"
        } else {
            "conflicts"
        };
        let message = format!(
            "Apply failed with {} {noun}: {}",
            causes.len(),
            lines.join("\n")
        );
        let mut error = Self::new(409, "Conflict", message);
        let causes: Vec<Value> = causes
            .iter()
            .map(|(manager, field)| {
                json!({ "reason": "FieldManagerConflict", "message": format!("conflict with \"{manager}\""), "field": field })
            })
            .collect();
        error.details = json!({ "causes": causes }).into();
        error
    }

    /// 422: the object breaks a rule of its kind; one (field, message) per cause.
    pub fn invalid(resource: &ResourceType, name: &str, causes: &[(String, String)]) -> Self {
        let lines: Vec<String> = causes.iter().map(|(f, m)| format!("{f}: {m}")).collect();
        let text = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!(
            "{} \"{name}\" is invalid: {text}",
            resource.kind_qualified()
        );
        let causes: Vec<Value> = causes
            .iter()
            .map(|(field, message)| {
                json!({ "reason": "FieldValueInvalid", "message": message, "field": field })
            })
            .collect();
        let mut error = Self::new(422, "Invalid", message);
        error.details = json!({ "name": name, "group": resource.group, "kind": resource.kind, "causes": causes }).into();
        error
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 422: a patch that does not fit the object.
    pub fn invalid_patch(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// 403: understood and refused.
    pub fn forbidden(resource: &ResourceType, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// 403: the request comes from a web page.
    pub fn not_for_browsers() -> Self {
        Self::new(
            403,
            "Forbidden",
            "this API is for clients on this machine, not for web pages",
        )
    }

    /// 405: the resource has no such verb.
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 410: the watch's revision has left the history.
    pub fn expired(revision: u64, oldest: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {revision} ({oldest})"),
        )
    }

    /// 415: a body in an encoding that is not spoken here.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 500: the lab itself failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// Refused by somebody else, in words of theirs; a reason of "" for none.
    pub fn denied(code: u16, reason: &str, message: String, details: Value) -> Self {
        let mut error = Self::new(code, "", message);
        error.reason = Cow::Owned(reason.to_owned());
        error.details = Box::new(details);
        error
    }

    /// True for [`ApiError::not_found`].
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// True when the object had another version than the writer thought.
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// True for [`ApiError::already_exists`].
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if !self.details.is_null() {
            status["details"] = Value::clone(&self.details);
        }
        status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (code, Json(self.to_status())).into_response();
        warning::warn(response.headers_mut(), &self.warnings);
        response
    }
}
