//! Conditions on the two ends of a flow. Each exists for the source and for
//! the destination.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::flow::layer4::Protocol as L4;
use super::super::flow::{Endpoint, Flow, FlowFilter, Ip, Workload};
use super::pattern::Fqdn;
use super::selector::any_selector;
use super::{Condition, FilterError, when_any};

pub(super) fn compile(filter: &FlowFilter, out: &mut Vec<Condition>) -> Result<(), FilterError> {
    addresses(&filter.source_ip, |ip| &ip.source, out)?;
    addresses(&filter.destination_ip, |ip| &ip.destination, out)?;
    addresses(&filter.source_ip_xlated, |ip| &ip.source_xlated, out)?;
    names(&filter.source_pod, |f| pod(f.source.as_ref()?), out)?;
    names(
        &filter.destination_pod,
        |f| pod(f.destination.as_ref()?),
        out,
    )?;
    let source_service: NameOf = |f| {
        let service = f.source_service.as_ref()?;
        Some((&service.namespace, &service.name))
    };
    names(&filter.source_service, source_service, out)
        .map_err(|error| error.within("invalid source service filter"))?;
    let destination_service: NameOf = |f| {
        let service = f.destination_service.as_ref()?;
        Some((&service.namespace, &service.name))
    };
    names(&filter.destination_service, destination_service, out)
        .map_err(|error| error.within("invalid destination service filter"))?;
    domains(&filter.source_fqdn, |f| &f.source_names, out)?;
    domains(&filter.destination_fqdn, |f| &f.destination_names, out)?;
    ports(&filter.source_port, |(source, _)| source, out)
        .map_err(|error| error.within("invalid source port filter"))?;
    ports(
        &filter.destination_port,
        |(_, destination)| destination,
        out,
    )
    .map_err(|error| error.within("invalid destination port filter"))?;
    let source: Side = |flow| flow.source.as_ref();
    endpoint_conditions(
        source,
        "source",
        &OneSide {
            identities: &filter.source_identity,
            workloads: &filter.source_workload,
            clusters: &filter.source_cluster_name,
            labels: &filter.source_label,
        },
        out,
    )?;
    endpoint_conditions(
        |flow| flow.destination.as_ref(),
        "destination",
        &OneSide {
            identities: &filter.destination_identity,
            workloads: &filter.destination_workload,
            clusters: &filter.destination_cluster_name,
            labels: &filter.destination_label,
        },
        out,
    )
}

type Side = fn(&Flow) -> Option<&Endpoint>;
type NameOf = fn(&Flow) -> Option<(&str, &str)>;

struct OneSide<'a> {
    identities: &'a [u32],
    workloads: &'a [Workload],
    clusters: &'a [String],
    labels: &'a [String],
}

fn endpoint_conditions(
    side: Side,
    name: &str,
    wanted: &OneSide<'_>,
    out: &mut Vec<Condition>,
) -> Result<(), FilterError> {
    when_any(out, wanted.identities, move |wanted, flow| {
        side(flow).is_some_and(|end| wanted.contains(&end.identity))
    });
    when_any(out, wanted.workloads, move |wanted, flow| {
        let own = side(flow).map_or(&[][..], |end| &end.workloads);
        own.iter()
            .any(|own| wanted.iter().any(|want| is_workload(want, own)))
    });
    if wanted.clusters.iter().any(String::is_empty) {
        return Err(FilterError::new("invalid filter, name must not be empty"));
    }
    when_any(out, wanted.clusters, move |wanted, flow| {
        let cluster = side(flow).map_or("", |end| end.cluster_name.as_str());
        wanted.iter().any(|want| want == cluster)
    });
    if !wanted.labels.is_empty() {
        let matches = any_selector(wanted.labels)
            .map_err(|error| error.within(&format!("invalid {name} label filter")))?;
        out.push(Box::new(move |flow| {
            matches(side(flow).map_or(&[][..], |end| &end.labels))
        }));
    }
    Ok(())
}

fn is_workload(want: &Workload, own: &Workload) -> bool {
    (want.name.is_empty() || want.name == own.name)
        && (want.kind.is_empty() || want.kind == own.kind)
}

fn pod(end: &Endpoint) -> Option<(&str, &str)> {
    Some((&end.namespace, &end.pod_name))
}

/// `[namespace/]prefix`: without a slash the namespace is `default`, an empty
/// part matches anything.
fn names(wanted: &[String], name_of: NameOf, out: &mut Vec<Condition>) -> Result<(), FilterError> {
    let mut parsed = Vec::new();
    for name in wanted {
        if name.is_empty() {
            return Err(FilterError::new("invalid filter, name must not be empty"));
        }
        let mut parts = name.split('/');
        let first = parts.next().unwrap_or_default();
        let (namespace, prefix) = parts
            .next()
            .map_or(("default", first), |rest| (first, rest));
        parsed.push((namespace.to_owned(), prefix.to_owned()));
    }
    when_any(out, &parsed, move |wanted, flow| {
        let (namespace, name) = name_of(flow).unwrap_or_default();
        let named = !namespace.is_empty() || !name.is_empty();
        named
            && wanted.iter().any(|(want, prefix)| {
                name.starts_with(prefix.as_str()) && (want.is_empty() || want == namespace)
            })
    });
    Ok(())
}

fn addresses(
    wanted: &[String],
    address_of: fn(&Ip) -> &str,
    out: &mut Vec<Condition>,
) -> Result<(), FilterError> {
    let mut nets = Vec::new();
    for text in wanted {
        let net = if text.contains('/') {
            text.parse::<IpNet>()
                .map_err(|_| FilterError::new(format!("invalid IP prefix {text:?} in filter")))?
        } else {
            text.parse::<IpAddr>()
                .map_err(|_| FilterError::new(format!("invalid IP address {text:?} in filter")))?
                .into()
        };
        nets.push(net);
    }
    when_any(out, &nets, move |nets, flow| {
        let address = flow.ip.as_ref().map_or("", |ip| address_of(ip));
        let parsed = address.parse::<IpAddr>();
        parsed.is_ok_and(|address| nets.iter().any(|net| net.contains(&address)))
    });
    Ok(())
}

fn domains(
    wanted: &[String],
    names_of: fn(&Flow) -> &Vec<String>,
    out: &mut Vec<Condition>,
) -> Result<(), FilterError> {
    let patterns: Vec<Fqdn> = wanted
        .iter()
        .map(|p| Fqdn::new(p))
        .collect::<Result<_, _>>()?;
    when_any(out, &patterns, move |patterns, flow| {
        let matches = |name: &String| patterns.iter().any(|pattern| pattern.matches(name));
        names_of(flow).iter().any(matches)
    });
    Ok(())
}

fn ports(
    wanted: &[String],
    which: fn((u32, u32)) -> u32,
    out: &mut Vec<Condition>,
) -> Result<(), FilterError> {
    let mut numbers = Vec::new();
    for text in wanted {
        let port = text.parse::<u16>();
        let port = port.map_err(|_| FilterError::new(format!("invalid port {text:?}")))?;
        numbers.push(u32::from(port));
    }
    when_any(out, &numbers, move |numbers, flow| {
        ports_of(flow).is_some_and(|both| numbers.contains(&which(both)))
    });
    Ok(())
}

fn ports_of(flow: &Flow) -> Option<(u32, u32)> {
    match flow.l4.as_ref()?.protocol.as_ref()? {
        L4::Tcp(l4) => Some((l4.source_port, l4.destination_port)),
        L4::Udp(l4) => Some((l4.source_port, l4.destination_port)),
        L4::Sctp(l4) => Some((l4.source_port, l4.destination_port)),
        _ => None,
    }
}
