//! An answer of the filter's own.

use crate::sys::types::{self, Header};

/// What the client gets in place of what it asked for.
///
/// ```
/// use weft_sdk::Reply;
/// let reply = Reply::new(401)
///     .header("www-authenticate", "Bearer")
///     .body("a token is needed\n")
///     .reason("no token");
/// assert_eq!(reply.status(), 401);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Reply {
    status: u16,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    reason: String,
}

impl Reply {
    /// With this status: 200 to 599, anything else is answered as a fault of the filter.
    ///
    /// ```
    /// assert_eq!(weft_sdk::Reply::new(204).status(), 204);
    /// ```
    pub const fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            reason: String::new(),
        }
    }

    /// With JSON as its body.
    ///
    /// # Errors
    /// Where the value cannot be written as JSON.
    ///
    /// ```
    /// let reply = weft_sdk::Reply::json(403, &serde_json::json!({"error": "no"})).unwrap();
    /// assert_eq!(reply.status(), 403);
    /// ```
    pub fn json(status: u16, value: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self::new(status)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(value)?))
    }

    /// For a gRPC client: the call's status in the headers, with no body.
    ///
    /// ```
    /// let denied = weft_sdk::Reply::grpc(7, "not for you");
    /// assert_eq!(denied.status(), 200);
    /// ```
    pub fn grpc(code: u32, message: &str) -> Self {
        Self::new(200)
            .header("content-type", "application/grpc")
            .header("grpc-status", code.to_string())
            .header("grpc-message", crate::grpc::encode_message(message))
    }

    /// With one more header.
    ///
    /// ```
    /// let _ = weft_sdk::Reply::new(429).header("retry-after", "1");
    /// ```
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.as_ref().to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// With this body.
    ///
    /// ```
    /// let _ = weft_sdk::Reply::new(200).body("hello");
    /// ```
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Why, in a few words, for flows and spans; the client does not see it.
    ///
    /// ```
    /// let _ = weft_sdk::Reply::new(403).reason("not on the list");
    /// ```
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Its status.
    ///
    /// ```
    /// assert_eq!(weft_sdk::Reply::new(302).status(), 302);
    /// ```
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn into_sys(self) -> types::Reply {
        types::Reply {
            status: self.status,
            headers: self
                .headers
                .into_iter()
                .map(|(name, value)| Header { name, value })
                .collect(),
            body: self.body,
            reason: self.reason,
        }
    }
}
