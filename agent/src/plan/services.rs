//! Services to load-balancer frontends: what the datapath translates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use weft_core::model::Protocol;

use crate::state::{ClusterState, ObjectKey};

/// Address, port and protocol that pods dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The service's address.
    pub ip: Ipv4Addr,
    /// Port, host order.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// What is behind a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The service.
    pub service: ObjectKey,
    /// Ready backends, sorted; empty means that connections are refused.
    pub backends: Vec<SocketAddrV4>,
}

/// Every frontend of the cluster. A port takes the backends of the slice ports
/// that carry its name, so a service's ports never mix.
pub fn frontends(state: &ClusterState) -> BTreeMap<Frontend, ServiceEntry> {
    let mut backends: BTreeMap<(ObjectKey, &str, Protocol), BTreeSet<SocketAddrV4>> =
        BTreeMap::new();
    for slice in state.slices.values() {
        let service = ObjectKey::new(&slice.key.namespace, &slice.service);
        for port in &slice.ports {
            let ready = slice.backends.iter().filter(|backend| backend.ready);
            backends
                .entry((service.clone(), &port.name, port.protocol))
                .or_default()
                .extend(ready.map(|backend| SocketAddrV4::new(backend.ip, port.port)));
        }
    }
    let mut result = BTreeMap::new();
    for service in state.services.values() {
        for ip in &service.cluster_ips {
            for port in &service.ports {
                let key = (service.key.clone(), port.name.as_str(), port.protocol);
                let found = backends.get(&key).into_iter().flatten().copied().collect();
                result.insert(
                    Frontend {
                        ip: *ip,
                        port: port.port,
                        protocol: port.protocol,
                    },
                    ServiceEntry {
                        service: service.key.clone(),
                        backends: found,
                    },
                );
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Backend, Change, Delta, EndpointSlice, Service, ServicePort, SlicePort};

    fn service() -> Service {
        Service {
            key: ObjectKey::new("default", "web"),
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 50)],
            ports: [("http", 80), ("admin", 81)]
                .map(|(name, port)| ServicePort {
                    name: name.into(),
                    port,
                    protocol: Protocol::Tcp,
                })
                .into(),
            labels: BTreeMap::new(),
        }
    }

    fn slice(name: &str, port: u16, backends: &[(u8, bool)]) -> EndpointSlice {
        EndpointSlice {
            key: ObjectKey::new("default", format!("web-{name}-{port}")),
            service: "web".into(),
            ports: vec![SlicePort {
                name: name.into(),
                port,
                protocol: Protocol::Tcp,
            }],
            backends: backends
                .iter()
                .map(|(last, ready)| Backend {
                    ip: Ipv4Addr::new(10, 244, 1, *last),
                    ready: *ready,
                })
                .collect(),
        }
    }

    fn frontend(port: u16) -> Frontend {
        Frontend {
            ip: Ipv4Addr::new(10, 96, 0, 50),
            port,
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn ports_of_one_service_do_not_mix_and_unready_backends_are_left_out() {
        let mut state = ClusterState::default();
        state.apply(Change::Services(Delta::Replace(vec![service()])));
        state.apply(Change::Slices(Delta::Replace(vec![
            slice("http", 8080, &[(10, true), (11, false)]),
            slice("admin", 9090, &[(10, true)]),
        ])));
        let all = frontends(&state);
        let of = |port| {
            all[&frontend(port)]
                .backends
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(80), ["10.244.1.10:8080"]);
        assert_eq!(of(81), ["10.244.1.10:9090"]);
    }

    #[test]
    fn a_service_without_backends_still_has_its_frontend() {
        let mut state = ClusterState::default();
        state.apply(Change::Services(Delta::Replace(vec![service()])));
        assert!(frontends(&state)[&frontend(80)].backends.is_empty());
    }

    #[test]
    fn several_slices_of_one_port_are_merged() {
        let mut state = ClusterState::default();
        state.apply(Change::Services(Delta::Replace(vec![service()])));
        let mut second = slice("http", 8080, &[(12, true), (10, true)]);
        second.key.name = "other".into();
        state.apply(Change::Slices(Delta::Replace(vec![
            slice("http", 8080, &[(10, true)]),
            second,
        ])));
        assert_eq!(frontends(&state)[&frontend(80)].backends.len(), 2);
    }
}
