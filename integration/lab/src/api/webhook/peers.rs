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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn store() -> Store {
        let store = Store::new();
        let service = json!({
            "metadata": { "name": "s" },
            "spec": { "ports": [{ "name": "a", "port": 443 }, { "name": "b", "port": 80 }] },
        });
        store
            .create_object(&SERVICES, "default", service)
            .expect("a Service");
        store
    }

    fn pod(store: &Store, name: &str) -> Value {
        let containers = json!([{ "name": "c", "image": "i" }, { "name": "d", "image": "i" }]);
        let pod = json!({ "metadata": { "name": name }, "spec": { "containers": containers } });
        let pod = store.create_object(&PODS, "default", pod).expect("a pod");
        json!({ "kind": "Pod", "name": name, "uid": object::uid(&pod) })
    }

    fn slice(store: &Store, name: &str, service: &str, endpoints: &[Value]) {
        let slice = json!({
            "metadata": { "name": name, "labels": { SERVICE_NAME: service } },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{ "name": "b", "port": 1 }, { "name": "a", "port": 9443 }],
        });
        store
            .create_object(&ENDPOINT_SLICES, "default", slice)
            .expect("a slice");
    }

    #[test]
    fn only_ready_pods_that_are_still_there() {
        let store = store();
        let endpoint = |target: Value, ready: bool| json!({ "addresses": ["10.0.0.1"], "conditions": { "ready": ready }, "targetRef": target });
        let (one, two, other) = (pod(&store, "one"), pod(&store, "two"), pod(&store, "other"));
        let earlier = json!({ "kind": "Pod", "name": "two", "uid": "of an earlier one" });
        let gone = json!({ "kind": "Pod", "name": "gone", "uid": "u" });
        slice(
            &store,
            "s-1",
            "s",
            &[
                endpoint(earlier, true),
                endpoint(two, false),
                endpoint(gone, true),
                json!({ "addresses": ["10.0.0.9"] }),
            ],
        );
        slice(&store, "t-1", "t", &[endpoint(other, true)]);
        let found = of_service(&store, "default", "s", 443).expect_err("none");
        assert_eq!(found, "no endpoints available for service \"s\"");
        slice(&store, "s-2", "s", &[endpoint(one, true)]);
        let found = of_service(&store, "default", "s", 443).expect("one");
        let found: Vec<_> = found
            .iter()
            .map(|(c, port)| (c.pod.as_str(), c.container.as_str(), *port))
            .collect();
        assert_eq!(found, [("one", "c", 9443)]);
        let found = of_service(&store, "default", "s", 444).expect_err("no such port");
        assert_eq!(found, "no service port 444 found for service \"s\"");
    }
}
