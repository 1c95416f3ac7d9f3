//! The pods behind a Service.

use crate::api::logs;
use crate::api::object;
use crate::api::resource::{ENDPOINT_SLICES, PODS, SERVICES};
use crate::api::runtime::ContainerRef;
use crate::api::store::Store;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A pod, and its port that a Service's port leads to.
pub(super) type Peer = (ContainerRef, u16);

/// The ready pods behind a port of a Service.
///
/// # Errors
/// In Kubernetes' words when there is none.
pub(super) fn of_service(
    store: &Store,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<Vec<Peer>, String> {
    let service = store
        .get_object(&SERVICES, namespace, name)
        .map_err(|error| error.message)?;
    let ports = object::list(&service, "/spec/ports");
    let port = ports
        .iter()
        .find(|p| p["port"] == port)
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let (slices, _) = store.list_objects(&ENDPOINT_SLICES, Some(namespace));
    let mut peers = Vec::new();
    for slice in slices
        .iter()
        .filter(|s| object::label(s, SERVICE_NAME) == Some(name))
    {
        let called = object::text(port, "/name");
        let mut targets = object::list(slice, "/ports").iter();
        let target = targets
            .find(|p| object::text(p, "/name") == called)
            .and_then(|p| u16::try_from(p["port"].as_u64()?).ok());
        let Some(target) = target else { continue };
        let endpoints = object::list(slice, "/endpoints").iter();
        let ready = endpoints.filter(|e| e["conditions"]["ready"] != false);
        peers.extend(ready.filter_map(|e| {
            let pod = store.get_object(&PODS, namespace, object::text(e, "/targetRef/name"));
            let pod = pod
                .ok()
                .filter(|pod| object::uid(pod) == object::text(e, "/targetRef/uid"))?;
            Some((logs::container(&pod, "").ok()?, target))
        }));
    }
    if peers.is_empty() {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    Ok(peers)
}
