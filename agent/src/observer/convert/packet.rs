//! Packets: traces, drops, policy verdicts, translations of Services.

use weft_api::hubble::flow::layer4::Protocol;
use weft_api::hubble::flow::{
    CiliumEventType, Flow, FlowType, IcmPv4, IcmPv6, Layer4, Sctp, SocketTranslationPoint, Tcp,
    TcpFlags, TraceObservationPoint, TraceReason, TrafficDirection, Udp, Verdict,
};
use weft_api::hubble::names::event as types;
use weft_datapath::{Action, Direction, DropReason, Event, EventKind, TracePoint, XlatePoint};

use super::{base, ends, policy, set_drop_reason, summary};
use crate::plan::rule_ref;
use crate::view::View;

/// IP protocol numbers.
pub(super) mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

pub(super) fn flow(event: &Event, view: &View) -> Flow {
    let direction = match event.direction {
        Direction::Ingress => TrafficDirection::Ingress,
        Direction::Egress => TrafficDirection::Egress,
    };
    let service = |address, port| ends::service(view, address, port, event.protocol);
    let mut flow = Flow {
        ip: Some(ends::ip(event.src, event.dst)),
        l4: layer4(event),
        source: Some(ends::endpoint(view, event.src, event.src_identity)),
        destination: Some(ends::endpoint(view, event.dst, event.dst_identity)),
        r#type: FlowType::L3L4.into(),
        source_service: service(event.src, event.src_port),
        destination_service: service(event.dst, event.dst_port),
        traffic_direction: direction.into(),
        is_reply: event.reply,
        reply: event.reply.unwrap_or(false),
        proxy_port: u32::from(event.proxy_port),
        summary: summary::packet(event),
        ..base(view, event.time.into())
    };
    match event.kind {
        EventKind::Drop(reason) => dropped(&mut flow, event, reason, view),
        EventKind::Trace(point) => traced(&mut flow, event, point),
        EventKind::PolicyVerdict { action, matched } => {
            flow.policy_match_type = u32::from(matched.code());
            judged(&mut flow, event, action, view);
        }
        EventKind::Translation(point) => translated(&mut flow, event, point),
    }
    flow
}

fn event_type(r#type: i32, sub_type: u8) -> Option<CiliumEventType> {
    Some(CiliumEventType {
        r#type,
        sub_type: i32::from(sub_type),
    })
}

fn dropped(flow: &mut Flow, event: &Event, reason: DropReason, view: &View) {
    flow.event_type = event_type(types::DROP, reason.code());
    flow.verdict = Verdict::Dropped.into();
    set_drop_reason(flow, reason.code());
    decided(flow, event, view, false);
}

fn traced(flow: &mut Flow, event: &Event, point: TracePoint) {
    // The only observation point whose two numbers differ.
    let observation_point = match point {
        TracePoint::ToEndpoint => TraceObservationPoint::ToEndpoint,
        point => TraceObservationPoint::try_from(i32::from(point.code()))
            .unwrap_or(TraceObservationPoint::UnknownPoint),
    };
    flow.event_type = event_type(types::TRACE, point.code());
    flow.verdict = Verdict::Forwarded.into();
    flow.trace_observation_point = observation_point.into();
    flow.trace_reason = trace_reason(event).into();
}

/// What the connection's state must have been, as far as the packet shows it.
fn trace_reason(event: &Event) -> TraceReason {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    match (event.reply, event.protocol) {
        (Some(true), _) => TraceReason::Reply,
        (_, protocol::TCP) if event.tcp_flags & (SYN | ACK) == SYN => TraceReason::New,
        (_, protocol::TCP) => TraceReason::Established,
        _ => TraceReason::Unknown,
    }
}

fn judged(flow: &mut Flow, event: &Event, action: Action, view: &View) {
    flow.event_type = event_type(types::POLICY_VERDICT, 0);
    flow.verdict = match action {
        Action::Allow => Verdict::Forwarded,
        Action::Redirect => Verdict::Redirected,
        Action::Deny => Verdict::Dropped,
    }
    .into();
    if action == Action::Deny {
        // A rule that denies is another reason than no rule that allows.
        let reason = if event.rule == 0 {
            DropReason::PolicyDenied
        } else {
            DropReason::PolicyDeny
        };
        set_drop_reason(flow, reason.code());
    }
    decided(flow, event, view, action != Action::Deny);
}

/// Names the policy whose rule decided.
fn decided(flow: &mut Flow, event: &Event, view: &View, allowed: bool) {
    let Some(rule) = view.rule(event.rule) else {
        return;
    };
    let list = match (event.direction, allowed) {
        (Direction::Ingress, true) => &mut flow.ingress_allowed_by,
        (Direction::Ingress, false) => &mut flow.ingress_denied_by,
        (Direction::Egress, true) => &mut flow.egress_allowed_by,
        (Direction::Egress, false) => &mut flow.egress_denied_by,
    };
    list.push(policy(&rule_ref(rule), view.revision));
}

/// Clients know these events from sockets, where the packet's port of the own
/// end is not known before (forward) and the service's not after (reverse).
fn translated(flow: &mut Flow, event: &Event, point: XlatePoint) {
    let translation = match point {
        XlatePoint::PreForward => SocketTranslationPoint::SockXlatePointPreDirectionFwd,
        XlatePoint::PostForward => SocketTranslationPoint::SockXlatePointPostDirectionFwd,
        XlatePoint::PreReverse => SocketTranslationPoint::SockXlatePointPreDirectionRev,
        XlatePoint::PostReverse => SocketTranslationPoint::SockXlatePointPostDirectionRev,
    };
    let forward = matches!(point, XlatePoint::PreForward | XlatePoint::PostForward);
    let before = matches!(point, XlatePoint::PreForward | XlatePoint::PreReverse);
    let verdict = if before {
        Verdict::Traced
    } else {
        Verdict::Translated
    };
    flow.event_type = event_type(types::TRACE_SOCK, point.code());
    flow.r#type = FlowType::Sock.into();
    flow.verdict = verdict.into();
    flow.sock_xlate_point = translation.into();
    flow.is_reply = None;
    flow.reply = false;
    let (source, destination) = if forward {
        (0, event.dst_port)
    } else {
        (event.src_port, 0)
    };
    flow.l4 = ported(event.protocol, source, destination, None).map(layer);
    flow.summary = summary::protocol(event.protocol);
}

fn layer(protocol: Protocol) -> Layer4 {
    Layer4 {
        protocol: Some(protocol),
    }
}

fn layer4(event: &Event) -> Option<Layer4> {
    let flags = (event.tcp_flags != 0).then(|| tcp_flags(event.tcp_flags));
    let icmp = || {
        let (r#type, code) = event.icmp.unwrap_or_default();
        (u32::from(r#type), u32::from(code))
    };
    let protocol = match event.protocol {
        protocol::ICMP => {
            let (r#type, code) = icmp();
            Protocol::IcmPv4(IcmPv4 { r#type, code })
        }
        protocol::ICMPV6 => {
            let (r#type, code) = icmp();
            Protocol::IcmPv6(IcmPv6 { r#type, code })
        }
        number => ported(number, event.src_port, event.dst_port, flags)?,
    };
    Some(layer(protocol))
}

/// A transport protocol with ports.
pub(super) fn ported(
    number: u8,
    source: u16,
    destination: u16,
    flags: Option<TcpFlags>,
) -> Option<Protocol> {
    let (source_port, destination_port) = (u32::from(source), u32::from(destination));
    match number {
        protocol::TCP => Some(Protocol::Tcp(Tcp {
            source_port,
            destination_port,
            flags,
        })),
        protocol::UDP => Some(Protocol::Udp(Udp {
            source_port,
            destination_port,
        })),
        protocol::SCTP => Some(Protocol::Sctp(Sctp {
            source_port,
            destination_port,
        })),
        _ => None,
    }
}

fn tcp_flags(bits: u8) -> TcpFlags {
    let set = |bit: u8| bits & bit != 0;
    TcpFlags {
        fin: set(0x01),
        syn: set(0x02),
        rst: set(0x04),
        psh: set(0x08),
        ack: set(0x10),
        urg: set(0x20),
        ece: set(0x40),
        cwr: set(0x80),
        // In another byte of the header, which events do not carry.
        ns: false,
    }
}
