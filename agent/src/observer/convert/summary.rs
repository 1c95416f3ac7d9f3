//! The text that clients print in parentheses.

use weft_api::node::{Http, Record, RecordKind};
use weft_datapath::Event;

use super::packet::protocol as numbers;

/// Flags in the order in which clients know them.
const TCP_FLAGS: [(u8, &str); 8] = [
    (0x02, "SYN"),
    (0x10, "ACK"),
    (0x04, "RST"),
    (0x01, "FIN"),
    (0x08, "PSH"),
    (0x20, "URG"),
    (0x40, "ECE"),
    (0x80, "CWR"),
];

/// `TCP Flags: SYN, ACK`, `UDP`, `ICMPv4 EchoRequest`.
pub(super) fn packet(event: &Event) -> String {
    match (event.protocol, event.icmp) {
        (numbers::TCP, _) if event.tcp_flags != 0 => {
            let set = TCP_FLAGS
                .iter()
                .filter(|(bit, _)| event.tcp_flags & bit != 0);
            let names: Vec<&str> = set.map(|(_, name)| *name).collect();
            format!("TCP Flags: {}", names.join(", "))
        }
        (numbers::ICMP, Some((r#type, code))) => format!("ICMPv4 {}", icmp(r#type, code)),
        (number, _) => protocol(number),
    }
}

/// The name of a protocol.
pub(super) fn protocol(number: u8) -> String {
    match number {
        numbers::TCP => "TCP".to_owned(),
        numbers::UDP => "UDP".to_owned(),
        numbers::SCTP => "SCTP".to_owned(),
        numbers::ICMP => "ICMPv4".to_owned(),
        numbers::ICMPV6 => "ICMPv6".to_owned(),
        0 => String::new(),
        other => format!("IP protocol {other}"),
    }
}

fn icmp(r#type: u8, code: u8) -> String {
    let name = match (r#type, code) {
        (0, 0) => "EchoReply",
        (3, 0) => "DestinationUnreachable(Net)",
        (3, 1) => "DestinationUnreachable(Host)",
        (3, 2) => "DestinationUnreachable(Protocol)",
        (3, 3) => "DestinationUnreachable(Port)",
        (3, 4) => "DestinationUnreachable(FragmentationNeeded)",
        (5, _) => "Redirect",
        (8, 0) => "EchoRequest",
        (11, 0) => "TimeExceeded(TTLExceeded)",
        (11, 1) => "TimeExceeded(FragmentReassemblyTimeExceeded)",
        _ => return format!("{type}({code})"),
    };
    name.to_owned()
}

/// `HTTP/1.1 GET http://host/path` or `HTTP/1.1 200 3ms (GET http://host/path)`,
/// and why it was refused when no policy did: what the filter said that decided,
/// or what else was in its way.
pub(super) fn record(record: &Record) -> String {
    let text = match &record.http {
        Some(http) if record.kind() == RecordKind::Response => response(http, record.latency_ns),
        Some(http) => format!("{} {} {}", http.protocol, http.method, http.url),
        None => String::new(),
    };
    let reason = match record.filter.as_str() {
        "" => record.reason.as_str(),
        filter => filter,
    };
    match (text.as_str(), reason) {
        (_, "") => text,
        ("", reason) => reason.to_owned(),
        (text, reason) => format!("{text}: {reason}"),
    }
}

fn response(http: &Http, latency_ns: u64) -> String {
    let milliseconds = latency_ns / 1_000_000;
    format!(
        "{} {} {milliseconds}ms ({} {})",
        http.protocol, http.code, http.method, http.url
    )
}
