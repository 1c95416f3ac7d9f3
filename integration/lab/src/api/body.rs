//! Bodies in, objects out.

use axum::http::{HeaderMap, header};
use serde_json::Value;

use super::resource::ResourceType;
use super::status::ApiError;
use super::{protobuf, yaml};

/// Reads an object in whichever of JSON, YAML and protobuf it came. An empty body is null.
pub(super) fn decode(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let kind = content_type(headers);
    match kind {
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body),
        "application/yaml" | "application/apply-patch+yaml" => decode_yaml(body),
        "" | "application/json" => json(body),
        other if other.ends_with("+json") => json(body),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf (not {other:?})"
        ))),
    }
}

/// The content type without parameters, "" when there is none.
pub(super) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

fn json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))
}

fn decode_yaml(body: &[u8]) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| ApiError::bad_request("the body is not UTF-8 text"))?;
    let mut documents = yaml::documents(text)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
    match documents.len() {
        1 => Ok(documents.remove(0)),
        n => Err(ApiError::bad_request(format!(
            "wanted one document, found {n}"
        ))),
    }
}

/// Refuses an object of another kind or version than the path's. Both may be left out.
pub(super) fn check_kind(
    info: &ResourceType,
    version: &str,
    object: &Value,
) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the body must be an object"));
    }
    let expected = info.api_version(version);
    match object["apiVersion"].as_str() {
        Some(found) if found != expected => {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({found}) does not match the expected API version ({expected})"
            )));
        }
        _ => {}
    }
    match object["kind"].as_str() {
        Some(found) if found != info.kind => Err(ApiError::bad_request(format!(
            "{found} in version \"{version}\" cannot be handled as a {}",
            info.kind
        ))),
        _ => Ok(()),
    }
}
