//! One report of the programs, in words.

use std::net::{IpAddr, Ipv6Addr, SocketAddrV4};
use std::time::{Duration, SystemTime};

use weft_datapath_common::{
    DropReason, EventKind as RawKind, MatchType, RawEvent, TracePoint, XlatePoint, action,
    direction, event_flags, protocol,
};

use crate::config::addr;
use crate::conntrack;

/// Direction of traffic, from an endpoint's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Towards the endpoint.
    Ingress = direction::INGRESS,
    /// From the endpoint.
    Egress = direction::EGRESS,
}

/// Outcome of a policy verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dropped.
    Deny,
    /// Forwarded.
    Allow,
    /// Given to the proxy.
    Redirect,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A packet was dropped.
    Drop(DropReason),
    /// A packet passed an observation point.
    Trace(TracePoint),
    /// A policy was asked about a new flow, or took an old one's permission
    /// away.
    PolicyVerdict {
        /// Its answer.
        action: Action,
        /// What the deciding entry named.
        matched: MatchType,
    },
    /// The address of a service was exchanged for a backend's or put back.
    Translation(XlatePoint),
}

/// A packet that was worth a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: SystemTime,
    /// What.
    pub kind: EventKind,
    /// Direction of the flow as `endpoint` sees it; an answer has its
    /// question's.
    pub direction: Direction,
    /// The pod of this node that observes, or whose policy was asked; 0 if
    /// none.
    pub endpoint: u32,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port; 0 for protocols without ports.
    pub src_port: u16,
    /// Destination port; 0 for protocols without ports.
    pub dst_port: u16,
    /// IP protocol; 0 if the packet could not be read.
    pub protocol: u8,
    /// TCP flags as in the header.
    pub tcp_flags: u8,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
    /// Identity of the source; 0 if not known.
    pub src_identity: u32,
    /// Identity of the destination; 0 if not known.
    pub dst_identity: u32,
    /// Rule that decided, the number in [`crate::PolicyEntry::rule`]; 0 if
    /// none.
    pub rule: u32,
    /// The proxy's port, if it goes there; else 0.
    pub proxy_port: u16,
    /// Interface on which it was seen.
    pub ifindex: u32,
    /// Whether the packet answers; `None` where that is not known: drops,
    /// denials, translations.
    pub reply: Option<bool>,
    /// The service, on translations and on what follows them in the same
    /// program.
    pub service: Option<SocketAddrV4>,
}

impl Event {
    /// Reads an event off the ring; `None` if its numbers mean nothing here.
    pub(crate) fn from_raw(raw: &RawEvent) -> Option<Self> {
        let kind = kind(raw)?;
        let icmp = raw.protocol == protocol::ICMP;
        let ported = matches!(raw.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        let port = |port| if ported { u16::from_be(port) } else { 0 };
        let denied = matches!(
            kind,
            EventKind::PolicyVerdict {
                action: Action::Deny,
                ..
            }
        );
        let reply_known = raw.flags & event_flags::REPLY_KNOWN != 0 && !denied;
        let service = SocketAddrV4::new(addr(raw.service), u16::from_be(raw.service_port));
        Some(Self {
            time: wall_clock(raw.time),
            kind,
            direction: match raw.direction {
                direction::INGRESS => Direction::Ingress,
                _ => Direction::Egress,
            },
            endpoint: raw.endpoint,
            src: ip(raw.src),
            dst: ip(raw.dst),
            src_port: port(raw.src_port),
            dst_port: port(raw.dst_port),
            protocol: raw.protocol,
            tcp_flags: if raw.protocol == protocol::TCP {
                raw.tcp_flags
            } else {
                0
            },
            icmp: icmp.then_some((raw.tcp_flags, raw.icmp_code)),
            src_identity: raw.src_identity,
            dst_identity: raw.dst_identity,
            rule: raw.rule,
            proxy_port: raw.proxy_port,
            ifindex: raw.ifindex,
            reply: reply_known.then_some(raw.flags & event_flags::REPLY != 0),
            service: (raw.service != 0).then_some(service),
        })
    }
}

fn kind(raw: &RawEvent) -> Option<EventKind> {
    const DROP: u8 = RawKind::Drop as u8;
    const TRACE: u8 = RawKind::Trace as u8;
    const POLICY_VERDICT: u8 = RawKind::PolicyVerdict as u8;
    const TRANSLATION: u8 = RawKind::Translation as u8;
    Some(match raw.kind {
        DROP => EventKind::Drop(DropReason::from_code(raw.code)?),
        TRACE => EventKind::Trace(TracePoint::from_code(raw.code)?),
        POLICY_VERDICT => EventKind::PolicyVerdict {
            action: match raw.action {
                action::DENY => Action::Deny,
                action::ALLOW => Action::Allow,
                action::REDIRECT => Action::Redirect,
                _ => return None,
            },
            matched: MatchType::from_code(raw.code)?,
        },
        TRANSLATION => EventKind::Translation(XlatePoint::from_code(raw.code)?),
        _ => return None,
    })
}

fn ip(words: [u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (octets, word) in octets.chunks_exact_mut(4).zip(words) {
        octets.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// The time of day at a moment of the monotonic clock, which has just been.
fn wall_clock(monotonic: u64) -> SystemTime {
    let age = conntrack::now().saturating_sub(monotonic);
    SystemTime::now()
        .checked_sub(Duration::from_nanos(age))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> RawEvent {
        RawEvent {
            time: conntrack::now(),
            src: [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([10, 0, 0, 1])],
            dst: [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([10, 0, 0, 2])],
            src_port: 40000_u16.to_be(),
            dst_port: 80_u16.to_be(),
            protocol: protocol::TCP,
            tcp_flags: 0x12,
            direction: direction::INGRESS,
            flags: event_flags::REPLY_KNOWN | event_flags::REPLY,
            ..RawEvent::default()
        }
    }

    #[test]
    fn a_trace_is_read() {
        let raw = RawEvent {
            kind: RawKind::Trace as u8,
            code: 4,
            ..raw()
        };
        let event = Event::from_raw(&raw).unwrap();
        assert_eq!(event.kind, EventKind::Trace(TracePoint::ToOverlay));
        assert_eq!(
            (event.src, event.src_port),
            ("10.0.0.1".parse().unwrap(), 40000)
        );
        assert_eq!(
            (event.dst, event.dst_port),
            ("10.0.0.2".parse().unwrap(), 80)
        );
        assert_eq!(
            (event.tcp_flags, event.reply, event.service),
            (0x12, Some(true), None)
        );
    }

    #[test]
    fn a_denial_is_no_reply() {
        let raw = RawEvent {
            kind: RawKind::PolicyVerdict as u8,
            ..raw()
        };
        let event = Event::from_raw(&raw).unwrap();
        let (action, matched) = (Action::Deny, MatchType::None);
        assert_eq!(event.kind, EventKind::PolicyVerdict { action, matched });
        assert_eq!(event.reply, None);
    }

    #[test]
    fn icmp_has_no_ports() {
        let raw = RawEvent {
            kind: RawKind::Drop as u8,
            code: 133,
            protocol: protocol::ICMP,
            tcp_flags: 8,
            ..raw()
        };
        let event = Event::from_raw(&raw).unwrap();
        assert_eq!((event.src_port, event.dst_port), (0, 0));
        assert_eq!((event.icmp, event.tcp_flags), (Some((8, 0)), 0));
    }

    #[test]
    fn unknown_numbers_are_left_out() {
        assert_eq!(Event::from_raw(&RawEvent { kind: 9, ..raw() }), None);
        assert_eq!(
            Event::from_raw(&RawEvent {
                kind: 1,
                code: 1,
                ..raw()
            }),
            None
        );
    }
}
