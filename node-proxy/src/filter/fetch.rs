//! Requests of filters' own, to Services of the mesh.
//!
//! A filter asks in the name of the pod that it works for: with the pod's
//! address and identity, and only what the pod itself might ask. L3 and L4
//! policy of both ends was looked at when the snapshot was made, HTTP rules are
//! judged here.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri, Version};
use http_body::Body;
use weft_core::filter::{Backend, FilterSpec};
use weft_core::model::EndpointId;
use weft_core::snapshot::Cluster;
use weft_wasm_host::{FetchError, FetchRequest, FetchResponse, FetchResult};

use super::exchange::Known;
use crate::accept::addr::{Local, OriginalDst, Source};
use crate::accept::worker::Worker;
use crate::control::config::Config;
use crate::failure::Failure;
use crate::http::body::RequestBody;
use crate::identity::{Direction, Judged};
use crate::memory::{Account, Held};
use crate::pipeline::headers::Trust;
use crate::pipeline::request_id;
use crate::pipeline::{admit, forward, headers, policy, route};
use crate::settings;
use crate::upstream::UpstreamBody;
use crate::upstream::target::Protocol;

/// In whose name a filter asks, and on account of which request.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    /// The request.
    pub(super) known: Arc<Known>,
    /// Which of its ends the filter works for.
    pub(super) direction: Direction,
}

impl Asker {
    fn subject(&self) -> Option<EndpointId> {
        let end = match self.direction {
            Direction::Egress => &self.known.ends.source,
            Direction::Ingress => &self.known.ends.destination,
        };
        end.endpoint.map(EndpointId)
    }
}

/// Asks, and waits for the whole answer. Without an asker it is the filter's
/// own work, in the name of any pod that it is attached to.
pub(super) async fn fetch(
    worker: Rc<Worker>,
    spec: Arc<FilterSpec>,
    asker: Option<Asker>,
    request: FetchRequest,
    most: usize,
) -> FetchResult {
    let timeout = request.timeout;
    let asking = ask(&worker, &spec, asker.as_ref(), request, most);
    match tokio::time::timeout(timeout, asking).await {
        Ok(result) => result.map(Box::new),
        Err(_elapsed) => Err(FetchError::Timeout),
    }
}

async fn ask(
    worker: &Rc<Worker>,
    spec: &FilterSpec,
    asker: Option<&Asker>,
    request: FetchRequest,
    most: usize,
) -> Result<FetchResponse, FetchError> {
    let config = worker.config();
    let service = canonical(&request.service, &spec.key.namespace)
        .ok_or_else(|| FetchError::Invalid("a Service is named `name.namespace:port`".into()))?;
    let (backend, subject) = choose(worker, &config, spec, asker, &service)?;
    let source = config
        .snapshot
        .endpoint(subject)
        .map(|endpoint| Source(SocketAddr::new(endpoint.address.0, 0)))
        .ok_or(FetchError::Denied)?;
    let judged = Judged::resolve(&config, source, OriginalDst(backend), Local(source.0));
    if judged.private {
        return Err(FetchError::Denied);
    }
    if guarded(&judged) {
        return Err(FetchError::Failed(GUARDED.into()));
    }
    let mut head = head(&request, &service)?;
    // As any request's: what is judged is what is sent.
    let most_headers = config.settings.max_headers as usize;
    match admit::admit(&mut head, settings::MAX_URI_BYTES, most_headers) {
        Ok(admit::Path::Redirect) => return Err(FetchError::Invalid("path".to_owned())),
        Ok(_) => {}
        Err(failure) => return Err(FetchError::Invalid(failure.to_string())),
    }
    headers::sanitise(&mut head, Trust::Cluster, &[]);
    if let Some(asker) = asker {
        head.headers
            .insert(request_id::NAME, asker.known.request_id.header());
    }
    if !policy::judge(&judged, &mut head).allowed() {
        return Err(FetchError::Denied);
    }
    let protocol = match request.http2 {
        true => Protocol::Http2,
        false => Protocol::Http1,
    };
    let target = route::towards(&config, &judged, protocol, Cluster::CONNECT_TIMEOUT);
    let trace = asker.and_then(|asker| asker.known.trace.as_ref());
    forward::prepare(&mut head, &target, trace, config.spans);
    let account = match asker {
        Some(asker) => Arc::clone(&asker.known.account),
        None => worker.account(source),
    };
    if account.is_full() {
        return Err(FetchError::Overloaded);
    }
    let _sent = Held::new(&account, request.body.len());
    let body = RequestBody::own(request.body, request.trailers);
    let sending = worker.upstream();
    let sending = sending.send(&target, &head, body, &account);
    let response = sending.await.map_err(failed)?;
    collect(response, most, &account).await
}

/// A ready backend, the next in turn of those that may be asked, and in whose
/// name.
fn choose(
    worker: &Worker,
    config: &Config,
    spec: &FilterSpec,
    asker: Option<&Asker>,
    service: &str,
) -> Result<(SocketAddr, EndpointId), FetchError> {
    let named = |one: &str| canonical(one, &spec.key.namespace).is_some_and(|one| one == service);
    let declared = spec.callouts.iter().any(|one| named(one));
    let callout = config.snapshot.callout(service).filter(|_callout| declared);
    let callout = callout.ok_or(FetchError::NoEndpoint)?;
    if callout.backends.is_empty() {
        return Err(FetchError::NoEndpoint);
    }
    let subject = |backend: &Backend| match asker {
        Some(asker) => asker
            .subject()
            .filter(|subject| backend.from.binary_search(subject).is_ok()),
        None => backend
            .from
            .iter()
            .copied()
            .find(|pod| meets(config, spec, *pod)),
    };
    let turn = worker.next_turn();
    let backends = callout.backends.iter();
    let allowed: Vec<_> = backends
        .filter_map(|backend| Some((backend.address, subject(backend)?)))
        .collect();
    turn.checked_rem(allowed.len())
        .and_then(|at| allowed.get(at).copied())
        .ok_or(FetchError::Denied)
}

/// Why a pod of this node is not asked.
const GUARDED: &str = "the pod has filters, which a filter's own request would go round";

/// Whether the pod that is asked has filters at this door. They do not see what
/// is asked from here, and nothing goes past them.
fn guarded(judged: &Judged) -> bool {
    let steps = judged
        .policies
        .chain()
        .map_or(&[][..], |chain| chain.steps());
    steps
        .iter()
        .any(|step| step.direction == Direction::Ingress)
}

/// Whether a filter works for this pod.
fn meets(config: &Config, spec: &FilterSpec, pod: EndpointId) -> bool {
    let filters = config.snapshot.filters();
    let place = filters.iter().position(|one| one.key == spec.key);
    let place = place.and_then(|place| u32::try_from(place).ok());
    place.is_some_and(|place| config.snapshot.is_attached(place, pod))
}

/// `name.namespace:port` of what a filter, or its manifest, calls a Service.
fn canonical(service: &str, namespace: &str) -> Option<String> {
    let (host, port) = service.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let host = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
    let host = host.strip_suffix(".svc").unwrap_or(host);
    let (name, namespace) = host.split_once('.').unwrap_or((host, namespace));
    let known = !name.is_empty() && !namespace.is_empty() && !namespace.contains('.');
    known.then(|| format!("{name}.{namespace}:{port}"))
}

fn head(request: &FetchRequest, service: &str) -> Result<Parts, FetchError> {
    let invalid = |what: &str| FetchError::Invalid(what.to_owned());
    let authority = request.authority.as_deref().unwrap_or(service);
    let authority: Authority = authority.parse().map_err(|_error| invalid("authority"))?;
    let path: PathAndQuery = request.path.parse().map_err(|_error| invalid("path"))?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_error| invalid("authority"))?;
    let (uri, version) = match request.http2 {
        false => (Uri::from(path), Version::HTTP_11),
        true => {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(authority);
            parts.path_and_query = Some(path);
            let uri = Uri::from_parts(parts).map_err(|_error| invalid("path"))?;
            (uri, Version::HTTP_2)
        }
    };
    let whole = Request::builder()
        .method(request.method.clone())
        .uri(uri)
        .version(version);
    let (mut head, ()) = whole
        .body(())
        .map_err(|error| FetchError::Invalid(error.to_string()))?
        .into_parts();
    head.headers = request.headers.clone();
    if !request.http2 {
        head.headers.insert(HOST, host);
    }
    Ok(head)
}

async fn collect(
    response: http::Response<UpstreamBody>,
    most: usize,
    account: &Arc<Account>,
) -> Result<FetchResponse, FetchError> {
    let (mut head, mut body) = response.into_parts();
    headers::sanitise_response(&mut head.headers, false);
    let mut whole = BytesMut::new();
    let mut held = Held::new(account, 0);
    let mut trailers = HeaderMap::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame.map_err(failed)?.into_data() {
            Ok(mut data) => {
                if whole.len() + data.remaining() > most {
                    return Err(FetchError::TooLarge);
                }
                whole.extend_from_slice(&data.copy_to_bytes(data.remaining()));
                held.set(whole.len());
                if account.is_full() {
                    return Err(FetchError::Overloaded);
                }
            }
            Err(frame) => {
                if let Ok(fields) = frame.into_trailers() {
                    trailers = fields;
                }
            }
        }
    }
    Ok(FetchResponse {
        status: head.status,
        headers: head.headers,
        body: whole.freeze(),
        trailers,
    })
}

fn failed(failure: Failure) -> FetchError {
    match failure {
        Failure::UpstreamTimeout | Failure::ConnectTimeout => FetchError::Timeout,
        Failure::Overloaded(_) | Failure::NoSourcePort => FetchError::Overloaded,
        other => FetchError::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn a_service_has_one_name() {
        let of = |service| canonical(service, "team");
        for same in [
            "authz.team:80",
            "authz:80",
            "authz.team.svc:80",
            "authz.team.svc.cluster.local:80",
        ] {
            assert_eq!(of(same).as_deref(), Some("authz.team:80"), "{same}");
        }
        for wrong in [
            "authz",
            "authz:",
            "authz:99999",
            ":80",
            ".team:80",
            "a.b.c:80",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(
            canonical("authz:80", ""),
            None,
            "a cluster filter says where"
        );
    }
}
