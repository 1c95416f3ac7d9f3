//! Requests of the filter's own.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll};
use std::time::Duration;

use crate::grpc::GrpcBuilder;
use crate::headers::{HeaderValue, is_framing};
use crate::runtime::{Answer, Exchange};
use crate::sys::types::{self, FetchRequest, FetchResponse, Header};

/// Until a filter says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is asked; what for comes next.
///
/// ```
/// # use weft_sdk::{Request, Result};
/// # async fn f(request: &Request) -> Result<()> {
/// let authz = request.fetch("authz.default:80");
/// let answer = authz.post("/check").body("who?").await?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Fetch {
    exchange: Rc<Exchange>,
    service: String,
}

impl Fetch {
    pub(crate) const fn new(exchange: Rc<Exchange>, service: String) -> Self {
        Self { exchange, service }
    }

    /// A GET of path and query.
    ///
    /// ```
    /// # async fn f(request: &weft_sdk::Request) -> bool {
    /// request.fetch("flags:80").get("/flags?app=shop").await.is_ok()
    /// # }
    /// ```
    pub fn get(self, path: impl Into<String>) -> FetchBuilder {
        self.method("GET", path)
    }

    /// A POST to path and query.
    ///
    /// ```
    /// # async fn f(request: &weft_sdk::Request) -> bool {
    /// request.fetch("audit:80").post("/events").body("seen").await.is_ok()
    /// # }
    /// ```
    pub fn post(self, path: impl Into<String>) -> FetchBuilder {
        self.method("POST", path)
    }

    /// Any method.
    ///
    /// ```
    /// # async fn f(request: &weft_sdk::Request) -> bool {
    /// request.fetch("cache:80").method("DELETE", "/all").await.is_ok()
    /// # }
    /// ```
    pub fn method(self, method: impl Into<String>, path: impl Into<String>) -> FetchBuilder {
        FetchBuilder {
            exchange: self.exchange,
            wrong: None,
            request: FetchRequest {
                service: self.service,
                method: method.into(),
                path: path.into(),
                headers: Vec::new(),
                body: Vec::new(),
                trailers: Vec::new(),
                http2: false,
                timeout_ms: millis(DEFAULT_TIMEOUT),
            },
        }
    }

    /// A gRPC call of `/package.Service/Method`.
    ///
    /// ```
    /// # async fn f(request: &weft_sdk::Request) -> Result<(), weft_sdk::GrpcError> {
    /// let answer = request.fetch("users:50051").grpc("/users.Users/Get").message(b"").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn grpc(self, method: impl Into<String>) -> GrpcBuilder {
        GrpcBuilder::new(self.method("POST", method))
    }
}

/// A request that is being made; awaiting it sends it.
///
/// ```
/// # use std::time::Duration;
/// # use weft_sdk::{Request, Result};
/// # async fn f(request: &Request) -> Result<()> {
/// let answer = request
///     .fetch("authz.default:80")
///     .get("/check")
///     .header("x-path", request.path())
///     .timeout(Duration::from_millis(200))
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "it is sent when it is awaited"]
pub struct FetchBuilder {
    exchange: Rc<Exchange>,
    /// Why it cannot be sent.
    wrong: Option<String>,
    pub(crate) request: FetchRequest,
}

impl FetchBuilder {
    /// With one more header; with `host` the fetch names that host in place of the Service's own
    /// name, and goes to the Service all the same. With one that the proxy writes itself, as
    /// `content-length`, it is not sent, and awaiting it is an error.
    ///
    /// ```
    /// # fn f(fetch: weft_sdk::Fetch) {
    /// let _ = fetch.get("/").header("host", "issuer.example").header("accept", "text/plain");
    /// # }
    /// ```
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref().to_ascii_lowercase();
        if name == b"host" {
            self.request.headers.retain(|header| header.name != b"host");
        } else if is_framing(&name) {
            let name = String::from_utf8_lossy(&name);
            self.wrong.get_or_insert_with(|| {
                format!("the header {name} of a fetch: the proxy writes it itself")
            });
            return self;
        }
        self.framing(name, value)
    }

    /// A header, whatever it means to the proxy.
    pub(crate) fn framing(mut self, name: impl Into<Vec<u8>>, value: impl AsRef<[u8]>) -> Self {
        self.request.headers.push(Header {
            name: name.into(),
            value: value.as_ref().to_vec(),
        });
        self
    }

    /// With this body.
    ///
    /// ```
    /// # fn f(fetch: weft_sdk::Fetch) {
    /// let _ = fetch.post("/").body("hello");
    /// # }
    /// ```
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.request.body = body.into();
        self
    }

    /// With JSON as its body.
    ///
    /// # Errors
    /// Where the value cannot be written as JSON.
    ///
    /// ```
    /// # fn f(fetch: weft_sdk::Fetch) -> weft_sdk::Result<()> {
    /// let _ = fetch.post("/").json(&serde_json::json!({"user": "ada"}))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn json(self, value: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_vec(value)?;
        Ok(self.header("content-type", "application/json").body(body))
    }

    /// Gives up after this long; 5 seconds unless said otherwise.
    ///
    /// ```
    /// # fn f(fetch: weft_sdk::Fetch) {
    /// let _ = fetch.get("/").timeout(std::time::Duration::from_millis(50));
    /// # }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.request.timeout_ms = millis(timeout);
        self
    }

    /// Over HTTP/2.
    ///
    /// ```
    /// # fn f(fetch: weft_sdk::Fetch) {
    /// let _ = fetch.get("/").http2();
    /// # }
    /// ```
    pub const fn http2(mut self) -> Self {
        self.request.http2 = true;
        self
    }
}

impl IntoFuture for FetchBuilder {
    type Output = Result<FetchReply, FetchError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(Fetching {
            exchange: self.exchange,
            state: match self.wrong {
                Some(why) => State::Wrong(why),
                None => State::New(self.request),
            },
        })
    }
}

/// A fetch from its start to its answer; dropped before, it is cancelled.
struct Fetching {
    exchange: Rc<Exchange>,
    state: State,
}

enum State {
    Wrong(String),
    New(FetchRequest),
    Asked(u64, Answer),
    Over,
}

impl Future for Fetching {
    type Output = Result<FetchReply, FetchError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        if let State::Wrong(why) = &mut self.state {
            let why = std::mem::take(why);
            self.state = State::Over;
            return Poll::Ready(Err(FetchError::Invalid(why)));
        }
        if let State::New(request) = &self.state {
            match self.exchange.start_fetch(request) {
                Ok((id, slot)) => self.state = State::Asked(id, slot),
                Err(err) => {
                    self.state = State::Over;
                    return Poll::Ready(Err(err.into()));
                }
            }
        }
        let State::Asked(_, slot) = &self.state else {
            return Poll::Pending;
        };
        let answer = task::ready!(slot.poll(cx));
        self.state = State::Over;
        Poll::Ready(answer.map(FetchReply::from).map_err(FetchError::from))
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if let State::Asked(id, _) = self.state {
            self.exchange.cancel(id, true);
        }
    }
}

/// What a fetch brought.
///
/// ```
/// # use weft_sdk::{FetchReply, Result};
/// fn allowed(answer: &FetchReply) -> Result<bool> {
///     let said: serde_json::Value = answer.json()?;
///     Ok(answer.is_success() && said["allow"] == true)
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct FetchReply {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
    headers: Vec<Header>,
    trailers: Vec<Header>,
}

impl From<FetchResponse> for FetchReply {
    fn from(response: FetchResponse) -> Self {
        Self {
            status: response.status,
            body: response.body,
            headers: response.headers,
            trailers: response.trailers,
        }
    }
}

impl FetchReply {
    /// Its status is 2xx.
    ///
    /// ```
    /// # fn f(answer: &weft_sdk::FetchReply) -> bool {
    /// answer.is_success()
    /// # }
    /// ```
    #[must_use]
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The first value of a header.
    ///
    /// ```
    /// # fn f(answer: &weft_sdk::FetchReply) -> bool {
    /// answer.header("cache-control").is_some()
    /// # }
    /// ```
    #[must_use]
    pub fn header(&self, name: &str) -> Option<HeaderValue> {
        first(&self.headers, name)
    }

    /// All headers, in order.
    ///
    /// ```
    /// # fn f(answer: &weft_sdk::FetchReply) -> usize {
    /// answer.headers().count()
    /// # }
    /// ```
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers
            .iter()
            .map(|header| (header.name.as_slice(), header.value.as_slice()))
    }

    /// The first value of a trailer.
    ///
    /// ```
    /// # fn f(answer: &weft_sdk::FetchReply) -> bool {
    /// answer.trailer("grpc-status").is_some_and(|status| status == "0")
    /// # }
    /// ```
    #[must_use]
    pub fn trailer(&self, name: &str) -> Option<HeaderValue> {
        first(&self.trailers, name)
    }

    /// Its body as JSON.
    ///
    /// # Errors
    /// Where it is none, or not of this form.
    ///
    /// ```
    /// # fn f(answer: &weft_sdk::FetchReply) -> weft_sdk::Result<Vec<String>> {
    /// Ok(answer.json()?)
    /// # }
    /// ```
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

fn first(headers: &[Header], name: &str) -> Option<HeaderValue> {
    headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name.as_bytes()))
        .map(|header| HeaderValue(header.value.clone()))
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Why a fetch brought no answer.
///
/// ```
/// use weft_sdk::FetchError;
/// assert_eq!(FetchError::Timeout.to_string(), "no answer in time");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// The egress policy of the pod that the filter works for does not let it through.
    Denied,
    /// The filter's `callouts` do not name the Service, there is none, or nobody is behind it.
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

impl From<types::FetchError> for FetchError {
    fn from(err: types::FetchError) -> Self {
        match err {
            types::FetchError::Denied => Self::Denied,
            types::FetchError::NoEndpoint => Self::NoEndpoint,
            types::FetchError::Timeout => Self::Timeout,
            types::FetchError::TooLarge => Self::TooLarge,
            types::FetchError::Overloaded => Self::Overloaded,
            types::FetchError::Invalid(why) => Self::Invalid(why),
            types::FetchError::Failed(why) => Self::Failed(why),
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("egress policy does not let it through"),
            Self::NoEndpoint => f.write_str("the filter's callouts do not name the Service, there is none, or nobody is behind it"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::TooLarge => f.write_str("the answer is too large"),
            Self::Overloaded => f.write_str("too many fetches at once"),
            Self::Invalid(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for FetchError {}
