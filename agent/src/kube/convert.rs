//! Kubernetes objects to the agent's plain state.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::ResourceExt as _;
use kube::core::DynamicObject;
use serde_json::Value;
use weft_core::model::{NumericIdentity, Protocol};

use crate::identity::from_object_labels;
use crate::state::{
    Backend, EndpointSlice, IdentityObject, NamedPort, Namespace, Node, ObjectKey, Pod,
    PolicyObject, Service, ServicePort, SlicePort, Workload,
};

/// Label of an endpoint slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// TCP when unset, as the API has it.
fn protocol(name: Option<&str>) -> Option<Protocol> {
    name.map_or(Some(Protocol::Tcp), Protocol::from_name)
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

fn ipv4(text: &str) -> Option<Ipv4Addr> {
    text.parse().ok()
}

fn key<K: kube::Resource>(object: &K) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

pub(crate) fn pod(object: core::Pod) -> Option<Pod> {
    let workload = workload(&object);
    let key = key(&object);
    let uid = object.uid().unwrap_or_default();
    let created = object
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0.to_string())
        .unwrap_or_default();
    let deleting = object.metadata.deletion_timestamp.is_some();
    let labels = object.metadata.labels.unwrap_or_default();
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|item| {
            Some(NamedPort {
                name: item.name.clone()?,
                port: port(item.container_port)?,
                protocol: protocol(item.protocol.as_deref())?,
            })
        })
        .collect();
    let ip = status
        .pod_ips
        .iter()
        .flatten()
        .map(|entry| entry.ip.as_str())
        .chain(status.pod_ip.as_deref())
        .find_map(ipv4);
    Some(Pod {
        key,
        uid,
        node: spec.node_name.unwrap_or_default(),
        ip,
        host_network: spec.host_network.unwrap_or(false),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        labels,
        service_account: spec
            .service_account_name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".into()),
        ports,
        created,
        deleting,
        workload,
    })
}

/// The pod's controlling owner; a replica set made by a deployment is named as
/// the deployment, which is what people know.
fn workload(pod: &core::Pod) -> Option<Workload> {
    let owner = pod
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
        .or_else(|| pod.owner_references().first())?;
    if owner.kind == "ReplicaSet"
        && let Some(hash) = pod.labels().get("pod-template-hash")
        && let Some(name) = owner.name.strip_suffix(&format!("-{hash}"))
    {
        return Some(Workload {
            name: name.into(),
            kind: "Deployment".into(),
        });
    }
    Some(Workload {
        name: owner.name.clone(),
        kind: owner.kind.clone(),
    })
}

pub(crate) fn namespace(object: core::Namespace) -> Option<Namespace> {
    Some(Namespace {
        name: object.name_any(),
        labels: object.metadata.labels.unwrap_or_default(),
    })
}

pub(crate) fn node(object: core::Node) -> Option<Node> {
    let name = object.name_any();
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let mut addresses: Vec<_> = status
        .addresses
        .iter()
        .flatten()
        .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|address| Some((address.type_ != "InternalIP", ipv4(&address.address)?)))
        .collect();
    addresses.sort();
    let mut pod_cidrs: Vec<String> = spec
        .pod_cidrs
        .into_iter()
        .flatten()
        .chain(spec.pod_cidr)
        .filter(|cidr| cidr.contains('.'))
        .collect();
    pod_cidrs.sort();
    pod_cidrs.dedup();
    Some(Node {
        name,
        labels: object.metadata.labels.unwrap_or_default(),
        addresses: addresses.into_iter().map(|(_, ip)| ip).collect(),
        pod_cidrs,
    })
}

pub(crate) fn service(object: core::Service) -> Option<Service> {
    let key = key(&object);
    let labels = object.metadata.labels.unwrap_or_default();
    let spec = object.spec?;
    let mut cluster_ips: Vec<_> = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(spec.cluster_ip.as_ref())
        .filter_map(|ip| ipv4(ip))
        .collect();
    cluster_ips.sort();
    cluster_ips.dedup();
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|item| {
            Some(ServicePort {
                name: item.name.clone().unwrap_or_default(),
                port: port(item.port)?,
                protocol: protocol(item.protocol.as_deref())?,
            })
        })
        .collect();
    Some(Service {
        key,
        cluster_ips,
        ports,
        labels,
    })
}

pub(crate) fn slice(object: discovery::EndpointSlice) -> Option<EndpointSlice> {
    let service = object.labels().get(SERVICE_NAME).cloned()?;
    let key = key(&object);
    let ports = object
        .ports
        .iter()
        .flatten()
        .filter_map(|item| {
            Some(SlicePort {
                name: item.name.clone().unwrap_or_default(),
                port: port(item.port?)?,
                protocol: protocol(item.protocol.as_deref())?,
            })
        })
        .collect();
    let backends = object
        .endpoints
        .into_iter()
        .flat_map(|endpoint| {
            // Unset means ready: the API's own reading of the condition.
            let ready = endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true);
            endpoint.addresses.into_iter().filter_map(move |address| {
                Some(Backend {
                    ip: ipv4(&address)?,
                    ready,
                })
            })
        })
        .collect();
    Some(EndpointSlice {
        key,
        service,
        ports,
        backends,
    })
}

/// The object without what changes on its own (status, bookkeeping), so that a
/// status update is no change of the policy.
pub(crate) fn policy(mut object: DynamicObject) -> Option<PolicyObject> {
    object.metadata.managed_fields = None;
    object.metadata.resource_version = None;
    if let Value::Object(fields) = &mut object.data {
        fields.remove("status");
    }
    let key = key(&object);
    let uid = object.uid().unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or_default();
    let raw = serde_json::to_value(object).ok()?;
    Some(PolicyObject {
        key,
        uid,
        generation,
        raw: raw.into(),
    })
}

pub(crate) fn identity(object: DynamicObject) -> Option<IdentityObject> {
    let id = NumericIdentity(object.name_any().parse().ok()?);
    let labels = object.data.get("security-labels")?.clone();
    let labels: BTreeMap<String, String> = serde_json::from_value(labels).ok()?;
    let labels = from_object_labels(&labels).ok()?;
    id.is_cluster().then_some(IdentityObject { id, labels })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_core::model::Labels;

    use super::*;

    #[test]
    fn a_deployments_pod_names_the_deployment() {
        let object: core::Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "deathstar-b4b8ccfb5-lvbnx", "namespace": "default", "uid": "u1",
                "labels": {"pod-template-hash": "b4b8ccfb5", "class": "deathstar"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "name": "deathstar-b4b8ccfb5", "uid": "r1", "controller": true}],
            },
            "spec": {"nodeName": "kind-worker", "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]},
            "status": {"podIP": "10.244.1.10", "phase": "Running"},
        }))
        .expect("a pod");
        let pod = pod(object).expect("converted");
        assert_eq!(pod.own_ip(), Some(Ipv4Addr::new(10, 244, 1, 10)));
        assert_eq!(pod.service_account, "default");
        assert_eq!(pod.ports[0].protocol, Protocol::Tcp);
        let workload = pod.workload.expect("an owner");
        assert_eq!(
            (workload.kind.as_str(), workload.name.as_str()),
            ("Deployment", "deathstar")
        );
    }

    #[test]
    fn finished_and_host_network_pods_have_no_address_of_their_own() {
        for (host, phase) in [(true, "Running"), (false, "Succeeded"), (false, "Failed")] {
            let object: core::Pod = serde_json::from_value(json!({
                "metadata": {"name": "p"},
                "spec": {"hostNetwork": host, "containers": []},
                "status": {"podIP": "10.0.0.1", "phase": phase},
            }))
            .expect("a pod");
            assert_eq!(pod(object).expect("converted").own_ip(), None);
        }
    }

    #[test]
    fn a_status_update_is_no_change_of_a_policy() {
        let object = |status: Value, version: &str| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
                "metadata": {"name": "rule1", "namespace": "default", "resourceVersion": version},
                "spec": {"endpointSelector": {}}, "status": status,
            }))
            .expect("an object")
        };
        assert_eq!(
            policy(object(json!({}), "1")),
            policy(object(json!({"conditions": [{"type": "Valid"}]}), "2"))
        );
    }

    #[test]
    fn an_unready_backend_is_kept_as_unready() {
        let object: discovery::EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "s-1", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.2"]},
            ],
        }))
        .expect("a slice");
        let slice = slice(object).expect("converted");
        assert_eq!(
            slice.backends.iter().map(|b| b.ready).collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn an_identity_object_without_labels_is_ignored() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumIdentity",
            "metadata": {"name": "4711"}, "security-labels": {"k8s:app": "x"},
        }))
        .expect("an object");
        let expected = IdentityObject {
            id: NumericIdentity(4711),
            labels: Labels::parse_all(["k8s:app=x"]).expect("labels"),
        };
        assert_eq!(identity(object), Some(expected));
        let broken: DynamicObject =
            serde_json::from_value(json!({"metadata": {"name": "4711"}})).expect("an object");
        assert_eq!(identity(broken), None);
    }
}
