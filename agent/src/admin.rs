//! The admin socket: health, status, metrics, and waiting for an endpoint.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::extract::{FromRef, Path as Segments, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::status::{EndpointPhase, StatusReceiver};

/// Longest wait that a client may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Serves until `stop` is cancelled.
///
/// # Errors
/// When the socket cannot be bound or serving fails.
pub async fn serve(
    socket: &Path,
    status: StatusReceiver,
    metrics: Metrics,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = crate::socket::listen(socket)?;
    let serving = axum::serve(listener, router(status, metrics));
    // Requests that wait for an endpoint are dropped: the agent is going away.
    match stop.run_until_cancelled(serving.into_future()).await {
        Some(result) => result,
        None => Ok(()),
    }
}

/// What the answers are made of.
#[derive(Clone, FromRef)]
struct Sources {
    status: StatusReceiver,
    metrics: Metrics,
}

fn router(status: StatusReceiver, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/v1/status", get(whole))
        .route("/v1/endpoints/{namespace}/{pod}", get(endpoint))
        .route("/metrics", get(counted))
        .with_state(Sources { status, metrics })
}

async fn health(State(status): State<StatusReceiver>) -> Response {
    match status.borrow().not_ready() {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn whole(State(status): State<StatusReceiver>) -> Response {
    let status = status.borrow().clone();
    Json(status.as_ref()).into_response()
}

async fn counted(State(metrics): State<Metrics>) -> Response {
    match metrics.render() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
struct Wait {
    wait: Option<String>,
}

/// 200 once the pod's programs are attached and its policy is in the maps.
async fn endpoint(
    State(mut status): State<StatusReceiver>,
    Segments((namespace, pod)): Segments<(String, String)>,
    Query(query): Query<Wait>,
) -> Response {
    let wait = match query.wait.as_deref().map(parse_wait) {
        None => Duration::ZERO,
        Some(Some(wait)) => wait.min(MAX_WAIT),
        Some(None) => {
            return (StatusCode::BAD_REQUEST, "wait: like 10s or 500ms\n").into_response();
        }
    };
    let name = format!("{namespace}/{pod}");
    let ready = status.wait_for(|status| {
        status
            .endpoints
            .get(&name)
            .is_some_and(|endpoint| endpoint.state == EndpointPhase::Ready)
    });
    let in_time = matches!(tokio::time::timeout(wait, ready).await, Ok(Ok(_)));
    let seen = status.borrow().endpoints.get(&name).cloned();
    match (seen, in_time) {
        (Some(endpoint), true) => Json(endpoint).into_response(),
        (Some(endpoint), false) => (StatusCode::GATEWAY_TIMEOUT, Json(endpoint)).into_response(),
        (None, _) => (
            StatusCode::NOT_FOUND,
            format!("{name} is no endpoint of this node\n"),
        )
            .into_response(),
    }
}

/// `10s`, `500ms`, or plain seconds.
fn parse_wait(text: &str) -> Option<Duration> {
    if let Some(millis) = text.strip_suffix("ms") {
        return millis.parse().ok().map(Duration::from_millis);
    }
    let seconds = text.strip_suffix('s').unwrap_or(text);
    seconds.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::http::Request;
    use tokio::sync::watch;
    use tower::ServiceExt as _;

    use super::*;
    use crate::status::{AgentStatus, EndpointStatus};

    fn with_endpoint(state: EndpointPhase) -> Arc<AgentStatus> {
        let mut status = AgentStatus {
            policy_revision: 1,
            ..AgentStatus::default()
        };
        status.endpoints.insert(
            "default/xwing".into(),
            EndpointStatus {
                id: 7,
                identity: 4711,
                ip: [10, 244, 1, 10].into(),
                state,
                policy_revision: 1,
                ingress_enforced: false,
                egress_enforced: false,
                reason: String::new(),
            },
        );
        Arc::new(status)
    }

    fn routed(status: StatusReceiver) -> Router {
        router(status, Metrics::new())
    }

    async fn ask(router: Router, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        router.oneshot(request).await.expect("an answer").status()
    }

    #[tokio::test]
    async fn health_turns_good_with_the_first_programming() {
        let (sender, receiver) = watch::channel(Arc::new(AgentStatus::default()));
        assert_eq!(
            ask(routed(receiver.clone()), "/healthz").await,
            StatusCode::SERVICE_UNAVAILABLE
        );
        sender.send_replace(with_endpoint(EndpointPhase::Ready));
        assert_eq!(
            ask(routed(receiver.clone()), "/healthz").await,
            StatusCode::OK
        );
        assert_eq!(ask(routed(receiver), "/metrics").await, StatusCode::OK);
    }

    #[tokio::test]
    async fn an_endpoint_can_be_waited_for() {
        let (sender, receiver) = watch::channel(with_endpoint(EndpointPhase::WaitingForInterface));
        let path = "/v1/endpoints/default/xwing";
        assert_eq!(
            ask(routed(receiver.clone()), path).await,
            StatusCode::GATEWAY_TIMEOUT
        );
        let waiting = tokio::spawn(ask(
            routed(receiver.clone()),
            "/v1/endpoints/default/xwing?wait=10s",
        ));
        sender.send_replace(with_endpoint(EndpointPhase::Ready));
        assert_eq!(waiting.await.expect("no panic"), StatusCode::OK);
        assert_eq!(
            ask(routed(receiver.clone()), "/v1/endpoints/default/nobody").await,
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            ask(routed(receiver), "/v1/endpoints/default/xwing?wait=soon").await,
            StatusCode::BAD_REQUEST
        );
    }

    #[test]
    fn waits_are_read_as_written() {
        assert_eq!(parse_wait("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_wait("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_wait("3"), Some(Duration::from_secs(3)));
        assert_eq!(parse_wait("-1s"), None);
    }
}
