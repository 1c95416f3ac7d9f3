//! What each filter flag sets in the protocol's filter.

use weft_api::hubble::flow::{
    DropReason, EventTypeFilter, FlowFilter, HttpHeader, IpVersion, NetworkInterface, TcpFlags,
    TrafficDirection, Verdict, Workload, flow_filter,
};
use weft_api::hubble::names::{TRACE_POINTS, event};
use weft_core::model::NumericIdentity;

/// Which end of a flow a flag speaks of.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum End {
    Source,
    Destination,
}

/// Whether the flag exists for both ends (`--pod`, `--from-pod`, `--to-pod`).
pub(super) fn is_end(field: &str) -> bool {
    matches!(
        field,
        "fqdn" | "pod" | "ip" | "label" | "service" | "port" | "workload" | "identity" | "cluster"
    )
}

pub(super) fn end_field(
    filter: &mut FlowFilter,
    end: End,
    field: &str,
    value: &str,
) -> Result<(), String> {
    let source = end == End::Source;
    let either = |source_list, destination_list| {
        if source {
            source_list
        } else {
            destination_list
        }
    };
    match field {
        "workload" => {
            let list = if source {
                &mut filter.source_workload
            } else {
                &mut filter.destination_workload
            };
            list.push(workload(value));
        }
        "identity" => {
            let list = if source {
                &mut filter.source_identity
            } else {
                &mut filter.destination_identity
            };
            list.push(identity(value)?);
        }
        _ => {
            let list: &mut Vec<String> = match field {
                "fqdn" => either(&mut filter.source_fqdn, &mut filter.destination_fqdn),
                "pod" => either(&mut filter.source_pod, &mut filter.destination_pod),
                "ip" => either(&mut filter.source_ip, &mut filter.destination_ip),
                "label" => either(&mut filter.source_label, &mut filter.destination_label),
                "service" => either(&mut filter.source_service, &mut filter.destination_service),
                "port" => either(&mut filter.source_port, &mut filter.destination_port),
                _ => either(
                    &mut filter.source_cluster_name,
                    &mut filter.destination_cluster_name,
                ),
            };
            list.push(value.to_owned());
        }
    }
    Ok(())
}

fn workload(value: &str) -> Workload {
    let (kind, name) = value.split_once('/').unwrap_or(("", value));
    Workload {
        name: name.to_owned(),
        kind: kind.to_owned(),
    }
}

/// The names of all verdicts.
fn verdicts() -> String {
    let all = (1..).map_while(|number| Verdict::try_from(number).ok());
    let names: Vec<_> = all.map(|verdict| verdict.as_str_name()).collect();
    names.join(" ")
}

fn identity(value: &str) -> Result<u32, String> {
    let mut reserved = NumericIdentity::RESERVED.iter().filter(|(id, _)| id.0 != 0);
    if let Some((id, _)) = reserved.find(|(_, name)| *name == value) {
        return Ok(id.0);
    }
    value.parse().map_err(|_| {
        let names = NumericIdentity::RESERVED.iter().map(|(_, name)| *name);
        let names = names.skip(1).collect::<Vec<_>>().join(" ");
        format!("invalid security identity, expected one of [{names}] or a numeric value")
    })
}

pub(super) fn flow_field(filter: &mut FlowFilter, name: &str, value: &str) -> Result<(), String> {
    let text = value.to_owned();
    match name {
        "uuid" => filter.uuid.push(text),
        "snat-ip" => filter.source_ip_xlated.push(text),
        "ipv4" => filter.ip_version.push(IpVersion::IPv4.into()),
        "ipv6" => filter.ip_version.push(IpVersion::IPv6.into()),
        "ip-version" => filter.ip_version.push(ip_version(value).into()),
        "trace-id" => filter.trace_id.push(text),
        "ip-trace-id" => filter.ip_trace_id.push(ip_trace_id(value)?),
        "verdict" => {
            let verdict = Verdict::from_str_name(value);
            let verdict = verdict.ok_or_else(|| {
                format!(
                    "invalid --verdict value: {value}, expected one of [{}]",
                    verdicts()
                )
            })?;
            filter.verdict.push(verdict.into());
        }
        "drop-reason-desc" => {
            let reason = DropReason::from_str_name(value);
            let reason =
                reason.ok_or_else(|| format!("invalid --drop-reason-desc value: {value}"))?;
            filter.drop_reason_desc.push(reason.into());
        }
        "http-status" => filter.http_status_code.push(text),
        "http-method" => filter.http_method.push(text),
        "http-path" => filter.http_path.push(text),
        "http-url" => filter.http_url.push(text),
        "http-header" => {
            let (key, value) = value.split_once(':').ok_or_else(|| {
                format!("invalid http-header value {value:?}, expected name:value")
            })?;
            let (key, value) = (key.to_owned(), value.to_owned());
            filter.http_header.push(HttpHeader { key, value });
        }
        "type" => filter.event_type.push(event_type(value)?),
        "protocol" => filter.protocol.push(text),
        "node-name" => filter.node_name.push(text),
        "node-label" => filter.node_labels.push(text),
        "tcp-flags" => filter.tcp_flags.push(tcp_flags(value)?),
        "traffic-direction" => filter.traffic_direction.push(direction(value)?.into()),
        "cel-expression" => {
            let experimental = filter
                .experimental
                .get_or_insert_with(flow_filter::Experimental::default);
            experimental.cel_expression.push(text);
        }
        "interface" => filter.interface.push(NetworkInterface {
            index: 0,
            name: text,
        }),
        "encrypted" => filter.encrypted.push(true),
        "unencrypted" => filter.encrypted.push(false),
        _ => return Err("unknown filter".to_owned()),
    }
    Ok(())
}

fn ip_version(value: &str) -> IpVersion {
    match value.to_ascii_lowercase().as_str() {
        "4" | "v4" | "ipv4" | "ip4" => IpVersion::IPv4,
        "6" | "v6" | "ipv6" | "ip6" => IpVersion::IPv6,
        _ => IpVersion::IpNotUsed,
    }
}

fn ip_trace_id(value: &str) -> Result<u64, String> {
    match value.parse() {
        Ok(0) => Err("invalid --ip-trace-id value; must be greater than 0".to_owned()),
        Ok(id) => Ok(id),
        Err(error) => Err(format!("invalid --ip-trace-id value: {error}")),
    }
}

fn direction(value: &str) -> Result<TrafficDirection, String> {
    match value.to_ascii_lowercase().as_str() {
        "ingress" => Ok(TrafficDirection::Ingress),
        "egress" => Ok(TrafficDirection::Egress),
        other => Err(format!(
            "{other}: invalid traffic direction, expected ingress or egress"
        )),
    }
}

/// `TYPE[:SUBTYPE]`, by name or number.
fn event_type(value: &str) -> Result<EventTypeFilter, String> {
    let (name, sub_name) = value
        .split_once(':')
        .map_or((value, None), |(n, s)| (n, Some(s)));
    let known = event::NAMES.iter().find(|(known, _)| *known == name);
    let r#type = match known {
        Some((_, number)) => *number,
        None => name.parse().map_err(|_| {
            format!("unable to parse type '{name}', not a known type name and unable to parse as numeric value")
        })?,
    };
    let Some(sub_name) = sub_name else {
        return Ok(EventTypeFilter {
            r#type,
            ..EventTypeFilter::default()
        });
    };
    let point = TRACE_POINTS
        .iter()
        .find(|(_, known)| r#type == event::TRACE && *known == sub_name);
    let sub_type = match point {
        Some((number, _)) => *number,
        None => sub_name.parse().map_err(|_| {
            format!("unable to parse event sub-type '{sub_name}', not a known sub-type name and unable to parse as numeric value")
        })?,
    };
    Ok(EventTypeFilter {
        r#type,
        match_sub_type: true,
        sub_type,
    })
}

fn tcp_flags(value: &str) -> Result<TcpFlags, String> {
    let mut flags = TcpFlags::default();
    for name in value.split(',') {
        let flag = match name.to_ascii_uppercase().as_str() {
            "SYN" => &mut flags.syn,
            "FIN" => &mut flags.fin,
            "RST" => &mut flags.rst,
            "PSH" => &mut flags.psh,
            "ACK" => &mut flags.ack,
            "URG" => &mut flags.urg,
            "ECE" => &mut flags.ece,
            "CWR" => &mut flags.cwr,
            "NS" => &mut flags.ns,
            _ => return Err(format!("unknown tcp flag: {name}")),
        };
        *flag = true;
    }
    Ok(flags)
}
