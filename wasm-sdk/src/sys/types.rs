//! The types of the WIT text, natively. Names, fields and derives are those that wit-bindgen gives.

/// A header as the host gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Lower case.
    pub name: Vec<u8>,
    /// Any bytes but CR, LF and NUL.
    pub value: Vec<u8>,
}

/// The fields of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

bitflags::bitflags! {
    /// What of an exchange a filter wants to see; anything else passes without a call.
    ///
    /// ```
    /// use weft_sdk::Interests;
    /// let heads = Interests::REQUEST_HEADERS | Interests::RESPONSE_HEADERS;
    /// assert!(!heads.contains(Interests::REQUEST_BODY));
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Interests: u8 {
        /// The request's head.
        const REQUEST_HEADERS = 1;
        /// The request's body.
        const REQUEST_BODY = 1 << 1;
        /// The request's trailers.
        const REQUEST_TRAILERS = 1 << 2;
        /// The response's head.
        const RESPONSE_HEADERS = 1 << 3;
        /// The response's body.
        const RESPONSE_BODY = 1 << 4;
        /// The response's trailers.
        const RESPONSE_TRAILERS = 1 << 5;
    }
}

/// What a filter says of itself when it is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Name and version of the SDK.
    pub sdk: String,
    /// What it wants to see.
    pub interests: Interests,
    /// JSON schema of its configuration.
    pub config_schema: String,
}

/// A part of a body.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Its bytes.
    pub data: Vec<u8>,
    /// The message ends with it.
    pub end: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The request's head; true if nothing follows.
    RequestHeaders(bool),
    /// A part of the request's body.
    RequestBody(Chunk),
    /// The request's trailers.
    RequestTrailers,
    /// The response's head; true if nothing follows.
    ResponseHeaders(bool),
    /// A part of the response's body.
    ResponseBody(Chunk),
    /// The response's trailers.
    ResponseTrailers,
    /// A fetch is over.
    FetchDone(Fetched),
    /// A timer has run out.
    Timer(u64),
}

/// What is to become of the part of the message that is at hand.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Hold it.
    Pending,
    /// Hold it and give the next part.
    More,
    /// Let it go on.
    Proceed,
    /// Let it go on with these bytes in place of all held parts of the body.
    Emit(Vec<u8>),
    /// Let it go on, and all that follows.
    Pass,
    /// Answer the request.
    Reply(Reply),
    /// The filter cannot decide.
    Fail(String),
}

/// An answer of the filter's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Between 200 and 599.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<Header>,
    /// Its body.
    pub body: Vec<u8>,
    /// Why; the client does not see it.
    pub reason: String,
}

/// A request of the filter's own.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchRequest {
    /// `name.namespace:port`.
    pub service: String,
    /// Its method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Its headers.
    pub headers: Vec<Header>,
    /// Its body.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Vec<Header>,
    /// HTTP/2, as gRPC needs it.
    pub http2: bool,
    /// After so long it is over.
    pub timeout_ms: u32,
}

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchResponse {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<Header>,
    /// Its body.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Vec<Header>,
}

/// Why a fetch brought no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum FetchError {
    /// The egress policy of the pod that the filter works for does not let it through.
    Denied,
    /// The filter's callouts do not name the Service, there is none, or nobody is behind it.
    NoEndpoint,
    /// No answer in time.
    Timeout,
    /// The answer is larger than the filter's limits allow.
    TooLarge,
    /// Too many at once.
    Overloaded,
    /// The request cannot be made from what was given.
    Invalid(String),
    /// The connection failed.
    Failed(String),
}

/// The end of a fetch.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// What `start-fetch` returned.
    pub id: u64,
    /// What came of it.
    pub result: Result<FetchResponse, FetchError>,
}

/// How urgent a line of the log is.
///
/// ```
/// # fn f(log: &weft_sdk::Log) {
/// log.at(weft_sdk::Level::Debug, "looked up", &[("hit", &true)]);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Trace,
    /// For the filter's author.
    Debug,
    /// Normal.
    Info,
    /// Not normal.
    Warn,
    /// Does not work.
    Error,
}

/// What a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of values.
    Histogram,
}

/// A key and a value: of a pod, a metric, a line of the log.
///
/// ```
/// let label = weft_sdk::Label { key: "app".into(), value: "shop".into() };
/// assert_eq!(label.key, "app");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Whose enforcement the exchange passes.
///
/// ```
/// # fn f(request: &weft_sdk::Request) -> bool {
/// request.attributes().direction == weft_sdk::Direction::Ingress
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Out of the source.
    Egress,
    /// Into the destination.
    Ingress,
}

/// One end of the connection.
///
/// ```
/// # fn f(request: &weft_sdk::Request) -> bool {
/// request.attributes().source.label("app") == Some("frontend")
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// IP address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Number of the security identity.
    pub identity: u32,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod, empty where it is none that is known here.
    pub pod: String,
    /// Labels of the identity.
    pub labels: Vec<Label>,
}

/// What is known of an exchange besides its message.
///
/// ```
/// # fn f(request: &weft_sdk::Request) -> String {
/// let known = request.attributes();
/// format!("{} {} from {}", known.method, known.path, known.source.pod)
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Attributes {
    /// The mesh's number of the request.
    pub request_id: String,
    /// 32 hexadecimal digits, empty without a trace.
    pub trace_id: String,
    /// Whose enforcement it passes.
    pub direction: Direction,
    /// Who asks.
    pub source: Peer,
    /// Who is asked.
    pub destination: Peer,
    /// `forwarded` or `dropped`, empty before policy.
    pub verdict: String,
    /// The policy that decided, empty before policy.
    pub rule: String,
    /// The route that was chosen, empty before routing.
    pub route: String,
    /// Its method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Its host.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// As `HTTP/1.1`.
    pub http_version: String,
}

/// Why a value could not be stored.
#[derive(Debug, Clone, PartialEq)]
pub enum KvError {
    /// Somebody else changed it: the version that it has now, none if it is gone.
    Conflict(Option<u64>),
    /// The filter's quota of keys or bytes is used up.
    Quota,
    /// Key or value are larger than the limits allow, or an increment meets no number.
    Invalid(String),
}

/// A stored value.
///
/// ```
/// # fn f(kv: &weft_sdk::Kv) -> Option<u64> {
/// kv.get("key").map(|entry| entry.version)
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct KvEntry {
    /// Its bytes.
    pub value: Vec<u8>,
    /// Grows with each change.
    pub version: u64,
}
