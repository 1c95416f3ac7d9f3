//! `/log` and what exec, logs and port-forward have in common: which container is meant.

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::object;
use super::request::Query;
use super::runtime::{ContainerRef, LogOptions, PodRuntime, RuntimeError};
use super::status::ApiError;

/// The container that a request is about: the one it names, else the pod's default one.
pub(super) fn container(pod: &Value, asked: &str) -> Result<ContainerRef, ApiError> {
    let name = object::name(pod);
    let all = ["/spec/containers", "/spec/initContainers"];
    let mut names = all
        .iter()
        .flat_map(|list| object::list(pod, list))
        .map(|c| object::text(c, "/name"));
    let annotated = object::text(
        pod,
        "/metadata/annotations/kubectl.kubernetes.io~1default-container",
    );
    let wanted = if asked.is_empty() { annotated } else { asked };
    let container = if wanted.is_empty() {
        names.next()
    } else {
        names.find(|n| *n == wanted)
    };
    let container = container.ok_or_else(|| {
        ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"))
    })?;
    Ok(ContainerRef {
        namespace: object::namespace(pod).to_owned(),
        pod: name.to_owned(),
        uid: object::uid(pod).to_owned(),
        container: container.to_owned(),
    })
}

/// How the runtime's refusals look to a client.
pub(super) fn refusal(error: &RuntimeError) -> ApiError {
    match error {
        RuntimeError::NotFound(message) => ApiError::missing(message),
        RuntimeError::NotRunning(message) | RuntimeError::Command(message) => {
            ApiError::bad_request(message)
        }
        RuntimeError::Io(error) => ApiError::internal(error.to_string()),
    }
}

/// Answers `GET .../log`.
pub(super) async fn serve(
    runtime: &dyn PodRuntime,
    pod: &Value,
    query: &Query,
) -> Result<Response, ApiError> {
    let several = object::list(pod, "/spec/containers");
    let asked = query.get("container");
    if asked.is_empty() && several.len() > 1 {
        let names: Vec<&str> = several.iter().map(|c| object::text(c, "/name")).collect();
        return Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            object::name(pod),
            names.join(" ")
        )));
    }
    let target = container(pod, asked)?;
    if object::text(pod, "/spec/nodeName").is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            target.pod
        )));
    }
    let stream = runtime
        .logs(target, options(query))
        .await
        .map_err(|error| refusal(&error))?;
    let headers = [(header::CONTENT_TYPE, "text/plain")];
    Ok((headers, Body::from_stream(stream)).into_response())
}

fn options(query: &Query) -> LogOptions {
    let ago = query.number("sinceSeconds").map(|seconds| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let then = Timestamp::now().saturating_sub(SignedDuration::from_secs(seconds));
        then.unwrap_or(Timestamp::MIN)
    });
    LogOptions {
        follow: query.flag("follow"),
        tail: query.number("tailLines"),
        since: query.get("sinceTime").parse().ok().or(ago),
        timestamps: query.flag("timestamps"),
        previous: query.flag("previous"),
        limit_bytes: query.number("limitBytes"),
    }
}
