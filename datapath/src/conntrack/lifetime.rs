//! How long flows are remembered.

use std::collections::HashSet;
use std::time::Duration;

use weft_datapath_common::{
    CtEntry, CtKey, Leg, NatEntry, NatKey, SEEN_GOES_ON, ct_flags, nat_kind, protocol, tcp,
};

use super::raw_ends;
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

/// One sweep: which flows are past their time, and what hangs on those that are
/// not. Of a full table only that is kept in memory.
pub(super) struct Sweep {
    now: u64,
    /// Flows that leave the node with its address.
    masqueraded: HashSet<CtKey>,
    /// Choices by whose way a flow goes.
    in_use: HashSet<CtKey>,
    /// Choices that stay only if they are in use.
    idle_choices: Vec<CtKey>,
}

impl Sweep {
    pub(super) fn new(now: u64) -> Self {
        Self {
            now,
            masqueraded: HashSet::new(),
            in_use: HashSet::new(),
            idle_choices: Vec::new(),
        }
    }

    /// Whether an entry of connection tracking goes at once. To be asked of
    /// each, and then [`Sweep::orphans`].
    pub(super) fn ends(&mut self, key: &CtKey, entry: &CtEntry) -> bool {
        let has = |flag| entry.flags & flag != 0;
        if has(ct_flags::SERVICE) && entry.proxy_port == 0 {
            if idle(entry.last_seen, self.now) > nanos(CLOSING) {
                self.idle_choices.push(*key);
            }
            return false;
        }
        if timed_out(key, entry, self.now) {
            return true;
        }
        if has(ct_flags::SERVICE) {
            return false;
        }
        // The proxy's own is marked where it leaves, or not, when the table had
        // lost it.
        if has(ct_flags::MASQUERADE) || key.leg == Leg::Upstream as u8 {
            self.masqueraded.insert(direct(key));
        }
        if has(ct_flags::NAT) {
            self.in_use.insert(choice_of(key, entry));
        }
        false
    }

    /// The choices that end: a choice lives as long as the connection that goes
    /// its way. Without it, the connection's next packet would meet another
    /// backend.
    pub(super) fn orphans(&mut self) -> Vec<CtKey> {
        let mut idle = std::mem::take(&mut self.idle_choices);
        idle.retain(|choice| !self.in_use.contains(choice));
        idle
    }

    /// Whether an entry of masquerading goes.
    pub(super) fn ends_nat(&self, key: &NatKey, entry: &NatEntry) -> bool {
        let pod = match key.kind {
            nat_kind::OUT => (key.addr, key.port),
            _ => (entry.addr, entry.port),
        };
        let peer = (key.peer, key.peer_port);
        let (flow, _) = CtKey::new(pod, peer, key.protocol, Leg::Direct);
        idle(entry.last_seen, self.now) > nanos(CLOSING) && !self.masqueraded.contains(&flow)
    }
}

/// The same key, whichever of two connections with it is meant.
fn direct(key: &CtKey) -> CtKey {
    CtKey {
        leg: Leg::Direct as u8,
        ..*key
    }
}

/// Key of the choice that a translated flow follows: from whoever dialled to
/// the service. A pod that reaches itself has another source address in the
/// flow.
fn choice_of(key: &CtKey, entry: &CtEntry) -> CtKey {
    let (mut client, backend) = raw_ends(key, entry);
    if addr(client.0).is_link_local() {
        client.0 = backend.0;
    }
    let service = (entry.xlate_addr, entry.xlate_port);
    CtKey::new(client, service, key.protocol, Leg::Direct).0
}

fn idle(last_seen: u64, now: u64) -> u64 {
    now.saturating_sub(last_seen)
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
    idle(entry.last_seen, now) > nanos(timeout)
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
