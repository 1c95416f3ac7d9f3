//! What goes wrong with filters, and whose fault it is.

use std::time::Duration;

use http::StatusCode;

use crate::types::Side;

/// A call of a filter that came to no good end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It panicked, read beyond its memory, recursed without end.
    #[error("the filter trapped: {0}")]
    Trap(String),
    /// It did not come back in time.
    #[error("the filter used more than {} ms of CPU time in one call", .limit.as_millis())]
    Timeout {
        /// What it is allowed.
        limit: Duration,
    },
    /// It wanted more memory or a larger table than it may have.
    #[error("{what} is used up")]
    Memory {
        /// Which limit.
        what: &'static str,
    },
    /// What it answered cannot be done.
    #[error("the filter answered with {0}")]
    Answer(String),
    /// It wants to hold more of a body than it may. Whatever its policy says: see [`Self::status`].
    #[error("the filter holds more than {most} bytes of a body")]
    Held {
        /// The message that the body is of.
        side: Side,
        /// What it may hold.
        most: usize,
    },
    /// It says itself that it cannot decide about this request. The instance is sound.
    #[error("the filter could not decide: {0}")]
    Undecided(String),
    /// It did not take its configuration.
    #[error("the filter refused its configuration: {0}")]
    Config(String),
    /// There is no room for another instance on this node.
    #[error("no instance could be made: {0}")]
    NoRoom(String),
    /// No instance is there: the last one failed, and its successor has to wait.
    #[error("{}", down(*.of))]
    Down {
        /// What it failed of; the policy for that holds on.
        of: FaultKind,
    },
    /// It was answered with something that it does not expect: an unknown context, a wrong order.
    #[error("the filter was driven wrongly: {0}")]
    Misuse(&'static str),
}

fn down(of: FaultKind) -> &'static str {
    match of {
        FaultKind::Load => "its module is not loaded",
        FaultKind::Config => "it has refused its configuration",
        FaultKind::Trap => "the filter has failed and is not back yet",
        FaultKind::Timeout => {
            "the filter has used up its CPU time, or was stopped and is not back yet"
        }
    }
}

impl Fault {
    /// Whether the instance must not be called again.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Trap(_) | Self::Timeout { .. } | Self::Memory { .. } | Self::Config(_)
        )
    }

    /// What the request is answered with whatever the filter's policy says, where that is settled: a
    /// body that is too large to be held never passes unseen.
    #[must_use]
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Held { side, .. } => Some(match side {
                Side::Request => StatusCode::PAYLOAD_TOO_LARGE,
                Side::Response => StatusCode::BAD_GATEWAY,
            }),
            _ => None,
        }
    }

    /// What kind it is, for the policy of failures and for metrics.
    #[must_use]
    pub const fn kind(&self) -> FaultKind {
        match self {
            // Clients can bring about that there is no room, and are not to choose so which policy
            // is asked: the module is there.
            Self::Timeout { .. } | Self::NoRoom(_) => FaultKind::Timeout,
            Self::Config(_) => FaultKind::Config,
            Self::Down { of } => *of,
            Self::Trap(_)
            | Self::Memory { .. }
            | Self::Answer(_)
            | Self::Held { .. }
            | Self::Undecided(_)
            | Self::Misuse(_) => FaultKind::Trap,
        }
    }
}

/// For which failures a policy can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The module could not be had or compiled.
    Load,
    /// It refused its configuration.
    Config,
    /// It trapped, or had no answer that can be used: it said that it cannot decide, or answered
    /// with what cannot be done.
    Trap,
    /// It ran too long, or there is no room for more of it.
    Timeout,
}

/// What becomes of a request when a filter fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailPolicy {
    /// It is answered with 503.
    #[default]
    Closed,
    /// It goes on as if the filter were not there.
    Open,
}

/// A policy for each kind of failure. Closed, unless it is said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnError {
    /// The module is not there.
    pub load: FailPolicy,
    /// It refused its configuration.
    pub config: FailPolicy,
    /// It trapped, or had no answer that can be used.
    pub trap: FailPolicy,
    /// It ran too long.
    pub timeout: FailPolicy,
}

impl OnError {
    /// The same policy for every kind.
    #[must_use]
    pub const fn all(policy: FailPolicy) -> Self {
        Self {
            load: policy,
            config: policy,
            trap: policy,
            timeout: policy,
        }
    }

    /// What becomes of a request that met this.
    #[must_use]
    pub const fn policy(&self, kind: FaultKind) -> FailPolicy {
        match kind {
            FaultKind::Load => self.load,
            FaultKind::Config => self.config,
            FaultKind::Trap => self.trap,
            FaultKind::Timeout => self.timeout,
        }
    }
}
