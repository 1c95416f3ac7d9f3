//! Traffic that has to come to the proxy because a filter is attached to it.

use crate::model::Direction;

/// TCP ports of an endpoint on which filters are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Intercept {
    /// Whether the endpoint is asked, or asks.
    pub direction: Direction,
    /// First port of the range; of the destination, in either direction.
    pub first: u16,
    /// Last port of the range, inclusive.
    pub last: u16,
}
