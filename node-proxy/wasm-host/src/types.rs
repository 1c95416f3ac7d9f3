//! What a filter is told and what it answers, in the host's own words: the same for both kinds of
//! filters.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

/// A request and its response inside of one instance. Never the same twice while the instance
/// lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextId(pub(crate) u64);

impl ContextId {
    /// The instance itself: its timers, its metrics, what it logs outside of requests.
    pub const INSTANCE: Self = Self(0);

    /// The number that the filter knows it by.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the two messages of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

/// Fields of a message that a filter can read and change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fields {
    /// Headers of the request.
    RequestHeaders,
    /// Trailers of the request.
    RequestTrailers,
    /// Headers of the response.
    ResponseHeaders,
    /// Trailers of the response.
    ResponseTrailers,
}

impl Fields {
    /// The message that they are of.
    #[must_use]
    pub const fn side(self) -> Side {
        match self {
            Self::RequestHeaders | Self::RequestTrailers => Side::Request,
            Self::ResponseHeaders | Self::ResponseTrailers => Side::Response,
        }
    }
}

/// What of an exchange a filter wants to see; anything else passes without a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interests {
    /// Events of this kind.
    pub request_headers: bool,
    /// Events of this kind.
    pub request_body: bool,
    /// Events of this kind.
    pub request_trailers: bool,
    /// Events of this kind.
    pub response_headers: bool,
    /// Events of this kind.
    pub response_body: bool,
    /// Events of this kind.
    pub response_trailers: bool,
}

impl Interests {
    /// Whether it wants to see anything of a message.
    #[must_use]
    pub const fn any(self, side: Side) -> bool {
        match side {
            Side::Request => self.request_headers || self.request_body || self.request_trailers,
            Side::Response => self.response_headers || self.response_body || self.response_trailers,
        }
    }

    /// What both want to see.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            request_headers: self.request_headers && other.request_headers,
            request_body: self.request_body && other.request_body,
            request_trailers: self.request_trailers && other.request_trailers,
            response_headers: self.response_headers && other.response_headers,
            response_body: self.response_body && other.response_body,
            response_trailers: self.response_trailers && other.response_trailers,
        }
    }
}

/// What a filter says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// Its name, as its author gave it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Name and version of what it was made with.
    pub sdk: String,
    /// What it wants to see.
    pub interests: Interests,
    /// JSON schema of its configuration; empty where the ABI knows none.
    pub config_schema: String,
}

/// What happened. A context's messages come in order; `FetchDone` and `Timer` come in between.
#[derive(Debug, Clone)]
pub enum Event {
    /// The request's head is complete.
    RequestHeaders {
        /// Neither body nor trailers follow.
        end: bool,
    },
    /// A part of the request's body.
    RequestBody {
        /// Its bytes.
        data: Bytes,
        /// It is the last part of the message: no trailers follow. Trailers end a message by
        /// themselves.
        end: bool,
    },
    /// The request ends with trailers.
    RequestTrailers,
    /// The response's head is complete.
    ResponseHeaders {
        /// Neither body nor trailers follow.
        end: bool,
    },
    /// A part of the response's body.
    ResponseBody {
        /// Its bytes.
        data: Bytes,
        /// It is the last part of the message: no trailers follow. Trailers end a message by
        /// themselves.
        end: bool,
    },
    /// The response ends with trailers.
    ResponseTrailers,
    /// A fetch is over.
    FetchDone {
        /// Of the [`Command::StartFetch`] that it answers.
        id: u64,
        /// What came of it.
        result: FetchResult,
    },
    /// A timer has run out.
    Timer {
        /// Of the [`Command::SetTimer`] that asked for it.
        id: u64,
    },
}

impl Event {
    /// The message that it is a part of; none for what comes in between.
    #[must_use]
    pub const fn side(&self) -> Option<Side> {
        match self {
            Self::RequestHeaders { .. } | Self::RequestBody { .. } | Self::RequestTrailers => {
                Some(Side::Request)
            }
            Self::ResponseHeaders { .. } | Self::ResponseBody { .. } | Self::ResponseTrailers => {
                Some(Side::Response)
            }
            Self::FetchDone { .. } | Self::Timer { .. } => None,
        }
    }
}

/// What is to become of the part of a message that is at hand, and of the parts of it that were
/// held back before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Hold it: a fetch or a timer decides.
    Pending,
    /// Hold it and give the next part of the same message.
    More,
    /// Let it go on.
    Proceed,
    /// Let it go on with these bytes in place of all held parts of the body.
    Emit(Bytes),
    /// Let it go on, and all that follows on this side with no further call.
    Pass,
    /// Answer the request with this; after the response's head was sent, end it early.
    Reply(Box<Reply>),
}

/// An answer of the filter's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Between 200 and 599.
    pub status: StatusCode,
    /// None of them frames the message.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Why, for flows and spans; the client does not see it.
    pub reason: String,
}

/// A request of the filter's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// `name.namespace:port` or `name:port`.
    pub service: String,
    /// Its method.
    pub method: Method,
    /// The `:authority` that it is to carry; the service's where the filter gave none.
    pub authority: Option<String>,
    /// Path and query; begins with a slash.
    pub path: String,
    /// None of them frames the message.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Sent after the body.
    pub trailers: HeaderMap,
    /// HTTP/2, as gRPC needs it.
    pub http2: bool,
    /// After this it is over.
    pub timeout: Duration,
}

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// All of its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: HeaderMap,
}

/// What came of a fetch.
pub type FetchResult = Result<Box<FetchResponse>, FetchError>;

/// Why a fetch brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Policy of the subject.
    #[error("the egress policy of the filter's pod does not allow it")]
    Denied,
    /// Nobody to ask.
    #[error("the filter's callouts do not name the Service, there is none, or nobody is behind it")]
    NoEndpoint,
    /// It took too long.
    #[error("timed out")]
    Timeout,
    /// The answer is larger than the filter's limits allow.
    #[error("the answer is too large")]
    TooLarge,
    /// Too many at once.
    #[error("too many fetches at once")]
    Overloaded,
    /// It cannot be made from what was given.
    #[error("{0}")]
    Invalid(String),
    /// The connection failed.
    #[error("{0}")]
    Failed(String),
}

/// What a filter asks of whoever drives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send this and answer with [`Event::FetchDone`].
    StartFetch {
        /// Number to answer with.
        id: u64,
        /// What to send.
        request: Box<FetchRequest>,
    },
    /// Nobody waits for it any more.
    CancelFetch {
        /// Number that it was started with.
        id: u64,
    },
    /// Answer with [`Event::Timer`] after this long.
    SetTimer {
        /// Number to answer with.
        id: u64,
        /// How long.
        after: Duration,
    },
    /// Nobody waits for it any more.
    CancelTimer {
        /// Number that it was set with.
        id: u64,
    },
    /// A message of this context that was held goes on so: what [`Step`] says, decided outside of
    /// an event of this context.
    Decide {
        /// Which of its messages.
        side: Side,
        /// What becomes of it.
        step: Step,
    },
}

/// How much a filter has to say of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Trace,
    /// For its author.
    Debug,
    /// Normal.
    Info,
    /// Not normal.
    Warn,
    /// Does not work.
    Error,
}

/// Keys and values of a log line, a metric or a span's event.
pub type Labels = Vec<(String, String)>;
