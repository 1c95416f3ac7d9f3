//! Conditions on what kind of event a flow is, and where it was seen.

use super::super::flow::layer4::Protocol as L4;
use super::super::flow::layer7::Record as L7;
use super::super::flow::{Flow, FlowFilter, TcpFlags, Verdict};
use super::pattern::NodePattern;
use super::selector::any_selector;
use super::{Condition, FilterError, when_any};

/// Cluster that a node without one belongs to.
const DEFAULT_CLUSTER: &str = "default";

pub(super) fn compile(filter: &FlowFilter, out: &mut Vec<Condition>) -> Result<(), FilterError> {
    if let Some(experimental) = &filter.experimental
        && !experimental.cel_expression.is_empty()
    {
        return Err(FilterError::new(
            "filtering by CEL expression is not supported",
        ));
    }
    events(filter, out);
    numbers(filter, out);
    protocols(filter, out)?;
    nodes(filter, out)
}

fn events(filter: &FlowFilter, out: &mut Vec<Condition>) {
    when_any(out, &filter.uuid, |wanted, flow| {
        wanted.contains(&flow.uuid)
    });
    when_any(out, &filter.event_type, |wanted, flow| {
        flow.event_type.as_ref().is_some_and(|event| {
            wanted.iter().any(|want| {
                (want.r#type == 0 || want.r#type == event.r#type)
                    && (!want.match_sub_type || want.sub_type == event.sub_type)
            })
        })
    });
    when_any(out, &filter.verdict, |wanted, flow| {
        wanted.contains(&flow.verdict)
    });
    when_any(out, &filter.drop_reason_desc, |wanted, flow| {
        flow.verdict == Verdict::Dropped as i32 && wanted.contains(&flow.drop_reason_desc)
    });
    when_any(out, &filter.traffic_direction, |wanted, flow| {
        wanted.contains(&flow.traffic_direction)
    });
    // Drops never say whether they are a reply; clients expect them among the
    // requests.
    when_any(out, &filter.reply, |wanted, flow| {
        (flow.is_reply.is_some() || flow.verdict == Verdict::Dropped as i32)
            && wanted.contains(&flow.is_reply.unwrap_or(false))
    });
}

fn numbers(filter: &FlowFilter, out: &mut Vec<Condition>) {
    when_any(out, &filter.encrypted, |wanted, flow| {
        wanted.contains(&flow.ip.as_ref().is_some_and(|ip| ip.encrypted))
    });
    when_any(out, &filter.ip_version, |wanted, flow| {
        wanted.contains(&flow.ip.as_ref().map_or(0, |ip| ip.ip_version))
    });
    when_any(out, &filter.trace_id, |wanted, flow| {
        let parent = flow.trace_context.as_ref().and_then(|c| c.parent.as_ref());
        let id = parent.map_or("", |parent| parent.trace_id.as_str());
        wanted.iter().any(|want| want == id)
    });
    when_any(out, &filter.ip_trace_id, |wanted, flow| {
        wanted.contains(&flow.ip_trace_id.as_ref().map_or(0, |id| id.trace_id))
    });
    when_any(out, &filter.tcp_flags, |wanted, flow| {
        tcp_flags(flow).is_some_and(|flags| wanted.iter().any(|want| covers(flags, want)))
    });
    when_any(out, &filter.interface, |wanted, flow| {
        flow.interface.as_ref().is_some_and(|seen| {
            wanted.iter().any(|want| {
                (want.index == 0 || want.index == seen.index)
                    && (want.name.is_empty() || want.name == seen.name)
            })
        })
    });
}

fn tcp_flags(flow: &Flow) -> Option<&TcpFlags> {
    match flow.l4.as_ref()?.protocol.as_ref()? {
        L4::Tcp(tcp) => tcp.flags.as_ref(),
        _ => None,
    }
}

/// Whether every flag of `wanted` is set in `flags`.
fn covers(flags: &TcpFlags, wanted: &TcpFlags) -> bool {
    let pairs = [
        (wanted.fin, flags.fin),
        (wanted.syn, flags.syn),
        (wanted.rst, flags.rst),
        (wanted.psh, flags.psh),
        (wanted.ack, flags.ack),
        (wanted.urg, flags.urg),
        (wanted.ece, flags.ece),
        (wanted.cwr, flags.cwr),
        (wanted.ns, flags.ns),
    ];
    pairs.iter().all(|(wanted, set)| !wanted || *set)
}

/// A protocol's name and how its flows are known.
type Protocol = (&'static str, fn(&Flow) -> bool);

fn protocols(filter: &FlowFilter, out: &mut Vec<Condition>) -> Result<(), FilterError> {
    let known: [Protocol; 11] = [
        ("icmp", |f| {
            matches!(l4(f), Some(L4::IcmPv4(_) | L4::IcmPv6(_)))
        }),
        ("icmpv4", |f| matches!(l4(f), Some(L4::IcmPv4(_)))),
        ("icmpv6", |f| matches!(l4(f), Some(L4::IcmPv6(_)))),
        ("tcp", |f| matches!(l4(f), Some(L4::Tcp(_)))),
        ("udp", |f| matches!(l4(f), Some(L4::Udp(_)))),
        ("sctp", |f| matches!(l4(f), Some(L4::Sctp(_)))),
        ("vrrp", |f| matches!(l4(f), Some(L4::Vrrp(_)))),
        ("igmp", |f| matches!(l4(f), Some(L4::Igmp(_)))),
        ("dns", |f| matches!(l7(f), Some(L7::Dns(_)))),
        ("http", |f| matches!(l7(f), Some(L7::Http(_)))),
        ("kafka", |f| matches!(l7(f), Some(L7::Kafka(_)))),
    ];
    let mut wanted = Vec::new();
    for name in &filter.protocol {
        let found = known
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known));
        let unknown = || {
            FilterError::new(format!(
                "invalid protocol filter: unknown protocol: {name:?}"
            ))
        };
        wanted.push(found.ok_or_else(unknown)?.1);
    }
    when_any(out, &wanted, |wanted, flow| {
        wanted.iter().any(|is| is(flow))
    });
    Ok(())
}

fn l4(flow: &Flow) -> Option<&L4> {
    flow.l4.as_ref()?.protocol.as_ref()
}

fn l7(flow: &Flow) -> Option<&L7> {
    flow.l7.as_ref()?.record.as_ref()
}

fn nodes(filter: &FlowFilter, out: &mut Vec<Condition>) -> Result<(), FilterError> {
    if !filter.node_name.is_empty() {
        let patterns = NodePattern::compile(&filter.node_name)?;
        out.push(Box::new(move |flow| {
            let name = flow.node_name.as_str();
            let (cluster, node) = name.split_once('/').unwrap_or((DEFAULT_CLUSTER, name));
            !name.is_empty()
                && patterns
                    .iter()
                    .any(|pattern| pattern.matches(cluster, node))
        }));
    }
    if !filter.node_labels.is_empty() {
        let matches = any_selector(&filter.node_labels)
            .map_err(|error| error.within("invalid node label filter"))?;
        out.push(Box::new(move |flow| matches(&flow.node_labels)));
    }
    Ok(())
}
