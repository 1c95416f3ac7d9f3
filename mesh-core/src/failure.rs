//! Who failed, why, and whether trying again can help.

use std::fmt;

/// The party whose fault a failure is; decides whom an error names and which
/// counter it feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The client: malformed or too large, or it went away.
    Downstream,
    /// The mesh itself: a limit, no configuration, a broken filter.
    Mesh,
    /// The backend: refused, reset, too slow, malformed.
    Upstream,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Downstream => "downstream",
            Self::Mesh => "mesh",
            Self::Upstream => "upstream",
        })
    }
}

/// Whether a failed request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Never: the same request would fail again, or the answer has begun.
    Never,
    /// Only a request that may be repeated without harm: some of it may have
    /// reached the backend.
    IfIdempotent,
    /// Always: nothing of it has left the proxy.
    Safe,
}

/// Why a request failed. The status it turns into is decided in one place, by
/// the proxy's responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FailureKind {
    /// The request broke the protocol.
    #[error("malformed request")]
    MalformedRequest,
    /// The request was larger than a limit.
    #[error("request too large")]
    RequestTooLarge,
    /// The client did not send what it began in time.
    #[error("request timeout")]
    RequestTimeout,
    /// The client went away.
    #[error("client disconnected")]
    ClientGone,
    /// No route, or a route to a cluster that has no endpoint.
    #[error("no upstream")]
    NoUpstream,
    /// A bound on connections or requests was reached.
    #[error("overflow")]
    Overflow,
    /// The backend could not be reached.
    #[error("connect failed")]
    ConnectFailed,
    /// The backend could not be reached in time.
    #[error("connect timeout")]
    ConnectTimeout,
    /// The connection broke before an answer began.
    #[error("connection reset before response")]
    ResetBeforeResponse,
    /// The connection broke within the answer.
    #[error("connection reset within response")]
    ResetWithinResponse,
    /// The backend did not answer in time.
    #[error("response timeout")]
    ResponseTimeout,
    /// The backend's answer broke the protocol.
    #[error("malformed response")]
    MalformedResponse,
}

impl FailureKind {
    /// Whose fault it is.
    pub fn party(self) -> Party {
        match self {
            Self::MalformedRequest
            | Self::RequestTooLarge
            | Self::RequestTimeout
            | Self::ClientGone => Party::Downstream,
            Self::NoUpstream | Self::Overflow => Party::Mesh,
            Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::ResetBeforeResponse
            | Self::ResetWithinResponse
            | Self::ResponseTimeout
            | Self::MalformedResponse => Party::Upstream,
        }
    }

    /// Whether sending the request again may help and do no harm.
    pub fn retry(self) -> Retry {
        match self {
            Self::ConnectFailed | Self::ConnectTimeout => Retry::Safe,
            Self::ResetBeforeResponse => Retry::IfIdempotent,
            _ => Retry::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_upstream_failures_before_an_answer_are_retried() {
        assert_eq!(FailureKind::ConnectFailed.retry(), Retry::Safe);
        assert_eq!(
            FailureKind::ResetBeforeResponse.retry(),
            Retry::IfIdempotent
        );
        for kind in [
            FailureKind::ResetWithinResponse,
            FailureKind::ResponseTimeout,
            FailureKind::MalformedRequest,
            FailureKind::Overflow,
        ] {
            assert_eq!(kind.retry(), Retry::Never, "{kind}");
        }
    }
}
