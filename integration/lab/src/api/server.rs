//! The router: every request comes here, is taken apart and answered.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::View;
use super::request::{Form, Query, Target};
use super::resource::{PODS, ResourceType};
use super::runtime::PodRuntime;
use super::status::ApiError;
use super::store::Store;
use super::{discovery, exec, logs, objects, openapi, portforward, scale, watch};

/// Manifests are small; etcd's own limit is 1.5 MiB.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// What requests are answered from.
#[derive(Clone)]
struct Api {
    store: Store,
    runtime: Arc<dyn PodRuntime>,
}

/// The Kubernetes API on a store, with pods run by `runtime`.
pub fn router(store: Store, runtime: Arc<dyn PodRuntime>) -> Router {
    Router::new()
        .fallback(handle)
        .with_state(Api { store, runtime })
}

async fn handle(State(api): State<Api>, request: Request<Body>) -> Response {
    let started = (request.method().clone(), request.uri().clone());
    let response = answer(&api, request).await.unwrap_or_else(|error| {
        tracing::debug!(method = %started.0, uri = %started.1, %error, "refused");
        error.into_response()
    });
    tracing::trace!(method = %started.0, uri = %started.1, status = %response.status(), "answered");
    response
}

async fn answer(api: &Api, request: Request<Body>) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    refuse_browsers(&parts)?;
    let path = segments(&parts.uri);
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if parts.method == Method::GET
        && let Some(found) = about_the_server(&api.store, &path)
    {
        return found;
    }
    let target = Target::parse(&path).ok_or_else(ApiError::no_such_resource)?;
    let info = api.store.resource(&target.id)?;
    if info.find_version(&target.version).is_none() {
        return Err(ApiError::no_such_resource());
    }
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    if info.is(&PODS) && matches!(target.subresource.as_str(), "exec" | "log" | "portforward") {
        return into_pod(api, &info, &target, &query, &mut parts).await;
    }
    let body = to_bytes(body, MAX_BODY)
        .await
        .map_err(|error| ApiError::bad_request(format!("reading the body: {error}")))?;
    let call = Call {
        store: &api.store,
        runtime: &*api.runtime,
        view: View {
            form: Form::of(&parts.headers, &query),
            version: target.version.clone(),
            info: info.clone(),
        },
        info,
        target,
        query,
        parts,
        body,
    };
    call.dispatch().await
}

/// One request about objects, taken apart.
pub(super) struct Call<'a> {
    pub store: &'a Store,
    pub runtime: &'a dyn PodRuntime,
    pub info: Arc<ResourceType>,
    pub view: View,
    pub target: Target,
    pub query: Query,
    pub parts: Parts,
    pub body: Bytes,
}

impl Call<'_> {
    async fn dispatch(&self) -> Result<Response, ApiError> {
        let method = &self.parts.method;
        match self.target.subresource.as_str() {
            "" => {}
            "status" if self.info.status => {}
            "scale" if self.info.scale.is_some() => return scale::serve(self).await,
            _ => return Err(ApiError::no_such_resource()),
        }
        let on_status = self.target.subresource == "status";
        match (method, &self.target.name) {
            (&Method::GET, None) if self.query.flag("watch") => self.watch(),
            (&Method::GET, None) => objects::list(self),
            (&Method::POST, None) => objects::create(self).await,
            (&Method::DELETE, None) => objects::delete_collection(self).await,
            (&Method::GET, Some(name)) => objects::get(self, name),
            (&Method::PUT, Some(name)) => objects::replace(self, name).await,
            (&Method::PATCH, Some(name)) => objects::patch(self, name).await,
            (&Method::DELETE, Some(name)) if !on_status => objects::delete(self, name).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn watch(&self) -> Result<Response, ApiError> {
        let namespace = objects::scope(self)?.map(str::to_owned);
        let selector = self.query.selector()?;
        let view = self.view.clone();
        Ok(watch::serve(
            self.store,
            view,
            namespace,
            selector,
            &self.query,
        ))
    }
}

/// Whoever can reach this API can run commands as root, and every web page that a user
/// opens can reach loopback. Browsers say where a page came from, and a name that was
/// rebound to this address shows in the host: API clients do neither.
fn refuse_browsers(parts: &Parts) -> Result<(), ApiError> {
    let is_local = |authority: &Authority| {
        let name = authority.host().trim_matches(['[', ']']);
        name == "localhost" || name.parse::<IpAddr>().is_ok()
    };
    let local = match (parts.headers.get(header::HOST), parts.uri.authority()) {
        (Some(host), _) => {
            let authority = host.to_str().ok().and_then(|h| h.parse().ok());
            authority.is_some_and(|a| is_local(&a))
        }
        (None, Some(authority)) => is_local(authority),
        (None, None) => true,
    };
    if local && !parts.headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    Err(ApiError::not_for_browsers())
}

fn segments(uri: &Uri) -> Vec<String> {
    // Names never need escapes, so a path is split as it is.
    let parts = uri.path().split('/').filter(|s| !s.is_empty());
    parts.map(str::to_owned).collect()
}

fn about_the_server(store: &Store, path: &[&str]) -> Option<Result<Response, ApiError>> {
    let found = match path {
        [] => Some(json!({ "paths": ["/api", "/apis", "/healthz", "/openapi/v3", "/version"] })),
        ["version"] => Some(discovery::version()),
        ["healthz" | "livez" | "readyz", ..] => {
            return Some(Ok((StatusCode::OK, "ok").into_response()));
        }
        ["api"] => Some(discovery::core_versions()),
        ["apis"] => Some(discovery::groups(store)),
        ["apis", group] => discovery::one_group(store, group),
        ["api", version] => discovery::resources(store, "", version),
        ["apis", group, version] => discovery::resources(store, group, version),
        ["openapi", "v3"] => Some(openapi::index(store)),
        ["openapi", "v3", rest @ ..] => openapi::document(store, &rest.join("/")),
        _ => return None,
    };
    Some(match found {
        Some(value) => Ok(Json::<Value>(value).into_response()),
        None => Err(ApiError::no_such_resource()),
    })
}

async fn into_pod(
    api: &Api,
    info: &ResourceType,
    target: &Target,
    query: &Query,
    parts: &mut Parts,
) -> Result<Response, ApiError> {
    let namespace = target.namespace_for(info)?;
    let name = target.name.as_deref().unwrap_or_default();
    let pod = api.store.get_object(&PODS, namespace, name)?;
    if target.subresource == "log" {
        return logs::serve(&*api.runtime, &pod, query).await;
    }
    let container = logs::container(&pod, query.get("container"))?;
    let forward = target.subresource == "portforward";
    let request = exec::request(query);
    if request.command.is_empty() && !forward {
        return Err(ApiError::bad_request(
            "you must specify at least one command",
        ));
    }
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &())
        .await
        .map_err(|_| {
            ApiError::bad_request("this needs WebSocket, which kubectl speaks from 1.31 on")
        })?;
    let runtime = api.runtime.clone();
    Ok(if forward {
        portforward::serve(upgrade, runtime, container)
    } else {
        exec::serve(upgrade, runtime, container, request)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_pages_are_refused() {
        let allowed = |headers: &[(&str, &str)]| {
            let mut request = Request::get("/api");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            refuse_browsers(&parts).is_ok()
        };
        for host in ["127.0.0.1:6443", "localhost:1", "[::1]:1", "172.18.0.2"] {
            assert!(allowed(&[("host", host)]), "{host}");
        }
        for host in ["rebound.example:6443", "localhost.example", "not a host"] {
            assert!(!allowed(&[("host", host)]), "{host}");
        }
        assert!(!allowed(&[
            ("host", "127.0.0.1:1"),
            ("origin", "http://page.example")
        ]));
        assert!(allowed(&[]));
    }
}
