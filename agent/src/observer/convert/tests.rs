use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, UNIX_EPOCH};

use weft_api::hubble::flow::layer4::Protocol;
use weft_api::hubble::flow::{
    DropReason as Name, Endpoint, FlowType, SocketTranslationPoint, TraceObservationPoint,
    TrafficDirection, Verdict,
};
use weft_api::hubble::names;
use weft_api::node::Record;
use weft_datapath::{Action, Direction, DropReason, EventKind, MatchType, TracePoint, XlatePoint};

use super::*;
use crate::observer::testing::{DEATHSTAR, NODE, RULE, SERVICE, TIEFIGHTER, WORLD, XWING, view};

mod records;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const FIN: u8 = 0x01;
const STAR: &str = "default/deathstar-7d9c5f6b4-t8xzp";

fn event(kind: EventKind, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Event {
    Event {
        time: UNIX_EPOCH + Duration::from_millis(1_741_963_079_855),
        kind,
        direction: Direction::Egress,
        endpoint: 301,
        src: from.0.into(),
        dst: to.0.into(),
        src_port: from.1,
        dst_port: to.1,
        protocol: 6,
        tcp_flags: 0,
        icmp: None,
        src_identity: 0,
        dst_identity: 0,
        rule: 0,
        proxy_port: 0,
        ifindex: 7,
        reply: Some(false),
        service: None,
    }
}

fn trace(point: TracePoint, tcp_flags: u8) -> Event {
    Event {
        tcp_flags,
        ..event(EventKind::Trace(point), (XWING, 51_382), (DEATHSTAR, 80))
    }
}

fn converted(event: &Event) -> Flow {
    let handle = ViewHandle::default();
    handle.store(view("kind-worker"));
    Converter::new(handle).event(event)
}

fn recorded(record: &Record) -> Flow {
    let handle = ViewHandle::default();
    handle.store(view("kind-worker"));
    Converter::new(handle).record(record)
}

/// The compact line that clients print, without time: written down here once
/// more, so that a change on either side shows.
fn line(flow: &Flow) -> String {
    let end = |end: &Option<Endpoint>,
               service: &Option<weft_api::hubble::flow::Service>,
               ip: &str,
               port: u32| {
        let end = end.clone().unwrap_or_default();
        let host = match (end.pod_name.as_str(), service) {
            ("", Some(service)) => format!("{}/{}", service.namespace, service.name),
            ("", None) => ip.to_owned(),
            (pod, _) => format!("{}/{pod}", end.namespace),
        };
        let port = if port == 0 {
            String::new()
        } else {
            format!(":{port}")
        };
        let identity = match end.identity {
            1 => "(host)".to_owned(),
            2 => "(world)".to_owned(),
            id => format!("(ID:{id})"),
        };
        format!("{host}{port} {identity}")
    };
    let ip = flow.ip.clone().unwrap_or_default();
    let (sport, dport) = match flow.l4.as_ref().and_then(|l4| l4.protocol.clone()) {
        Some(Protocol::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
        Some(Protocol::Udp(udp)) => (udp.source_port, udp.destination_port),
        _ => (0, 0),
    };
    let source = end(&flow.source, &flow.source_service, &ip.source, sport);
    let destination = end(
        &flow.destination,
        &flow.destination_service,
        &ip.destination,
        dport,
    );
    let ends = match flow.is_reply {
        None => format!("{source} <> {destination}"),
        Some(false) => format!("{source} -> {destination}"),
        Some(true) => format!("{destination} <- {source}"),
    };
    let (kind, verdict) = told(flow);
    format!("{ends} {kind} {verdict} ({})", flow.summary)
}

/// What happened and what was decided, in the line's words.
fn told(flow: &Flow) -> (String, &'static str) {
    let event = flow.event_type.unwrap();
    let verdict = Verdict::try_from(flow.verdict).unwrap();
    match event.r#type {
        names::event::TRACE => (
            names::trace_point(event.sub_type).unwrap().to_owned(),
            verdict.as_str_name(),
        ),
        names::event::DROP => {
            let reason = u8::try_from(event.sub_type).unwrap();
            (
                names::drop_reason(reason).unwrap().to_owned(),
                verdict.as_str_name(),
            )
        }
        names::event::POLICY_VERDICT => {
            let direction = TrafficDirection::try_from(flow.traffic_direction)
                .unwrap()
                .as_str_name();
            let matched = names::policy_match(flow.policy_match_type);
            let word = if verdict == Verdict::Dropped {
                "DENIED"
            } else {
                "ALLOWED"
            };
            (format!("policy-verdict:{matched} {direction}"), word)
        }
        names::event::TRACE_SOCK => {
            let point = [
                "",
                "pre-xlate-fwd",
                "post-xlate-fwd",
                "pre-xlate-rev",
                "post-xlate-rev",
            ];
            (
                point[usize::try_from(flow.sock_xlate_point).unwrap()].to_owned(),
                verdict.as_str_name(),
            )
        }
        _ => {
            let response = flow.l7.as_ref().unwrap().r#type == 2;
            (
                if response {
                    "http-response"
                } else {
                    "http-request"
                }
                .to_owned(),
                verdict.as_str_name(),
            )
        }
    }
}

#[test]
fn traces() {
    for (point, flags, text) in [
        (
            TracePoint::ToOverlay,
            SYN,
            "to-overlay FORWARDED (TCP Flags: SYN)",
        ),
        (
            TracePoint::ToEndpoint,
            ACK | PSH,
            "to-endpoint FORWARDED (TCP Flags: ACK, PSH)",
        ),
        (
            TracePoint::ToProxy,
            FIN | ACK,
            "to-proxy FORWARDED (TCP Flags: ACK, FIN)",
        ),
        (
            TracePoint::ToStack,
            0x04,
            "to-stack FORWARDED (TCP Flags: RST)",
        ),
    ] {
        let flow = converted(&trace(point, flags));
        let ends = format!("default/xwing:51382 (ID:20417) -> {STAR}:80 (ID:47013)");
        assert_eq!(line(&flow), format!("{ends} {text}"));
    }
}

#[test]
fn a_trace_says_where_and_by_whom_it_was_seen() {
    let flow = converted(&trace(TracePoint::ToEndpoint, SYN));
    assert_eq!(
        flow.trace_observation_point(),
        TraceObservationPoint::ToEndpoint
    );
    assert_eq!(
        flow.event_type.map(|event| (event.r#type, event.sub_type)),
        Some((4, 0))
    );
    assert_eq!(
        flow.time.map(|time| time.to_string()).as_deref(),
        Some("2025-03-14T14:37:59.855Z")
    );
    assert_eq!(flow.node_name, "kind-worker");
    assert_eq!(flow.node_labels, ["kubernetes.io/hostname=kind-worker"]);
    assert_eq!(flow.traffic_direction(), TrafficDirection::Egress);
    assert_eq!(flow.interface.map(|interface| interface.index), Some(7));
    let source = flow.source.unwrap();
    assert_eq!((source.id, source.cluster_name.as_str()), (301, "default"));
    assert_eq!(source.labels[0], "k8s:app.kubernetes.io/name=xwing");
    let workload = &flow.destination.unwrap().workloads[0];
    assert_eq!(
        (workload.kind.as_str(), workload.name.as_str()),
        ("Deployment", "deathstar")
    );
    assert_eq!(flow.uuid.len(), 36);
}

#[test]
fn answers_point_back() {
    let mut back = event(
        EventKind::Trace(TracePoint::ToProxy),
        (DEATHSTAR, 80),
        (XWING, 51_382),
    );
    back.tcp_flags = SYN | ACK;
    back.reply = Some(true);
    let flow = converted(&back);
    assert_eq!(
        line(&flow),
        format!(
            "default/xwing:51382 (ID:20417) <- {STAR}:80 (ID:47013) to-proxy FORWARDED (TCP Flags: SYN, ACK)"
        )
    );
    assert!(flow.reply);
}

#[test]
fn the_world_and_the_node_have_addresses() {
    let out = event(
        EventKind::Trace(TracePoint::ToStack),
        (XWING, 57_244),
        (WORLD, 443),
    );
    assert!(line(&converted(&out)).contains("-> 203.0.113.10:443 (world) to-stack"));
    let probe = event(
        EventKind::Trace(TracePoint::ToEndpoint),
        (NODE, 34_000),
        (XWING, 80),
    );
    assert!(line(&converted(&probe)).starts_with("172.18.0.2:34000 (host) -> default/xwing:80"));
}

#[test]
fn a_service_seen_by_the_proxy_has_its_name() {
    let event = event(
        EventKind::Trace(TracePoint::ToProxy),
        (XWING, 46_898),
        (SERVICE, 80),
    );
    assert!(line(&converted(&event)).contains("-> default/deathstar:80 (world) to-proxy"));
}

fn verdict(action: Action, matched: MatchType, rule: u32) -> Event {
    Event {
        direction: Direction::Ingress,
        tcp_flags: SYN,
        rule,
        reply: (action != Action::Deny).then_some(false),
        ..event(
            EventKind::PolicyVerdict { action, matched },
            (TIEFIGHTER, 52_764),
            (DEATHSTAR, 80),
        )
    }
}

#[test]
fn policy_verdicts() {
    let ends = |arrow| format!("default/tiefighter:52764 (ID:3108) {arrow} {STAR}:80 (ID:47013)");
    let allowed = converted(&verdict(Action::Allow, MatchType::L3L4, RULE));
    assert_eq!(
        line(&allowed),
        format!(
            "{} policy-verdict:L3-L4 INGRESS ALLOWED (TCP Flags: SYN)",
            ends("->")
        )
    );
    let policy = &allowed.ingress_allowed_by[0];
    assert_eq!(
        (policy.name.as_str(), policy.kind.as_str()),
        ("rule1", "CiliumNetworkPolicy")
    );
    assert!(
        policy
            .labels
            .contains(&"weft:rule=ingress[0].toPorts[0]".to_owned())
    );
    assert_eq!(policy.revision, 3);
    let redirected = converted(&verdict(Action::Redirect, MatchType::L3L4, RULE));
    assert_eq!(redirected.verdict(), Verdict::Redirected);
    assert!(line(&redirected).ends_with("INGRESS ALLOWED (TCP Flags: SYN)"));
    let denied = converted(&verdict(Action::Deny, MatchType::None, 0));
    assert_eq!(
        line(&denied),
        format!(
            "{} policy-verdict:none INGRESS DENIED (TCP Flags: SYN)",
            ends("<>")
        )
    );
    assert_eq!(denied.drop_reason_desc(), Name::PolicyDenied);
    assert!(denied.ingress_denied_by.is_empty(), "no rule decided");
    let by_rule = converted(&verdict(Action::Deny, MatchType::L3Only, RULE));
    assert_eq!(by_rule.drop_reason_desc(), Name::PolicyDeny);
    assert_eq!(by_rule.ingress_denied_by[0].name, "rule1");
}

#[test]
fn drops() {
    let mut dropped = event(
        EventKind::Drop(DropReason::PolicyDenied),
        (XWING, 53_906),
        (DEATHSTAR, 80),
    );
    dropped.tcp_flags = SYN;
    dropped.reply = None;
    dropped.direction = Direction::Ingress;
    let flow = converted(&dropped);
    assert_eq!(
        line(&flow),
        format!(
            "default/xwing:53906 (ID:20417) <> {STAR}:80 (ID:47013) Policy denied DROPPED (TCP Flags: SYN)"
        )
    );
    assert_eq!(
        (flow.drop_reason, flow.drop_reason_desc()),
        (133, Name::PolicyDenied)
    );
    for reason in DropReason::ALL {
        let mut event = dropped.clone();
        event.kind = EventKind::Drop(*reason);
        let flow = converted(&event);
        assert_eq!(
            flow.drop_reason_desc().as_str_name(),
            reason.name(),
            "{reason:?}"
        );
        assert_eq!(
            names::drop_reason(reason.code()),
            Some(reason.text()),
            "{reason:?}"
        );
    }
}

#[test]
fn translations_of_services() {
    let translation = |point, to| Event {
        tcp_flags: SYN,
        reply: None,
        service: Some(SocketAddrV4::new(SERVICE, 80)),
        ..event(EventKind::Translation(point), (XWING, 51_382), to)
    };
    let star = format!("{STAR}:80 (ID:47013)");
    for (point, to, text) in [
        (
            XlatePoint::PreForward,
            (SERVICE, 80),
            "default/xwing (ID:20417) <> default/deathstar:80 (world) pre-xlate-fwd TRACED (TCP)"
                .to_owned(),
        ),
        (
            XlatePoint::PostForward,
            (DEATHSTAR, 80),
            format!("default/xwing (ID:20417) <> {star} post-xlate-fwd TRANSLATED (TCP)"),
        ),
        (
            XlatePoint::PreReverse,
            (DEATHSTAR, 80),
            format!(
                "default/xwing:51382 (ID:20417) <> {STAR} (ID:47013) pre-xlate-rev TRACED (TCP)"
            ),
        ),
    ] {
        let flow = converted(&translation(point, to));
        assert_eq!(line(&flow), text);
        assert_eq!(flow.r#type(), FlowType::Sock);
        assert_ne!(
            flow.sock_xlate_point(),
            SocketTranslationPoint::SockXlatePointUnknown
        );
    }
}

#[test]
fn datagrams_pings_and_what_has_no_ports() {
    let mut udp = event(
        EventKind::Trace(TracePoint::ToOverlay),
        (XWING, 39_118),
        (DEATHSTAR, 53),
    );
    udp.protocol = 17;
    assert!(line(&converted(&udp)).ends_with(":53 (ID:47013) to-overlay FORWARDED (UDP)"));
    let mut ping = event(
        EventKind::Trace(TracePoint::ToEndpoint),
        (XWING, 0),
        (DEATHSTAR, 0),
    );
    (ping.protocol, ping.icmp) = (1, Some((8, 0)));
    let flow = converted(&ping);
    assert!(line(&flow).ends_with("to-endpoint FORWARDED (ICMPv4 EchoRequest)"));
    assert!(matches!(flow.l4.unwrap().protocol, Some(Protocol::IcmPv4(icmp)) if icmp.r#type == 8));
    let mut v6 = event(
        EventKind::Drop(DropReason::UnsupportedL3),
        (XWING, 0),
        (XWING, 0),
    );
    (v6.src, v6.dst) = (
        "fd00::1".parse::<IpAddr>().unwrap(),
        "fd00::2".parse().unwrap(),
    );
    let flow = converted(&v6);
    assert_eq!(flow.ip.map(|ip| ip.ip_version), Some(2));
    assert_eq!(flow.source.map(|end| end.identity), Some(0));
    assert_eq!(flow.summary, "TCP");
}

#[test]
fn a_relabelled_pod_shows_what_was_judged() {
    let mut event = trace(TracePoint::ToEndpoint, SYN);
    event.src_identity = 2;
    let source = converted(&event).source.unwrap();
    assert_eq!((source.identity, source.pod_name.as_str()), (2, "xwing"));
    assert_eq!(source.labels, ["reserved:world"]);
}

#[test]
fn losses_are_reported_only_when_there_are_any() {
    let mut converter = Converter::new(ViewHandle::default());
    assert_eq!(converter.events_lost(0), None);
    let lost = converter.events_lost(5).unwrap();
    assert_eq!(
        (lost.source(), lost.num_events_lost),
        (LostEventSource::PerfEventRingBuffer, 5)
    );
    assert!(lost.first <= lost.last);
    let lost = converter.records_lost(2).unwrap();
    assert_eq!(lost.source(), LostEventSource::ObserverEventsQueue);
}
