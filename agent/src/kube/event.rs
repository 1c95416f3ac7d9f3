//! Events: what `kubectl describe` and `kubectl get events` tell users about an
//! object.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use weft_core::model::fnv1a;

/// Who tells something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Teller<'a> {
    /// The program.
    pub component: &'static str,
    /// The node that it is about, if it is about one.
    pub host: Option<&'a str>,
}

/// Where events about objects of the whole cluster are.
const CLUSTERWIDE: &str = "default";

/// A warning about an object. Its name follows from the object's and from
/// `about`: what was told before is not told again, however often it is seen.
/// What users are to hear of again, such as another cause, belongs there too.
pub(crate) fn warning(
    object: ObjectReference,
    about: &[&str],
    (reason, message): (&str, &str),
    teller: Teller<'_>,
    now: Timestamp,
) -> Event {
    let version = fnv1a(about.iter().copied());
    let name = object.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{version:016x}", start(name))),
            namespace: Some(object.namespace.clone().unwrap_or(CLUSTERWIDE.into())),
            ..ObjectMeta::default()
        },
        involved_object: object,
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        type_: Some("Warning".to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(teller.component.to_owned()),
            host: teller.host.map(str::to_owned),
        }),
        ..Event::default()
    }
}

/// What of an object's name fits into an event's beside a number. Names of the
/// API are ASCII.
fn start(name: &str) -> &str {
    const LONGEST: usize = 253 - ".0123456789abcdef".len();
    // A part of a name must not end in a dot or hyphen.
    let cut = name.get(..LONGEST).unwrap_or(name);
    cut.trim_end_matches(['.', '-'])
}

/// Tells it; false when it was told before.
///
/// # Errors
/// When the API refuses or cannot be reached.
pub(crate) async fn tell(client: &Client, event: &Event) -> Result<bool, kube::Error> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    match events.create(&PostParams::default(), event).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
