//! How long flows are remembered.

use std::collections::HashSet;
use std::net::SocketAddrV4;
use std::time::Duration;

use weft_datapath_common::{
    CtEntry, CtKey, NatEntry, NatKey, SEEN_GOES_ON, ct_flags, nat_kind, protocol, tcp,
};

use super::{Flow, flow};
use crate::config::addr;

/// How long the kernel's own connection tracking keeps established TCP,
/// shortened to what peers with keep-alives (two hours by default) still stay
/// below.
const ESTABLISHED: Duration = Duration::from_secs(6 * 3600);
/// A TCP connection that was never answered (a SYN is repeated for longer, and
/// begins anew each time), UDP and ICMP that go on, and every other protocol.
const TRANSIENT: Duration = Duration::from_secs(60);
/// UDP and ICMP without an answer so far.
const UNANSWERED: Duration = Duration::from_secs(30);
/// A question and its answer, over UDP or ICMP: what name lookups leave behind
/// must not fill the table.
const EXCHANGED: Duration = Duration::from_secs(20);
/// After FIN or RST: late segments must still find the flow.
const CLOSING: Duration = Duration::from_secs(10);

/// A flow by what stays the same of it: initiator, other end, protocol.
type Ends = (SocketAddrV4, SocketAddrV4, u8);

/// The flows that have not timed out, for what hangs on them.
pub(super) struct Live {
    /// Initiator and destination.
    direct: HashSet<Ends>,
    /// Initiator and service.
    through_service: HashSet<Ends>,
}

impl Live {
    pub(super) fn of(flows: &[(CtKey, CtEntry)], now: u64) -> Self {
        let mut live = Self {
            direct: HashSet::new(),
            through_service: HashSet::new(),
        };
        for (key, entry) in flows {
            if entry.flags & ct_flags::SERVICE != 0 || timed_out(key, entry, now) {
                continue;
            }
            let flow = flow(key, entry, now);
            live.direct.insert((flow.src, flow.dst, flow.protocol));
            if let Some(service) = flow.service {
                live.through_service
                    .insert((client(&flow), service, flow.protocol));
            }
        }
        live
    }

    /// A choice lives as long as the connection that goes its way: without it,
    /// the connection's next packet would meet another backend.
    pub(super) fn keeps(&self, key: &CtKey, entry: &CtEntry, now: u64) -> bool {
        let flow = flow(key, entry, now);
        let choice = entry.flags & ct_flags::SERVICE != 0;
        if choice && flow.proxy_port.is_none() {
            flow.idle <= CLOSING
                || self
                    .through_service
                    .contains(&(flow.src, flow.dst, flow.protocol))
        } else {
            !timed_out(key, entry, now)
        }
    }

    pub(super) fn keeps_nat(&self, key: &NatKey, entry: &NatEntry, now: u64) -> bool {
        let socket = |raw, port| SocketAddrV4::new(addr(raw), u16::from_be(port));
        let pod = match key.kind {
            nat_kind::OUT => socket(key.addr, key.port),
            _ => socket(entry.addr, entry.port),
        };
        let idle = now.saturating_sub(entry.last_seen);
        let ends = (pod, socket(key.peer, key.peer_port), key.protocol);
        idle <= nanos(CLOSING) || self.direct.contains(&ends)
    }
}

/// Who dialled the service. A pod that reaches itself has another source
/// address then.
fn client(flow: &Flow) -> SocketAddrV4 {
    match flow.src.ip().is_link_local() {
        true => SocketAddrV4::new(*flow.dst.ip(), flow.src.port()),
        false => flow.src,
    }
}

fn timed_out(key: &CtKey, entry: &CtEntry, now: u64) -> bool {
    let balanced_by_proxy = entry.flags & ct_flags::SERVICE != 0;
    let timeout = if entry.closing != 0 {
        CLOSING
    } else if balanced_by_proxy {
        ESTABLISHED
    } else {
        match key.protocol {
            protocol::UDP | protocol::ICMP => connectionless(entry),
            _ if entry.seen[1] & tcp::ACK != 0 => ESTABLISHED,
            _ => TRANSIENT,
        }
    };
    now.saturating_sub(entry.last_seen) > nanos(timeout)
}

/// What has no connection is told by its answers: were there any, and did they
/// go on.
fn connectionless(entry: &CtEntry) -> Duration {
    if entry.seen[1] & SEEN_GOES_ON != 0 {
        TRANSIENT
    } else if entry.reported[1] != 0 {
        EXCHANGED
    } else {
        UNANSWERED
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
