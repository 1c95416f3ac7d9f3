//! Traffic that has to come to the proxy because a filter is attached to it.

use crate::model::Direction;

/// TCP ports of an endpoint on which filters are attached.
///
/// Who may reach whom does not change by that. A node towards its own pod is left
/// out: its probes have to arrive with the proxy down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Intercept {
    /// Whether the endpoint is asked, or asks.
    pub direction: Direction,
    /// First port of the range; of the destination, in either direction.
    pub first: u16,
    /// Last port of the range, inclusive. Below the first one no port is meant.
    pub last: u16,
}

impl Intercept {
    /// Every port of a direction.
    pub fn all(direction: Direction) -> Self {
        Self {
            direction,
            first: 0,
            last: u16::MAX,
        }
    }

    /// Whether a port is meant.
    pub fn is_on(&self, direction: Direction, port: u16) -> bool {
        self.direction == direction && (self.first..=self.last).contains(&port)
    }
}
