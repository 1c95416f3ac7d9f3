//! One request and its response, as telemetry sees them.
//!
//! Made once on the worker, shared by reference, and read off the worker to
//! build flows, spans and metrics. Nothing is formatted here.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::failure::Failure;
use crate::filter::run::{Mark, Runs};
use crate::identity::{Direction, Ends};
use crate::memory::Lent;
use crate::pipeline::policy::Decision;
use crate::pipeline::request_id::RequestId;
use crate::pipeline::trace::Trace;

/// A request that was decided on.
#[derive(Debug)]
pub struct Exchange {
    /// Both ends.
    pub ends: Arc<Ends>,
    /// The request as it was judged and as it is forwarded.
    pub head: Parts,
    /// Correlates everything that is said about the request.
    pub request_id: RequestId,
    /// The trace it belongs to, if any.
    pub trace: Option<Trace>,
    /// When its head was complete.
    pub started: Instant,
    /// The same moment on the wall.
    pub time: SystemTime,
    /// What each observation point decided, in the order of the request.
    pub decisions: Decisions,
    /// A filter answered it in place of the upstream.
    pub answered: bool,
    /// Why it was refused, when it was not a policy's doing.
    pub refused: Option<Failure>,
    /// Memory of a large head, which telemetry may keep for longer than its
    /// request lasts.
    pub memory: Option<Lent>,
    /// The filter that answered it or that it failed in, if one did.
    pub filter: OnceLock<Box<Mark>>,
    /// What filters did, set before its end is.
    pub runs: OnceLock<Box<Runs>>,
    /// Set with the head of the response.
    pub response: OnceLock<ResponseHead>,
    /// Set when the last byte was sent, or when that failed.
    pub end: OnceLock<End>,
}

impl Exchange {
    /// Whether it was sent on.
    #[must_use]
    pub fn is_forwarded(&self) -> bool {
        self.refused.is_none() && self.decisions.allowed() && !self.answered
    }
}

/// What the observation points decided. A direction without a policy for the
/// port has none and is not observed.
#[derive(Debug, Clone, Default)]
pub struct Decisions {
    /// Leaving the source.
    pub egress: Option<Decision>,
    /// Arriving at the destination. Not reached when egress denies.
    pub ingress: Option<Decision>,
}

impl Decisions {
    /// Whether the request may pass.
    #[must_use]
    pub fn allowed(&self) -> bool {
        let denied = |decision: &Option<Decision>| {
            decision.as_ref().is_some_and(|decision| !decision.allowed)
        };
        !denied(&self.egress) && !denied(&self.ingress)
    }

    /// In the order of the request.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Direction, &Decision)> {
        let egress = self.egress.as_ref().map(|one| (Direction::Egress, one));
        let ingress = self.ingress.as_ref().map(|one| (Direction::Ingress, one));
        egress.into_iter().chain(ingress)
    }
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without those that the proxy adds for the client alone.
    pub headers: Fields,
    /// From the request's head to this one.
    pub latency: Duration,
}

/// Names and values of headers, copied into one piece of memory: records are
/// many and live until telemetry had its turn.
#[derive(Debug, Default)]
pub struct Fields(Vec<u8>);

/// Between names and values, none of which can hold it.
const END: u8 = b'\n';

impl Fields {
    /// All of `headers`.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let length =
            |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 2;
        let mut text = Vec::with_capacity(headers.iter().map(length).sum());
        for (name, value) in headers {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                text.extend_from_slice(part);
                text.push(END);
            }
        }
        Self(text)
    }

    /// Names, in lower case, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut parts = self.0.split(|byte| *byte == END);
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// From the request's head to the last byte of the response.
    pub duration: Duration,
    /// Bytes of the response's body.
    pub response_bytes: u64,
    /// Why it ended early, if it did.
    pub failure: Option<Failure>,
}

/// A connection that was refused before it had a request.
#[derive(Debug)]
pub struct RefusedConnection {
    /// Both ends.
    pub ends: Arc<Ends>,
    /// The observation point that saw it.
    pub direction: Direction,
    /// When.
    pub time: SystemTime,
    /// Why.
    pub reason: Failure,
}

/// What a worker tells telemetry.
#[derive(Debug)]
pub enum Event {
    /// A request was decided on: its flow is due, however long it will run.
    Decided(Arc<Exchange>),
    /// The head of a response whose body is still to come.
    Answered(Arc<Exchange>),
    /// The exchange is over. Its response was not reported yet when `answer`
    /// is set.
    Ended {
        /// The exchange.
        exchange: Arc<Exchange>,
        /// Also report the response.
        answer: bool,
    },
    /// A connection was refused.
    Refused(Box<RefusedConnection>),
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::Fields;

    #[test]
    fn fields_are_kept_as_they_are() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", "1"), ("b", ""), ("a", "2"), ("c", "x: y")] {
            headers.append(name, value.parse().expect("valid"));
        }
        let fields = Fields::of(&headers);
        let all: Vec<_> = fields.iter().collect();
        let expected: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
            .collect();
        assert_eq!(all, expected);
        assert_eq!(Fields::default().iter().count(), 0);
    }
}
