//! Many nodes' flows as one stream, by time.
//!
//! A flow is passed on when every connected node has one waiting, since then
//! nothing older can come, or when it has waited long enough: a quiet node
//! must not hold up the others.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_api::hubble::observer::GetFlowsResponse;
use weft_api::hubble::wkt::Timestamp;

/// Flows that wait at most, so that one busy node cannot fill the memory.
const MAX_WAITING: usize = 8_192;

/// Holds flows back until their turn.
#[derive(Debug)]
pub(super) struct Merge {
    hold: Duration,
    waiting: BinaryHeap<Waiting>,
    /// Connected nodes, and how many of their flows wait.
    nodes: HashMap<Arc<str>, usize>,
    /// Connected nodes of which none waits.
    quiet: usize,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting {
    time: Timestamp,
    number: u64,
    arrived: Instant,
    node: Arc<str>,
    response: GetFlowsResponse,
}

impl Merge {
    pub(super) fn new(hold: Duration) -> Self {
        Self {
            hold,
            waiting: BinaryHeap::new(),
            nodes: HashMap::new(),
            quiet: 0,
            arrivals: 0,
        }
    }

    /// From now on this node's flows are waited for.
    pub(super) fn connected(&mut self, node: Arc<str>) {
        if self.nodes.insert(node, 0).is_none() {
            self.quiet += 1;
        }
    }

    /// Nothing more will come from this node; what waits is still passed on.
    pub(super) fn ended(&mut self, node: &str) {
        if self.nodes.remove(node) == Some(0) {
            self.quiet -= 1;
        }
    }

    pub(super) fn push(&mut self, node: Arc<str>, response: GetFlowsResponse) {
        if let Some(waiting) = self.nodes.get_mut(&node) {
            if *waiting == 0 {
                self.quiet -= 1;
            }
            *waiting += 1;
        }
        self.arrivals += 1;
        self.waiting.push(Waiting {
            time: response.time.unwrap_or_default(),
            number: self.arrivals,
            arrived: Instant::now(),
            node,
            response,
        });
    }

    /// The oldest flow, if it is its turn at this moment.
    pub(super) fn pop(&mut self, now: Instant) -> Option<GetFlowsResponse> {
        let oldest = self.waiting.peek()?;
        let due = self.quiet == 0
            || now >= oldest.arrived + self.hold
            || self.waiting.len() >= MAX_WAITING;
        if !due {
            return None;
        }
        let oldest = self.waiting.pop()?;
        if let Some(waiting) = self.nodes.get_mut(&oldest.node) {
            *waiting -= 1;
            if *waiting == 0 {
                self.quiet += 1;
            }
        }
        Some(oldest.response)
    }

    /// When the oldest flow will have waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.peek().map(|oldest| oldest.arrived + self.hold)
    }
}

impl Ord for Waiting {
    /// The heap gives the greatest first: that is the oldest, and among equals
    /// the one that came first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time, other.number).cmp(&(self.time, self.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_millis(100);

    fn at(seconds: i64) -> GetFlowsResponse {
        GetFlowsResponse {
            time: Some(Timestamp { seconds, nanos: 0 }),
            ..GetFlowsResponse::default()
        }
    }

    fn pop(merge: &mut Merge, now: Instant) -> Option<i64> {
        merge
            .pop(now)
            .and_then(|response| response.time)
            .map(|time| time.seconds)
    }

    #[test]
    fn waits_for_every_node_and_then_goes_by_time() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut merge = Merge::new(HOLD);
        merge.connected(a.clone());
        merge.connected(b.clone());
        let now = Instant::now();
        merge.push(a.clone(), at(2));
        merge.push(a.clone(), at(4));
        assert_eq!(pop(&mut merge, now), None, "b may have older ones");
        merge.push(b.clone(), at(1));
        merge.push(b.clone(), at(3));
        assert_eq!(pop(&mut merge, now), Some(1));
        assert_eq!(pop(&mut merge, now), Some(2));
        assert_eq!(pop(&mut merge, now), Some(3));
        assert_eq!(pop(&mut merge, now), None, "b is quiet");
        merge.ended(&b);
        assert_eq!(pop(&mut merge, now), Some(4));
        assert_eq!(pop(&mut merge, now), None);
    }

    #[test]
    fn a_quiet_node_holds_up_nobody_for_long() {
        let mut merge = Merge::new(HOLD);
        merge.connected("a".into());
        merge.connected("quiet".into());
        merge.push("a".into(), at(1));
        let deadline = merge.deadline().unwrap();
        assert_eq!(pop(&mut merge, deadline - HOLD / 2), None);
        assert_eq!(pop(&mut merge, deadline), Some(1));
    }
}
