//! Which filters a request meets, in which order.

use std::sync::Arc;

use super::Phase;
use crate::model::{Direction, EndpointId};

/// Filters of one endpoint, direction and range of TCP ports, before they are
/// looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainSpec {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Whether it is asked, or asks.
    pub direction: Direction,
    /// First port of the range; of the destination, in either direction.
    pub first: u16,
    /// Last port of the range, inclusive.
    pub last: u16,
    /// Filters, in the order of the request: by phase, and within a phase as
    /// they run.
    pub steps: Vec<Attached>,
}

/// A filter's place in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attached {
    /// Where in a request's way.
    pub phase: Phase,
    /// Its position in the snapshot's list of filters.
    pub filter: u32,
}

/// A filter that a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Whose enforcement it is attached to.
    pub direction: Direction,
    /// Where in a request's way.
    pub phase: Phase,
    /// Its position in the snapshot's list of filters.
    pub filter: u32,
}

/// All filters that the requests of a connection meet, in the order of a
/// request: by phase, and within a phase those of the source before those of
/// the destination. Responses meet them in reverse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    steps: Arc<[Step]>,
}

impl Chain {
    /// What the chains of both ends come to; none where there are no filters.
    pub fn join(egress: Option<&ChainSpec>, ingress: Option<&ChainSpec>) -> Option<Self> {
        let steps = |of: Option<&ChainSpec>| {
            let steps = of.into_iter().flat_map(|spec| {
                spec.steps.iter().map(|attached| Step {
                    direction: spec.direction,
                    phase: attached.phase,
                    filter: attached.filter,
                })
            });
            steps.collect::<Vec<_>>()
        };
        let mut all = steps(egress);
        all.extend(steps(ingress));
        // Stable: within a phase the order stays.
        all.sort_by_key(|step| step.phase);
        (!all.is_empty()).then(|| Self { steps: all.into() })
    }

    /// The filters, in the order of a request.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::{Attached, Chain, ChainSpec};
    use crate::filter::Phase;
    use crate::model::{Direction, EndpointId};

    fn spec(direction: Direction, steps: &[(Phase, u32)]) -> ChainSpec {
        let attached = |(phase, filter): &(Phase, u32)| Attached {
            phase: *phase,
            filter: *filter,
        };
        ChainSpec {
            endpoint: EndpointId(1),
            direction,
            first: 80,
            last: 80,
            steps: steps.iter().map(attached).collect(),
        }
    }

    #[test]
    fn both_ends_meet_phase_by_phase() {
        use Phase::{AfterPolicy, BeforePolicy, Upstream};
        let egress = spec(
            Direction::Egress,
            &[(AfterPolicy, 1), (AfterPolicy, 0), (Upstream, 2)],
        );
        let ingress = spec(Direction::Ingress, &[(BeforePolicy, 3), (AfterPolicy, 4)]);
        let chain = Chain::join(Some(&egress), Some(&ingress)).expect("filters");
        let order: Vec<u32> = chain.steps().iter().map(|step| step.filter).collect();
        assert_eq!(order, [3, 1, 0, 4, 2]);
        assert_eq!(chain.steps()[0].direction, Direction::Ingress);
        assert_eq!(Chain::join(None, None), None);
        assert_eq!(
            Chain::join(None, Some(&spec(Direction::Ingress, &[]))),
            None
        );
    }
}
