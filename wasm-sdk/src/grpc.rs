//! gRPC calls of the filter's own: one message there, one back.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use crate::fetch::{FetchBuilder, FetchError, FetchReply};
use crate::sys::types::Header;
use crate::text::percent_decode;

/// Compression flag and length before a message.
const PREFIX: usize = 5;

/// A gRPC call that is being made; awaiting it sends it and gives the message that came back.
///
/// ```
/// # use weft_sdk::{GrpcError, Request};
/// # async fn f(request: &Request) -> Result<(), GrpcError> {
/// let answer: Vec<u8> = request
///     .fetch("users.default:50051")
///     .grpc("/users.Users/Get")
///     .metadata("x-tenant", "blue")
///     .message(b"\x0a\x03ada")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "it is sent when it is awaited"]
pub struct GrpcBuilder {
    fetch: FetchBuilder,
}

impl GrpcBuilder {
    pub(crate) fn new(fetch: FetchBuilder) -> Self {
        let fetch = fetch
            .http2()
            .header("content-type", "application/grpc")
            .framing("te", "trailers");
        Self {
            fetch: frame(fetch, &[]),
        }
    }

    /// The message, as its protocol encodes it.
    ///
    /// ```
    /// # fn f(fetch: weft_sdk::Fetch) {
    /// let _ = fetch.grpc("/grpc.health.v1.Health/Check").message(b"");
    /// # }
    /// ```
    pub fn message(mut self, message: impl AsRef<[u8]>) -> Self {
        self.fetch = frame(self.fetch, message.as_ref());
        self
    }

    /// With one more piece of metadata.
    ///
    /// ```
    /// # fn f(fetch: weft_sdk::Fetch) {
    /// let _ = fetch.grpc("/a.B/C").metadata("authorization", "Bearer x");
    /// # }
    /// ```
    pub fn metadata(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.fetch = self.fetch.header(name, value);
        self
    }

    /// Gives up after this long; the called service is told, too.
    ///
    /// ```
    /// # fn f(fetch: weft_sdk::Fetch) {
    /// let _ = fetch.grpc("/a.B/C").timeout(std::time::Duration::from_millis(100));
    /// # }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.fetch = self.fetch.timeout(timeout);
        self
    }
}

fn frame(mut fetch: FetchBuilder, message: &[u8]) -> FetchBuilder {
    let mut body = Vec::with_capacity(PREFIX + message.len());
    body.push(0);
    // A message is bounded by the module's memory, which is 32 bits wide.
    body.extend_from_slice(
        &u32::try_from(message.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    body.extend_from_slice(message);
    fetch.request.body = body;
    fetch
}

impl IntoFuture for GrpcBuilder {
    type Output = Result<Vec<u8>, GrpcError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(mut self) -> Self::IntoFuture {
        let request = &mut self.fetch.request;
        // At most eight digits are allowed.
        let millis = request.timeout_ms.min(99_999_999);
        request.headers.push(Header {
            name: b"grpc-timeout".to_vec(),
            value: format!("{millis}m").into_bytes(),
        });
        Box::pin(async move { answer(&self.fetch.await?) })
    }
}

fn answer(reply: &FetchReply) -> Result<Vec<u8>, GrpcError> {
    if reply.status != 200 {
        return Err(GrpcError::Http(reply.status));
    }
    // With no message the status may stand in the headers.
    let field = |name: &str| reply.trailer(name).or_else(|| reply.header(name));
    let Some(status) = field("grpc-status") else {
        return Err(GrpcError::Malformed("it has no grpc-status"));
    };
    let code = status
        .to_str()
        .and_then(|status| status.parse::<u32>().ok())
        .ok_or(GrpcError::Malformed("its grpc-status is no number"))?;
    if code != 0 {
        let message = field("grpc-message").map(|message| decode_message(&message));
        return Err(GrpcError::Status {
            code,
            message: message.unwrap_or_default(),
        });
    }
    message(&reply.body)
}

fn message(body: &[u8]) -> Result<Vec<u8>, GrpcError> {
    let Some((prefix, rest)) = body.split_at_checked(PREFIX) else {
        return Err(GrpcError::Malformed("it has no message"));
    };
    if prefix[0] != 0 {
        return Err(GrpcError::Malformed("its message is compressed"));
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if rest.len() as u64 != u64::from(length) {
        return Err(GrpcError::Malformed(
            "its message has another length than it says",
        ));
    }
    Ok(rest.to_vec())
}

/// Why a gRPC call brought no message.
///
/// ```
/// use weft_sdk::GrpcError;
/// let err = GrpcError::Status { code: 5, message: "no such user".into() };
/// assert_eq!(err.to_string(), "grpc-status 5: no such user");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum GrpcError {
    /// There was no answer.
    Fetch(FetchError),
    /// The answer has another HTTP status than 200.
    Http(u16),
    /// The call failed.
    Status {
        /// Its `grpc-status`.
        code: u32,
        /// Its `grpc-message`.
        message: String,
    },
    /// The answer is not one of gRPC.
    Malformed(&'static str),
}

impl From<FetchError> for GrpcError {
    fn from(err: FetchError) -> Self {
        Self::Fetch(err)
    }
}

impl fmt::Display for GrpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch(err) => err.fmt(f),
            Self::Http(status) => write!(f, "HTTP status {status}"),
            Self::Status { code, message } => write!(f, "grpc-status {code}: {message}"),
            Self::Malformed(why) => write!(f, "the answer is not one of gRPC: {why}"),
        }
    }
}

impl std::error::Error for GrpcError {}

/// A text as `grpc-message` carries it: percent-encoded but for what is printable.
pub(crate) fn encode_message(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn decode_message(encoded: &[u8]) -> String {
    let decoded = percent_decode(encoded, |_byte| true);
    String::from_utf8_lossy(&decoded).into_owned()
}
