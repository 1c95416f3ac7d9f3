//! What filters did to an exchange, for its span, its flow and metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use weft_core::filter::Phase;
use weft_wasm_host::FaultKind;

use super::exchange::Marks;
use crate::identity::Direction;

/// What came of a filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The request passed it.
    #[default]
    Passed,
    /// It answered with this status.
    Replied(u16),
    /// It wanted to hold more of a body than it may, and the request ended.
    TooLarge,
    /// It failed, and the request with it.
    Failed(FaultKind),
    /// It failed, and the request went on without it.
    Skipped(FaultKind),
}

/// A filter's part in an exchange.
#[derive(Debug, Clone)]
pub struct Run {
    /// The object that it comes from.
    pub filter: Arc<str>,
    /// Where in the request's way it is.
    pub phase: Phase,
    /// When it was first called.
    pub began: Instant,
    /// CPU time of all its calls.
    pub spent: Duration,
    /// How often it was called.
    pub calls: u32,
    /// What came of it.
    pub outcome: Outcome,
}

/// Filters that a request usually meets. What is said of more of them takes memory of its own.
pub const USUAL: usize = 1;

/// All filters' parts in an exchange.
#[derive(Debug, Default)]
pub struct Runs {
    /// In the order of the request.
    pub runs: SmallVec<[Run; USUAL]>,
    /// What they said for its span.
    pub marks: Marks,
}

/// The filter that decided about an exchange.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The object that it comes from.
    pub filter: Arc<str>,
    /// Whose enforcement it is attached to.
    pub direction: Direction,
    /// Why, in its own words or in those of its failure.
    pub reason: Box<str>,
    /// It answered the request itself, with this status.
    pub status: Option<u16>,
}

impl Mark {
    /// Whether the request was denied so, and not just answered.
    #[must_use]
    pub fn denies(&self) -> bool {
        self.status.is_none_or(|status| status >= 400)
    }

    /// As flows have it: `WeftFilter default/jwt: no token`.
    #[must_use]
    pub fn text(&self) -> String {
        match &*self.reason {
            "" => self.filter.to_string(),
            reason => format!("{}: {reason}", self.filter),
        }
    }
}
