//! Requests and responses that the proxy saw.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use weft_api::hubble::flow::{
    CiliumEventType, Flow, FlowType, Http, HttpHeader, L7FlowType, Layer4, Layer7, Policy,
    TraceContext, TraceParent, TrafficDirection, Verdict, layer7,
};
use weft_api::hubble::names::event as types;
use weft_api::node::{self, Peer, Record, RecordKind, RuleRef};
use weft_core::model::Direction;
use weft_datapath::DropReason;

use super::packet::{ported, protocol};
use super::{base, ends, policy, set_drop_reason, summary};
use crate::plan::rule_ref;
use crate::view::View;

pub(super) fn flow(record: &Record, view: &View) -> Flow {
    let no_peer = Peer::default();
    let source = record.source.as_ref().unwrap_or(&no_peer);
    let destination = record.destination.as_ref().unwrap_or(&no_peer);
    let (source_ip, destination_ip) = (address(source), address(destination));
    let (source_port, destination_port) = (port(source), port(destination));
    let service = |address, port| ends::service(view, address, port, protocol::TCP);
    let response = record.kind() == RecordKind::Response;
    let direction = match record.direction() {
        node::Direction::Ingress => TrafficDirection::Ingress,
        node::Direction::Egress => TrafficDirection::Egress,
        node::Direction::Unspecified => TrafficDirection::Unknown,
    };
    let l4 = ported(protocol::TCP, source_port, destination_port, None);
    let mut flow = Flow {
        verdict: verdict(record).into(),
        ip: Some(ends::ip(source_ip, destination_ip)),
        l4: l4.map(|protocol| Layer4 {
            protocol: Some(protocol),
        }),
        source: Some(ends::endpoint(view, source_ip, source.identity)),
        destination: Some(ends::endpoint(view, destination_ip, destination.identity)),
        r#type: FlowType::L7.into(),
        l7: Some(layer7(record, response)),
        reply: response,
        is_reply: Some(response),
        event_type: Some(CiliumEventType {
            r#type: types::L7,
            sub_type: 0,
        }),
        source_service: service(source_ip, source_port),
        destination_service: service(destination_ip, destination_port),
        traffic_direction: direction.into(),
        proxy_port: record.proxy_port,
        trace_context: (!record.trace_id.is_empty()).then(|| TraceContext {
            parent: Some(TraceParent {
                trace_id: record.trace_id.clone(),
            }),
        }),
        summary: summary::record(record),
        ..base(view, record.time.unwrap_or_default().into())
    };
    decided(&mut flow, record, view, direction);
    flow
}

fn verdict(record: &Record) -> Verdict {
    match record.verdict() {
        node::Verdict::Forwarded => Verdict::Forwarded,
        node::Verdict::Dropped => Verdict::Dropped,
        node::Verdict::Error => Verdict::Error,
        node::Verdict::Unspecified => Verdict::Unknown,
    }
}

fn layer7(record: &Record, response: bool) -> Layer7 {
    let kind = match record.kind() {
        RecordKind::Request => L7FlowType::Request,
        RecordKind::Response => L7FlowType::Response,
        RecordKind::Unspecified => L7FlowType::UnknownL7Type,
    };
    let http = record.http.as_ref().map(|http| Http {
        code: http.code,
        method: http.method.clone(),
        url: http.url.clone(),
        protocol: http.protocol.clone(),
        headers: http.headers.iter().map(header).collect(),
    });
    Layer7 {
        r#type: kind.into(),
        latency_ns: if response { record.latency_ns } else { 0 },
        record: http.map(layer7::Record::Http),
    }
}

fn header(header: &node::Header) -> HttpHeader {
    HttpHeader {
        key: header.key.clone(),
        value: header.value.clone(),
    }
}

/// Which policy allowed or denied. A refusal that was not a policy's doing has
/// its reason in the summary instead.
fn decided(flow: &mut Flow, record: &Record, view: &View, direction: TrafficDirection) {
    let denied = flow.verdict == i32::from(Verdict::Dropped);
    if denied && let Some(filter) = filter(record) {
        // Policy had let it pass.
        let by = policy(&filter, view.revision);
        match direction {
            TrafficDirection::Ingress => flow.ingress_denied_by.push(by),
            TrafficDirection::Egress => flow.egress_denied_by.push(by),
            TrafficDirection::Unknown => {}
        }
        return;
    }
    if denied && record.reason.is_empty() {
        set_drop_reason(flow, DropReason::PolicyDenied.code());
    }
    let judged: Vec<RuleRef>;
    let rules: &[RuleRef] = match &record.rule {
        Some(rule) => std::slice::from_ref(rule),
        // None allowed it: all that could have are the reason.
        None if denied && record.reason.is_empty() => {
            judged = judges(record, view);
            &judged
        }
        None => return,
    };
    let list = match (direction, denied) {
        (TrafficDirection::Ingress, false) => &mut flow.ingress_allowed_by,
        (TrafficDirection::Ingress, true) => &mut flow.ingress_denied_by,
        (TrafficDirection::Egress, false) => &mut flow.egress_allowed_by,
        (TrafficDirection::Egress, true) => &mut flow.egress_denied_by,
        (TrafficDirection::Unknown, _) => return,
    };
    for rule in rules {
        let own = policy(rule, view.revision);
        // Once for each object, whatever the number of its rules.
        let same = |other: &Policy| {
            (&other.kind, &other.namespace, &other.name) == (&own.kind, &own.namespace, &own.name)
        };
        if !list.iter().any(same) {
            list.push(own);
        }
    }
}

/// The filter that decided, as flows name what decides.
fn filter(record: &Record) -> Option<RuleRef> {
    let (object, _reason) = match record.filter.split_once(": ") {
        Some(both) => both,
        None => (record.filter.as_str(), ""),
    };
    let (kind, name) = object.split_once(' ')?;
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Some(RuleRef {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        rule: String::new(),
    })
}

/// The rules about requests of this peer at this port, one of each object.
fn judges(record: &Record, view: &View) -> Vec<RuleRef> {
    let (Some(source), Some(destination)) = (&record.source, &record.destination) else {
        return Vec::new();
    };
    let (direction, own, other) = match record.direction() {
        node::Direction::Ingress => (Direction::Ingress, destination, source),
        node::Direction::Egress => (Direction::Egress, source, destination),
        node::Direction::Unspecified => return Vec::new(),
    };
    let IpAddr::V4(ip) = address(own) else {
        return Vec::new();
    };
    let endpoint = view.address(ip).map_or(0, |info| info.endpoint_id);
    let mut seen = HashSet::new();
    view.http
        .rules(endpoint, direction, port(destination), other.identity)
        .filter(|rule| seen.insert((&rule.kind, &rule.namespace, &rule.name)))
        .map(rule_ref)
        .collect()
}

fn address(peer: &Peer) -> IpAddr {
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    peer.ip.parse().unwrap_or(unknown)
}

fn port(peer: &Peer) -> u16 {
    u16::try_from(peer.port).unwrap_or(0)
}
