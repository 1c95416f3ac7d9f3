//! What holds for an endpoint, a direction and a range of ports.

use std::collections::HashMap;

use super::SnapshotError;
use crate::model::{Direction, EndpointId};

/// Values by endpoint, direction and range of ports. Ranges of one subject
/// never overlap.
#[derive(Debug)]
pub(super) struct BySubject<T> {
    ranges: HashMap<(EndpointId, Direction), Vec<PortRange<T>>>,
}

#[derive(Debug)]
struct PortRange<T> {
    first: u16,
    last: u16,
    value: T,
}

impl<T> Default for BySubject<T> {
    fn default() -> Self {
        Self {
            ranges: HashMap::new(),
        }
    }
}

impl<T> BySubject<T> {
    /// Adds what holds on an inclusive range of ports.
    pub(super) fn add(
        &mut self,
        subject: (EndpointId, Direction),
        (first, last): (u16, u16),
        value: T,
    ) -> Result<(), &'static str> {
        if first > last {
            return Err("the first port is above the last");
        }
        let ranges = self.ranges.entry(subject).or_default();
        ranges.push(PortRange { first, last, value });
        Ok(())
    }

    /// Sorts what was added; refused where ranges overlap.
    pub(super) fn finish(mut self, field: &str) -> Result<Self, SnapshotError> {
        for ((endpoint, direction), ranges) in &mut self.ranges {
            ranges.sort_by_key(|range| range.first);
            let overlap = ranges.windows(2).any(|pair| match pair {
                [left, right] => left.last >= right.first,
                _ => false,
            });
            if overlap {
                return Err(SnapshotError {
                    field: field.into(),
                    reason: format!("endpoint {endpoint} has overlapping {direction} port ranges"),
                });
            }
        }
        Ok(self)
    }

    /// What holds on a port.
    pub(super) fn get(&self, endpoint: EndpointId, direction: Direction, port: u16) -> Option<&T> {
        let ranges = self.ranges.get(&(endpoint, direction))?;
        let after = ranges.partition_point(|range| range.first <= port);
        let range = ranges.get(after.checked_sub(1)?)?;
        (port <= range.last).then_some(&range.value)
    }

    /// All values.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        let ranges = self.ranges.values().flatten();
        ranges.map(|range| &range.value)
    }
}
