//! The objects that a lab's cluster has from its beginning.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::{ApiError, Store};
use crate::dns::WORLD_HOSTS;
use crate::kubelet::{AGENT_IMAGE, DNS_IMAGE, OPERATOR_IMAGE, PROXY_IMAGE, RELAY_IMAGE};
use crate::net::plan::DNS_IP;
use crate::net::{NodePlan, Plan};

/// Where the mesh's own pods live.
pub const SYSTEM: &str = "kube-system";

/// Where the operator takes questions of the API.
const OPERATOR_PORT: u16 = 9443;

/// Hosts outside the cluster: documentation addresses and names (RFC 5737,
/// RFC 2606) that no real host can have. Each answers HTTP on port 80.
pub const WORLD: &str = "\
203.0.113.10 example.com www.example.com
203.0.113.20 api.example.com
203.0.113.30 example.org
";

/// A part of the mesh, as users name it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    /// A node's agent.
    Agent,
    /// A node's proxy.
    Proxy,
    /// The relay.
    Relay,
    /// The operator.
    Operator,
}

impl Component {
    /// Every part.
    pub const ALL: [Self; 4] = [Self::Agent, Self::Proxy, Self::Relay, Self::Operator];

    /// The label by which its pods are found.
    pub fn label(self) -> (&'static str, &'static str) {
        match self {
            Self::Agent => ("k8s-app", "cilium"),
            Self::Proxy => ("k8s-app", "cilium-envoy"),
            Self::Relay => ("k8s-app", "hubble-relay"),
            Self::Operator => ("name", "cilium-operator"),
        }
    }

    /// Its container.
    pub fn container(self) -> &'static str {
        match self {
            Self::Agent => "cilium-agent",
            Self::Proxy => "cilium-envoy",
            Self::Relay => "hubble-relay",
            Self::Operator => "cilium-operator",
        }
    }

    /// Whether every node has one.
    pub fn is_per_node(self) -> bool {
        matches!(self, Self::Agent | Self::Proxy)
    }

    /// Whether a pod is (one of) this.
    pub fn is(self, pod: &Pod) -> bool {
        let (key, value) = self.label();
        let labels = pod.metadata.labels.as_ref();
        pod.metadata.namespace.as_deref() == Some(SYSTEM)
            && labels
                .and_then(|labels| labels.get(key))
                .map(String::as_str)
                == Some(value)
    }
}

/// An object that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The lab's own manifest is wrong.
    #[error("built-in {kind}: {source}")]
    Manifest {
        /// Of what kind.
        kind: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The API refused it.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Makes nodes, DNS and, with `mesh`, its parts. Returns how many pods of
/// kube-system follow from that.
///
/// # Errors
/// When an object cannot be made.
pub fn fill(store: &Store, plan: &Plan, mesh: bool) -> Result<usize, ClusterError> {
    for node in &plan.nodes {
        store.create(&read::<Node>("Node", node_object(node))?)?;
    }
    let hosts = json!({
        "metadata": {"name": WORLD_HOSTS, "namespace": SYSTEM},
        "data": {"hosts": WORLD},
    });
    store.create(&read::<ConfigMap>("ConfigMap", hosts)?)?;
    store.create(&read::<Service>("Service", dns_service())?)?;
    let replicas = plan.nodes.len().min(2);
    store.create(&read::<Deployment>("Deployment", dns(replicas))?)?;
    if !mesh {
        return Ok(replicas);
    }
    for (name, component, image) in [
        ("cilium", Component::Agent, AGENT_IMAGE),
        ("cilium-envoy", Component::Proxy, PROXY_IMAGE),
    ] {
        let object = workload(name, component, image, None);
        store.create(&read::<DaemonSet>("DaemonSet", object)?)?;
    }
    for (name, component, image) in [
        ("cilium-operator", Component::Operator, OPERATOR_IMAGE),
        ("hubble-relay", Component::Relay, RELAY_IMAGE),
    ] {
        let object = workload(name, component, image, Some(1));
        store.create(&read::<Deployment>("Deployment", object)?)?;
    }
    store.create(&read::<Service>("Service", operator_service())?)?;
    Ok(replicas + 2 * plan.nodes.len() + 2)
}

fn read<K: DeserializeOwned>(kind: &'static str, object: Value) -> Result<K, ClusterError> {
    serde_json::from_value(object).map_err(|source| ClusterError::Manifest { kind, source })
}

fn node_object(node: &NodePlan) -> Value {
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady",
        "message": "the lab runs this node's pods",
    });
    let room = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
    json!({
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": std::env::consts::ARCH.replace("x86_64", "amd64"),
            },
        },
        "spec": {"podCIDR": node.pod_cidr(), "podCIDRs": [node.pod_cidr()]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.ip},
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [ready],
            "capacity": room,
            "allocatable": room,
            "nodeInfo": {
                "architecture": "amd64", "bootID": "", "machineID": "", "systemUUID": "",
                "containerRuntimeVersion": concat!("weft-lab://", env!("CARGO_PKG_VERSION")),
                "kernelVersion": rustix::system::uname().release().to_string_lossy(),
                "kubeProxyVersion": "", "kubeletVersion": crate::api::KUBERNETES_VERSION,
                "operatingSystem": "linux", "osImage": "weft-lab",
            },
        },
    })
}

fn dns_service() -> Value {
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
    ]);
    json!({
        "metadata": {
            "name": "kube-dns", "namespace": SYSTEM,
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {"clusterIP": DNS_IP, "selector": {"k8s-app": "kube-dns"}, "ports": ports},
    })
}

/// Behind which the operator judges objects before they are stored.
fn operator_service() -> Value {
    let (key, value) = Component::Operator.label();
    let ports = json!([{"name": "https", "port": 443, "targetPort": OPERATOR_PORT}]);
    json!({
        "metadata": {
            "name": "weft-operator", "namespace": SYSTEM,
            "labels": {"app.kubernetes.io/part-of": "weft"},
        },
        "spec": {"selector": {key: value}, "ports": ports},
    })
}

fn dns(replicas: usize) -> Value {
    let container = json!({
        "name": "coredns", "image": DNS_IMAGE,
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
    });
    let labels = json!({"k8s-app": "kube-dns"});
    json!({
        "metadata": {"name": "coredns", "namespace": SYSTEM, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    })
}

/// A Deployment of so many replicas, or a DaemonSet, of a part of the mesh.
fn workload(name: &str, component: Component, image: &str, replicas: Option<usize>) -> Value {
    let (key, value) = component.label();
    let mut labels = json!({"app.kubernetes.io/part-of": "weft"});
    labels[key] = json!(value);
    if component == Component::Operator {
        labels["io.cilium/app"] = json!("operator");
    }
    let selector = json!({"matchLabels": {key: value}});
    let container = json!({"name": component.container(), "image": image});
    let mut object = json!({
        "metadata": {"name": name, "namespace": SYSTEM, "labels": labels},
        "spec": {
            "selector": selector,
            "template": {
                "metadata": {"labels": labels},
                "spec": {"hostNetwork": true, "containers": [container]},
            },
        },
    });
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = json!(replicas);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_is_what_it_says() {
        let plan = Plan::new("weft", 2, crate::net::Routing::Vxlan).unwrap();
        let store = Store::new();
        assert_eq!(fill(&store, &plan, true).unwrap(), 8);
        let nodes: Vec<Node> = store.list(None);
        assert_eq!(nodes.len(), 2);
        let service: Service = store.get(SYSTEM, "kube-dns").unwrap();
        assert_eq!(service.spec.unwrap().cluster_ip.unwrap(), "10.96.0.10");
        let service: Service = store.get(SYSTEM, "weft-operator").unwrap();
        let operator: Deployment = store.get(SYSTEM, "cilium-operator").unwrap();
        let labels = operator.spec.unwrap().template.metadata.unwrap().labels;
        let selector = service.spec.unwrap().selector.unwrap();
        for (key, value) in selector {
            assert_eq!(labels.as_ref().unwrap().get(&key), Some(&value));
        }
        let agents: DaemonSet = store.get(SYSTEM, "cilium").unwrap();
        let template = agents.spec.unwrap().template;
        let pod = Pod {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                namespace: Some(SYSTEM.to_owned()),
                ..template.metadata.unwrap()
            },
            ..Pod::default()
        };
        assert!(Component::Agent.is(&pod));
        assert!(!Component::Proxy.is(&pod));
    }
}
