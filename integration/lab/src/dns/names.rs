//! Which names there are. Pure but for [`Zone`], which reads the store.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::api::Store;

/// The zone that the cluster answers for.
const ZONE: &str = "cluster.local";
/// ConfigMap in kube-system with names outside the cluster: its key `hosts`
/// reads like /etc/hosts.
pub const WORLD_HOSTS: &str = "world-hosts";

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Addresses, in no order.
    Addresses(Vec<Ipv4Addr>),
    /// Another name.
    Alias(String),
    /// The name exists and has nothing of this kind.
    NoData,
    /// There is no such name.
    NoName,
}

/// What there is in a cluster, by name.
pub trait Cluster {
    /// Whether the namespace exists.
    fn has_namespace(&self, namespace: &str) -> bool;
    /// The service of that name.
    fn service(&self, namespace: &str, name: &str) -> Option<Answer>;
    /// An endpoint of a service that has a host name of its own.
    fn endpoint(&self, namespace: &str, service: &str, hostname: &str) -> Option<Ipv4Addr>;
    /// A name outside the cluster.
    fn world(&self, name: &str) -> Option<Vec<Ipv4Addr>>;
}

/// Looks a lower-case name without its last dot up.
pub fn resolve(name: &str, cluster: &impl Cluster) -> Answer {
    let inside = match name.strip_suffix(ZONE) {
        Some("") => return Answer::NoData,
        Some(rest) => rest.strip_suffix('.'),
        None => None,
    };
    let Some(inside) = inside else {
        return match cluster.world(name) {
            Some(addresses) => Answer::Addresses(addresses),
            None => Answer::NoName,
        };
    };
    let labels: Vec<_> = inside.split('.').collect();
    let exists = |exists| {
        if exists {
            Answer::NoData
        } else {
            Answer::NoName
        }
    };
    match labels.as_slice() {
        ["svc" | "pod"] => Answer::NoData,
        [namespace, "svc" | "pod"] => exists(cluster.has_namespace(namespace)),
        [service, namespace, "svc"] => cluster
            .service(namespace, service)
            .unwrap_or(Answer::NoName),
        [host, service, namespace, "svc"] => match cluster.endpoint(namespace, service, host) {
            Some(ip) => Answer::Addresses(vec![ip]),
            None => Answer::NoName,
        },
        // As CoreDNS does by default: the address is in the name.
        [pod, namespace, "pod"] if cluster.has_namespace(namespace) => {
            match pod.replace('-', ".").parse() {
                Ok(ip) => Answer::Addresses(vec![ip]),
                Err(_) => Answer::NoName,
            }
        }
        _ => Answer::NoName,
    }
}

/// Addresses and names of a hosts file.
pub fn world_hosts(text: &str) -> impl Iterator<Item = (Ipv4Addr, &str)> {
    text.lines().flat_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let address = words.next().and_then(|word| word.parse().ok());
        address
            .into_iter()
            .flat_map(move |address| words.clone().map(move |name| (address, name)))
    })
}

/// The cluster as the API holds it.
#[derive(Clone)]
pub struct Zone {
    store: Store,
}

impl Zone {
    /// Answers from this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    fn endpoints(&self, namespace: &str, service: &str) -> Vec<(Ipv4Addr, Option<String>)> {
        const SERVICE: &str = "kubernetes.io/service-name";
        let slices = self.store.list::<EndpointSlice>(Some(namespace));
        let of_service = slices.into_iter().filter(|slice| {
            let labels = slice.metadata.labels.as_ref();
            labels.and_then(|l| l.get(SERVICE)).map(String::as_str) == Some(service)
        });
        let endpoints = of_service.flat_map(|slice| slice.endpoints);
        let ready = endpoints.filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.is_none_or(|conditions| conditions.ready != Some(false))
        });
        ready
            .flat_map(|endpoint| {
                let hostname = endpoint.hostname;
                let addresses = endpoint.addresses.into_iter();
                addresses.filter_map(move |ip| Some((ip.parse().ok()?, hostname.clone())))
            })
            .collect()
    }
}

impl Cluster for Zone {
    fn has_namespace(&self, namespace: &str) -> bool {
        self.store.get::<Namespace>("", namespace).is_ok()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Answer> {
        let spec = self.store.get::<Service>(namespace, name).ok()?.spec?;
        if let Some(target) = spec.external_name {
            return Some(Answer::Alias(target));
        }
        match spec.cluster_ip.as_deref() {
            Some("None") => {
                let endpoints = self.endpoints(namespace, name);
                let addresses: Vec<_> = endpoints.into_iter().map(|(ip, _)| ip).collect();
                Some(match addresses.is_empty() {
                    true => Answer::NoData,
                    false => Answer::Addresses(addresses),
                })
            }
            Some(ip) => Some(Answer::Addresses(vec![ip.parse().ok()?])),
            None => Some(Answer::NoData),
        }
    }

    fn endpoint(&self, namespace: &str, service: &str, hostname: &str) -> Option<Ipv4Addr> {
        if let Some((ip, _)) = self
            .endpoints(namespace, service)
            .into_iter()
            .find(|(_, name)| name.as_deref() == Some(hostname))
        {
            return Some(ip);
        }
        // Slices name hosts only where the pod's subdomain is the service.
        let pods = self.store.list::<Pod>(Some(namespace));
        pods.into_iter().find_map(|pod| {
            let spec = pod.spec?;
            let named = spec.hostname.as_deref() == Some(hostname)
                && spec.subdomain.as_deref() == Some(service);
            named.then_some(pod.status?.pod_ip?.parse().ok()?)
        })
    }

    fn world(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
        let map = self
            .store
            .get::<ConfigMap>("kube-system", WORLD_HOSTS)
            .ok()?;
        let hosts = map.data?.remove("hosts")?;
        let addresses: Vec<_> = world_hosts(&hosts)
            .filter(|(_, host)| *host == name)
            .map(|(address, _)| address)
            .collect();
        (!addresses.is_empty()).then_some(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Cluster for Fixed {
        fn has_namespace(&self, namespace: &str) -> bool {
            namespace == "default"
        }

        fn service(&self, namespace: &str, name: &str) -> Option<Answer> {
            let found = (namespace, name) == ("default", "deathstar");
            found.then(|| Answer::Addresses(vec![Ipv4Addr::new(10, 96, 1, 1)]))
        }

        fn endpoint(&self, _: &str, service: &str, hostname: &str) -> Option<Ipv4Addr> {
            ((service, hostname) == ("fleet", "one")).then_some(Ipv4Addr::new(10, 244, 1, 10))
        }

        fn world(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
            (name == "example.com").then(|| vec![Ipv4Addr::new(203, 0, 113, 10)])
        }
    }

    fn ip(a: u8, b: u8, c: u8, d: u8) -> Answer {
        Answer::Addresses(vec![Ipv4Addr::new(a, b, c, d)])
    }

    #[test]
    fn services_pods_and_hosts_have_names() {
        for (name, answer) in [
            ("deathstar.default.svc.cluster.local", ip(10, 96, 1, 1)),
            ("one.fleet.default.svc.cluster.local", ip(10, 244, 1, 10)),
            ("10-244-1-7.default.pod.cluster.local", ip(10, 244, 1, 7)),
            ("example.com", ip(203, 0, 113, 10)),
        ] {
            assert_eq!(resolve(name, &Fixed), answer, "{name}");
        }
    }

    #[test]
    fn missing_names_differ_from_empty_ones() {
        for (name, answer) in [
            ("cluster.local", Answer::NoData),
            ("svc.cluster.local", Answer::NoData),
            ("default.svc.cluster.local", Answer::NoData),
            ("other.svc.cluster.local", Answer::NoName),
            ("xwing.default.svc.cluster.local", Answer::NoName),
            ("deathstar.default", Answer::NoName),
            ("example.com.default.svc.cluster.local", Answer::NoName),
            ("a-b.default.pod.cluster.local", Answer::NoName),
            ("notcluster.local", Answer::NoName),
        ] {
            assert_eq!(resolve(name, &Fixed), answer, "{name}");
        }
    }

    #[test]
    fn hosts_files_have_comments_and_several_names() {
        let text = "# outside\n203.0.113.10 example.com www.example.com # two\nnonsense x\n\n";
        let found: Vec<_> = world_hosts(text).collect();
        let at = Ipv4Addr::new(203, 0, 113, 10);
        assert_eq!(found, [(at, "example.com"), (at, "www.example.com")]);
    }
}
