//! From filter flags to the protocol's filters.
//!
//! A flag without a direction (`--pod x`) means "from or to": the result is
//! two filters, one of which must match. All flags together fill one such pair
//! for what is wanted and one for what is not.

use clap::ArgMatches;
use weft_api::hubble::flow::{
    DropReason, EventTypeFilter, FlowFilter, HttpHeader, IpVersion, NetworkInterface, TcpFlags,
    TrafficDirection, Verdict, Workload, flow_filter,
};
use weft_api::hubble::json;
use weft_api::hubble::names::{TRACE_POINTS, event};
use weft_api::hubble::observer::GetFlowsRequest;
use weft_core::model::NumericIdentity;

use super::flags::{FILTERS, FilterFlag};
use crate::Error;

/// Flags that would contradict each other or whose combination would not mean
/// what it says.
#[rustfmt::skip]
const CONFLICTS: &[&[&str]] = &[
    &["from-fqdn", "from-ip", "ip", "fqdn", "from-namespace", "namespace", "from-all-namespaces", "all-namespaces"],
    &["from-fqdn", "from-ip", "ip", "fqdn", "from-pod", "pod"],
    &["to-fqdn", "to-ip", "ip", "fqdn", "to-namespace", "namespace", "to-all-namespaces", "all-namespaces"],
    &["to-fqdn", "to-ip", "ip", "fqdn", "to-pod", "pod"],
    &["to-pod", "namespace", "all-namespaces"],
    &["from-pod", "namespace", "all-namespaces"],
    &["to-service", "namespace", "all-namespaces"],
    &["from-service", "namespace", "all-namespaces"],
    &["label", "from-label"],
    &["label", "to-label"],
    &["service", "from-service"],
    &["service", "to-service"],
    &["port", "to-port"],
    &["port", "from-port"],
    &["identity", "to-identity"],
    &["identity", "from-identity"],
    &["workload", "to-workload"],
    &["workload", "from-workload"],
    &["encrypted", "unencrypted"],
];

/// The allow list and the deny list.
pub(super) fn lists(matches: &ArgMatches) -> Result<(Vec<FlowFilter>, Vec<FlowFilter>), Error> {
    let (mut wanted, mut unwanted) = (Pair::default(), Pair::default());
    let mut reversed = false;
    for (flag, value) in in_order(matches) {
        if flag.name == "not" {
            if reversed {
                return Err(bad(flag, value, "consecutive --not statements"));
            }
            reversed = true;
            continue;
        }
        let pair = if reversed { &mut unwanted } else { &mut wanted };
        reversed = false;
        pair.add(flag.name, value)
            .map_err(|reason| bad(flag, value, &reason))?;
    }
    if reversed {
        return Err(Error::usage("trailing --not found in the arguments"));
    }
    let mut allow = wanted.filters();
    let mut deny = unwanted.filters();
    allow.extend(from_json(matches, "allowlist")?);
    deny.extend(from_json(matches, "denylist")?);
    Ok((allow, deny))
}

fn bad(flag: &FilterFlag, value: &str, reason: &str) -> Error {
    let short = flag
        .short
        .map(|short| format!("-{short}, "))
        .unwrap_or_default();
    Error::usage(format!(
        "invalid argument {value:?} for \"{short}--{}\" flag: {reason}",
        flag.name
    ))
}

/// Every filter flag with its value, as the user ordered them.
fn in_order(matches: &ArgMatches) -> Vec<(&'static FilterFlag, &str)> {
    let mut found = Vec::new();
    for flag in FILTERS {
        let values = matches.get_many::<String>(flag.name).into_iter().flatten();
        let places = matches.indices_of(flag.name).into_iter().flatten();
        found.extend(
            places
                .zip(values)
                .map(|(place, value)| (place, flag, value.as_str())),
        );
    }
    found.sort_by_key(|(place, _, _)| *place);
    found
        .into_iter()
        .map(|(_, flag, value)| (flag, value))
        .collect()
}

fn from_json(matches: &ArgMatches, name: &str) -> Result<Vec<FlowFilter>, Error> {
    let mut filters = Vec::new();
    for text in matches.get_many::<String>(name).into_iter().flatten() {
        for filter in serde_json::Deserializer::from_str(text).into_iter::<FlowFilter>() {
            filters.push(filter.map_err(|error| {
                Error::usage(format!(
                    "invalid --{name} flag: failed to decode '{text}': {error}"
                ))
            })?);
        }
    }
    Ok(filters)
}

/// Both lists as YAML whose strings are JSON, for a configuration file.
pub(super) fn raw(request: &GetFlowsRequest) -> Result<String, Error> {
    let mut out = String::new();
    for (name, filters) in [
        ("allowlist", &request.whitelist),
        ("denylist", &request.blacklist),
    ] {
        if filters.is_empty() {
            continue;
        }
        out.push_str(&format!("{name}:\n"));
        for filter in filters {
            let quoted = json::message(filter)?.replace('\'', "''");
            out.push_str(&format!("    - '{quoted}'\n"));
        }
    }
    Ok(if out.is_empty() {
        "{}\n".to_owned()
    } else {
        out
    })
}

/// Which end of a flow a flag speaks of.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Source,
    Destination,
}

#[derive(Default)]
struct Pair {
    used: Vec<String>,
    touched: bool,
    left: FlowFilter,
    right: FlowFilter,
    namespaces: Vec<String>,
    source_namespaces: Vec<String>,
    destination_namespaces: Vec<String>,
}

impl Pair {
    fn add(&mut self, name: &str, value: &str) -> Result<(), String> {
        if !self.used.iter().any(|used| used == name) {
            self.used.push(name.to_owned());
        }
        self.check_conflicts()?;
        if !self.namespace(name, value) {
            self.touched = true;
            self.field(name, value)?;
        }
        self.check_namespaces(&self.left)?;
        self.check_namespaces(&self.right)
    }

    fn check_conflicts(&self) -> Result<(), String> {
        let used = |name: &&&str| self.used.iter().any(|used| used == **name);
        for group in CONFLICTS {
            let mut present = group.iter().filter(used);
            if let (Some(one), Some(other)) = (present.next(), present.next()) {
                return Err(format!("filters --{one} and --{other} cannot be combined"));
            }
        }
        Ok(())
    }

    fn namespace(&mut self, name: &str, value: &str) -> bool {
        let list = match name {
            "namespace" | "all-namespaces" => &mut self.namespaces,
            "from-namespace" | "from-all-namespaces" => &mut self.source_namespaces,
            "to-namespace" | "to-all-namespaces" => &mut self.destination_namespaces,
            _ => return false,
        };
        let any = name.ends_with("all-namespaces");
        list.push(if any { String::new() } else { value.to_owned() });
        true
    }

    fn field(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let Some(field) = name.strip_prefix("from-").filter(|field| is_end(field)) {
            end_field(&mut self.left, End::Source, field, value)?;
            return end_field(&mut self.right, End::Source, field, value);
        }
        if let Some(field) = name.strip_prefix("to-").filter(|field| is_end(field)) {
            end_field(&mut self.left, End::Destination, field, value)?;
            return end_field(&mut self.right, End::Destination, field, value);
        }
        if is_end(name) {
            end_field(&mut self.left, End::Source, name, value)?;
            return end_field(&mut self.right, End::Destination, name, value);
        }
        flow_field(&mut self.left, name, value)?;
        flow_field(&mut self.right, name, value)
    }

    fn check_namespaces(&self, filter: &FlowFilter) -> Result<(), String> {
        let source = [&filter.source_pod, &filter.source_service];
        let destination = [&filter.destination_pod, &filter.destination_service];
        for (namespaces, lists) in [
            (&self.namespaces, source),
            (&self.namespaces, destination),
            (&self.source_namespaces, source),
            (&self.destination_namespaces, destination),
        ] {
            for name in lists.into_iter().flatten() {
                let own = name.split_once('/').map_or("", |(namespace, _)| namespace);
                if let Some(other) = namespaces
                    .iter()
                    .find(|other| !own.is_empty() && *other != own)
                {
                    return Err(format!(
                        "namespace conflict: {other:?} does not contain {name:?}"
                    ));
                }
            }
        }
        one_namespace(&filter.source_pod, &filter.source_service)?;
        one_namespace(&filter.destination_pod, &filter.destination_service)
    }

    fn filters(mut self) -> Vec<FlowFilter> {
        let all = [
            &self.namespaces,
            &self.source_namespaces,
            &self.destination_namespaces,
        ];
        if !self.touched && all.iter().all(|list| list.is_empty()) {
            return Vec::new();
        }
        for filter in [&mut self.left, &mut self.right] {
            qualify(filter, End::Destination, &self.destination_namespaces);
            qualify(filter, End::Source, &self.source_namespaces);
        }
        qualify(&mut self.left, End::Source, &self.namespaces);
        qualify(&mut self.right, End::Destination, &self.namespaces);
        if self.left == self.right {
            vec![self.left]
        } else {
            vec![self.left, self.right]
        }
    }
}

/// A pod and a service of one filter must be able to be in one namespace.
fn one_namespace(pods: &[String], services: &[String]) -> Result<(), String> {
    let of = |name: &str| {
        name.split_once('/')
            .map_or_else(String::new, |(ns, _)| ns.to_owned())
    };
    for pod in pods
        .iter()
        .map(|pod| of(pod))
        .filter(|namespace| !namespace.is_empty())
    {
        if let Some(service) = services.iter().find(|service| of(service) != pod) {
            return Err(format!(
                "namespace of service {service:?} conflict with pod {pod:?}"
            ));
        }
    }
    Ok(())
}

/// Puts names that have no namespace into each of these.
fn qualify(filter: &mut FlowFilter, end: End, namespaces: &[String]) {
    if namespaces.is_empty() {
        return;
    }
    let (pods, services) = match end {
        End::Source => (&mut filter.source_pod, &mut filter.source_service),
        End::Destination => (&mut filter.destination_pod, &mut filter.destination_service),
    };
    if pods.is_empty() && services.is_empty() {
        pods.push(String::new());
    }
    for names in [pods, services] {
        let qualified = names.drain(..).flat_map(|name| {
            if name.contains('/') {
                return vec![name];
            }
            namespaces
                .iter()
                .map(|namespace| format!("{namespace}/{name}"))
                .collect()
        });
        *names = qualified.collect();
    }
}

fn is_end(field: &str) -> bool {
    matches!(
        field,
        "fqdn" | "pod" | "ip" | "label" | "service" | "port" | "workload" | "identity" | "cluster"
    )
}

fn end_field(filter: &mut FlowFilter, end: End, field: &str, value: &str) -> Result<(), String> {
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

fn flow_field(filter: &mut FlowFilter, name: &str, value: &str) -> Result<(), String> {
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
            let verdict = verdict.ok_or_else(|| format!("invalid --verdict value: {value}"))?;
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
