//! Who is at an address.

use std::net::{IpAddr, Ipv4Addr};

use weft_api::hubble::flow::{Endpoint, Ip, IpVersion, Service, Workload};

use crate::view::{AddressInfo, View};

/// The pod, node or network at an address. `identity` is what the reporter
/// judged by, 0 when it did not know.
pub(super) fn endpoint(view: &View, address: IpAddr, identity: u32) -> Endpoint {
    let v4 = ipv4(address);
    let found = v4.and_then(|v4| view.address(v4));
    let identity = match (identity, v4) {
        (0, Some(v4)) => view.identity_of(v4),
        (identity, _) => identity,
    };
    match found.filter(|info| !info.pod.is_empty()) {
        Some(pod) => pod_endpoint(view, pod, identity),
        None => Endpoint {
            identity,
            labels: view.labels(identity).to_vec(),
            ..Endpoint::default()
        },
    }
}

fn pod_endpoint(view: &View, pod: &AddressInfo, identity: u32) -> Endpoint {
    // When the pod was relabelled since, the flow shows what was judged.
    let labels = if identity == pod.identity {
        pod.labels.to_vec()
    } else {
        view.labels(identity).to_vec()
    };
    let workload = |workload: &crate::view::Workload| Workload {
        name: workload.name.clone(),
        kind: workload.kind.clone(),
    };
    Endpoint {
        id: pod.endpoint_id,
        identity,
        cluster_name: view.node.cluster.clone(),
        namespace: pod.namespace.clone(),
        labels,
        pod_name: pod.pod.clone(),
        workloads: pod.workloads.iter().map(workload).collect(),
    }
}

/// The Service whose address this is.
pub(super) fn service(view: &View, address: IpAddr, port: u16, protocol: u8) -> Option<Service> {
    let service = view.service(ipv4(address)?, port, protocol)?;
    Some(Service {
        name: service.name.clone(),
        namespace: service.namespace.clone(),
    })
}

/// The IP layer.
pub(super) fn ip(source: IpAddr, destination: IpAddr) -> Ip {
    let version = if source.is_ipv4() {
        IpVersion::IPv4
    } else {
        IpVersion::IPv6
    };
    Ip {
        source: source.to_string(),
        destination: destination.to_string(),
        ip_version: version.into(),
        ..Ip::default()
    }
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
