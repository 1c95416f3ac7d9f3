//! Why a request could not be served: the one error of the data plane.
//!
//! Raised where it happens; mapped to an answer in `http/respond.rs` and
//! nowhere else. It says who failed and whether another attempt is allowed.

use std::io;

use thiserror::Error;
use weft_wasm_host::FaultKind;

/// Who is to blame for a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Culprit {
    /// The client: a bad or abandoned request.
    Downstream,
    /// A policy or a limit of the proxy.
    Proxy,
    /// The server that the request was for.
    Upstream,
}

/// A request that could not be served.
///
/// Small and `Copy`, so that it travels without allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Failure {
    /// The connection speaks another protocol; says how that is known.
    #[error("not http: {0}")]
    NotHttp(&'static str),
    /// The bytes are not a request that may be forwarded; says what is wrong.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// The head of the request is larger than allowed.
    #[error("request head too large")]
    HeadTooLarge,
    /// The target of the request is longer than allowed.
    #[error("request target too long")]
    UriTooLong,
    /// Valid HTTP that this proxy does not forward; says what.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// `CONNECT`, which nothing here asks for.
    #[error("CONNECT is not allowed")]
    Connect,
    /// The client did not send its request in time.
    #[error("request timed out while it was read")]
    RequestTooSlow,
    /// The client went away before its request was complete.
    #[error("client closed the connection")]
    ClientGone,
    /// Neither end is a pod of this node: nobody's policy sent the request
    /// here, and none says what may pass.
    #[error("unknown source and destination")]
    Strangers,
    /// A pod asks for a port of a node that is not for pods: from here it
    /// would come with the node's own address.
    #[error("a port of the node that is not for pods")]
    Private,
    /// The rules that judged this connection's requests are gone, or never
    /// were there: only a new connection learns from the kernel what holds now.
    #[error("no rules for this connection")]
    Unpoliced,
    /// A policy that allowed the request was withdrawn while it ran.
    #[error("policy was revoked")]
    Revoked,
    /// A limit of the proxy is reached; says which.
    #[error("overloaded: {0}")]
    Overloaded(&'static str),
    /// The proxy is stopping.
    #[error("shutting down")]
    ShuttingDown,
    /// No snapshot or no cluster of that name: nowhere to send the request.
    #[error("no upstream: {0}")]
    NoUpstream(&'static str),
    /// The connection to the upstream could not be made.
    #[error("upstream connect error: {0}")]
    ConnectError(io::ErrorKind),
    /// The connection to the upstream took too long.
    #[error("upstream connect timeout")]
    ConnectTimeout,
    /// The source address has no free port towards this upstream.
    #[error("no source port left")]
    NoSourcePort,
    /// The upstream closed or reset the connection before a response head.
    #[error("upstream reset before the response")]
    UpstreamReset {
        /// The connection was used before: the upstream may have closed it
        /// for idleness without having seen the request.
        reused: bool,
        /// A part of the request was handed to the kernel.
        sent: bool,
    },
    /// The upstream's answer is not HTTP; says what is wrong.
    #[error("malformed response: {0}")]
    BadResponse(&'static str),
    /// The response ended before its length was reached.
    #[error("response ended early")]
    Truncated,
    /// The upstream did not answer in time.
    #[error("upstream request timeout")]
    UpstreamTimeout,
    /// A filter failed, and its owner wants no request to pass without it.
    #[error("filter failed")]
    Filter(FaultKind),
    /// A filter answered the request itself while it was being sent.
    #[error("answered by a filter")]
    Answered,
    /// A filter would have to hold more of the request's body than it may.
    #[error("request body too large for a filter")]
    RequestBodyTooLarge,
    /// The same of the response's.
    #[error("response body too large for a filter")]
    ResponseBodyTooLarge,
    /// No byte of the body moved for too long.
    #[error("body idle timeout")]
    BodyIdle,
}

impl Failure {
    /// A source has as much of the proxy's memory in use as it may.
    pub const MEMORY: Self = Self::Overloaded("memory of one source");

    /// Who is to blame.
    #[must_use]
    pub fn culprit(self) -> Culprit {
        match self {
            Self::NotHttp(_)
            | Self::Malformed(_)
            | Self::HeadTooLarge
            | Self::UriTooLong
            | Self::Unsupported(_)
            | Self::Connect
            | Self::RequestTooSlow
            | Self::ClientGone => Culprit::Downstream,
            Self::Strangers
            | Self::Private
            | Self::Unpoliced
            | Self::Revoked
            | Self::Overloaded(_)
            | Self::ShuttingDown
            | Self::Filter(_)
            | Self::Answered
            | Self::RequestBodyTooLarge
            | Self::ResponseBodyTooLarge
            | Self::NoSourcePort => Culprit::Proxy,
            Self::NoUpstream(_)
            | Self::ConnectError(_)
            | Self::ConnectTimeout
            | Self::UpstreamReset { .. }
            | Self::BadResponse(_)
            | Self::Truncated
            | Self::UpstreamTimeout
            | Self::BodyIdle => Culprit::Upstream,
        }
    }

    /// Whether the same request may be sent again on another connection.
    ///
    /// `idempotent` says whether the method is, and `replayable` whether the
    /// body can be sent again from its start. Only a connection that had been
    /// idle in the pool is worth a second attempt: one that was opened for
    /// this request and failed would fail again.
    #[must_use]
    pub fn may_retry(self, idempotent: bool, replayable: bool) -> bool {
        match self {
            Self::UpstreamReset { reused, sent } => reused && replayable && (idempotent || !sent),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;

    #[test]
    fn retries_only_stale_connections_and_replayable_requests() {
        let stale = Failure::UpstreamReset {
            reused: true,
            sent: true,
        };
        assert!(stale.may_retry(true, true));
        assert!(
            !stale.may_retry(false, true),
            "a POST may have been executed"
        );
        assert!(!stale.may_retry(true, false), "its body is gone");
        let unsent = Failure::UpstreamReset {
            reused: true,
            sent: false,
        };
        assert!(
            unsent.may_retry(false, true),
            "nothing reached the upstream"
        );
        let fresh = Failure::UpstreamReset {
            reused: false,
            sent: true,
        };
        assert!(!fresh.may_retry(true, true));
        assert!(!Failure::UpstreamTimeout.may_retry(true, true));
    }
}
