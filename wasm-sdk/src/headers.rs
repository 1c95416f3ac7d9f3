//! Headers and trailers: names and values are bytes, and nothing about them panics.

use std::borrow::Cow;
use std::fmt;

use crate::Error;
use crate::sys::host;
use crate::sys::types::Fields;

/// The headers or trailers of a message, as they are at the moment. Names match in any case.
///
/// ```
/// # use weft_sdk::{Headers, Result};
/// fn tidy(headers: &Headers) -> Result<()> {
///     headers.remove("x-internal")?;
///     headers.set("x-seen", "yes")?;
///     headers.append("via", "weft")?;
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Headers {
    ctx: u64,
    of: Fields,
}

impl Headers {
    pub(crate) const fn new(ctx: u64, of: Fields) -> Self {
        Self { ctx, of }
    }

    /// The first value of a header.
    ///
    /// ```
    /// # fn f(headers: &weft_sdk::Headers) -> bool {
    /// headers.get("accept").is_some_and(|value| value == "text/html")
    /// # }
    /// ```
    #[must_use]
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<HeaderValue> {
        host::get_header(self.ctx, self.of, &lower(name.as_ref())).map(HeaderValue)
    }

    /// The first value of a header, if it is UTF-8.
    ///
    /// ```
    /// # fn f(headers: &weft_sdk::Headers) -> Option<u64> {
    /// headers.get_str("content-length")?.parse().ok()
    /// # }
    /// ```
    #[must_use]
    pub fn get_str(&self, name: impl AsRef<[u8]>) -> Option<String> {
        String::from_utf8(self.get(name)?.0).ok()
    }

    /// All values of a header, in order.
    ///
    /// ```
    /// # fn f(headers: &weft_sdk::Headers) -> usize {
    /// headers.get_all("x-forwarded-for").len()
    /// # }
    /// ```
    #[must_use]
    pub fn get_all(&self, name: impl AsRef<[u8]>) -> Vec<HeaderValue> {
        let values = host::get_all(self.ctx, self.of, &lower(name.as_ref()));
        values.into_iter().map(HeaderValue).collect()
    }

    /// Whether a header is there.
    ///
    /// ```
    /// # fn f(headers: &weft_sdk::Headers) -> bool {
    /// headers.contains("authorization")
    /// # }
    /// ```
    #[must_use]
    pub fn contains(&self, name: impl AsRef<[u8]>) -> bool {
        self.get(name).is_some()
    }

    /// All headers, in order; a name may come more than once.
    ///
    /// ```
    /// # fn f(headers: &weft_sdk::Headers) -> usize {
    /// headers.entries().iter().map(|(name, value)| name.len() + value.len()).sum()
    /// # }
    /// ```
    #[must_use]
    pub fn entries(&self) -> Vec<(HeaderValue, HeaderValue)> {
        host::entries(self.ctx, self.of)
            .into_iter()
            .map(|header| (HeaderValue(header.name), HeaderValue(header.value)))
            .collect()
    }

    /// Replaces all values of a header.
    ///
    /// # Errors
    /// Where the host refuses it: see [`Refused`].
    ///
    /// ```
    /// # fn f(headers: &weft_sdk::Headers) -> weft_sdk::Result<()> {
    /// headers.set("x-user", "ada")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set(&self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Refused> {
        let name = lower(name.as_ref());
        refused_unless(
            host::set_header(self.ctx, self.of, &name, value.as_ref()),
            &name,
        )
    }

    /// Adds a value to those that are there.
    ///
    /// # Errors
    /// Where the host refuses it: see [`Refused`].
    ///
    /// ```
    /// # fn f(headers: &weft_sdk::Headers) -> weft_sdk::Result<()> {
    /// headers.append("set-cookie", "canary=1; Path=/")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn append(&self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Refused> {
        let name = lower(name.as_ref());
        refused_unless(
            host::append_header(self.ctx, self.of, &name, value.as_ref()),
            &name,
        )
    }

    /// Removes all values of a header; one that is not there is fine.
    ///
    /// # Errors
    /// Where the host refuses it: see [`Refused`]. Headers that no filter can change are refused also
    /// where they are not there: it is known at once that this cannot work.
    ///
    /// ```
    /// # fn f(headers: &weft_sdk::Headers) -> weft_sdk::Result<()> {
    /// headers.remove("cookie")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove(&self, name: impl AsRef<[u8]>) -> Result<(), Refused> {
        let name = lower(name.as_ref());
        let removed = host::remove_header(self.ctx, self.of, &name);
        let absent = || !is_reserved(self.of, &name) && !self.contains(&name);
        refused_unless(removed || absent(), &name)
    }

    /// Whether headers can be called so: for those that a filter only reads. For `new`, so that a
    /// configuration is refused and not each request.
    ///
    /// # Errors
    /// Where the name is not one of a header.
    ///
    /// ```
    /// use weft_sdk::{Context as _, Headers};
    /// assert!(Headers::check_readable("Host").is_ok());
    /// let refused = Headers::check_readable("x user").context("key.header");
    /// assert!(refused.unwrap_err().to_string().starts_with("key.header: "));
    /// ```
    pub fn check_readable(name: &str) -> crate::Result<()> {
        if is_name(name.as_bytes()) {
            return Ok(());
        }
        Err(Error::new(format_args!(
            "{name:?} is no name of a header: letters, digits and dashes, as in x-user"
        )))
    }

    /// Whether a filter can set, add or remove headers of this name at all, in a message of either
    /// direction.
    ///
    /// # Errors
    /// Where the name is not one of a header, or the header is the proxy's own business in requests
    /// and responses alike.
    ///
    /// ```
    /// use weft_sdk::Headers;
    /// assert!(Headers::check_name("X-User").is_ok());
    /// assert!(Headers::check_name("Content-Length").is_err());
    /// ```
    pub fn check_name(name: &str) -> crate::Result<()> {
        Self::check_readable(name)?;
        let name = lower(name.as_bytes());
        if is_framing(&name) || is_hop(&name) {
            return Err(own(&name, "frames the message or says where it goes"));
        }
        Ok(())
    }

    /// The same for headers of requests, of which the proxy writes some itself.
    ///
    /// # Errors
    /// Where no filter can change a request's header of this name.
    ///
    /// ```
    /// use weft_sdk::Headers;
    /// assert!(Headers::check_request_name("x-user").is_ok());
    /// assert!(Headers::check_request_name("x-request-id").is_err());
    /// assert!(Headers::check_name("x-request-id").is_ok());
    /// ```
    pub fn check_request_name(name: &str) -> crate::Result<()> {
        Self::check_name(name)?;
        let name = lower(name.as_bytes());
        if is_own_of_request(&name) {
            return Err(own(&name, "is the proxy's own in requests"));
        }
        Ok(())
    }

    /// Whether a header can have this value.
    ///
    /// # Errors
    /// Where it has control characters, or is longer than the proxy lets a filter set.
    ///
    /// ```
    /// use weft_sdk::Headers;
    /// assert!(Headers::check_value("canary").is_ok());
    /// assert!(Headers::check_value("a\nb").is_err());
    /// ```
    pub fn check_value(value: impl AsRef<[u8]>) -> crate::Result<()> {
        let value = value.as_ref();
        if !is_value(value) {
            return Err(Error::new(
                "a header's value has no line break, no NUL and no other control character",
            ));
        }
        if value.len() > MAX_VALUE {
            return Err(Error::new(format_args!(
                "a header's value has at most {MAX_VALUE} bytes"
            )));
        }
        Ok(())
    }
}

fn own(name: &[u8], what: &str) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::new(format_args!(
        "{name} {what}: no filter can change it, name another header"
    ))
}

/// Longest value that the proxy lets a filter set.
pub(crate) const MAX_VALUE: usize = 16 * 1024;

/// Headers that say where a message ends or how the connection goes on; no filter changes them.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a header, in lower case, frames the message.
pub(crate) fn is_framing(name: &[u8]) -> bool {
    FRAMING.iter().any(|framing| name == framing.as_bytes())
}

/// About the connection of one side; no filter changes them either.
const HOP: [&str; 4] = [
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
];

/// Headers of requests that the proxy writes itself.
const OWN: [&str; 3] = ["expect", "x-forwarded-proto", "x-request-id"];

fn is_hop(name: &[u8]) -> bool {
    HOP.iter().any(|hop| name == hop.as_bytes())
}

/// Servers that map names to variables take `x_request_id` for `x-request-id`.
fn is_own_of_request(name: &[u8]) -> bool {
    let is_own =
        |name: &[u8]| name.starts_with(b"x-envoy-") || OWN.iter().any(|own| name == own.as_bytes());
    let twin = || {
        name.iter()
            .map(|byte| if *byte == b'_' { b'-' } else { *byte })
            .collect::<Vec<u8>>()
    };
    is_own(name) || (name.contains(&b'_') && is_own(&twin()))
}

/// Whether no filter can change a header of these fields.
pub(crate) fn is_reserved(of: Fields, name: &[u8]) -> bool {
    is_framing(name)
        || is_hop(name)
        || (matches!(of, Fields::RequestHeaders | Fields::RequestTrailers)
            && is_own_of_request(name))
}

/// Whether a header can have this value.
pub(crate) fn is_value(value: &[u8]) -> bool {
    value
        .iter()
        .all(|byte| *byte == b'\t' || !byte.is_ascii_control())
}

/// Whether a header can be called so.
pub(crate) fn is_name(name: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
    !name.is_empty() && name.iter().all(token)
}

/// Names are lower case on their way to the host.
fn lower(name: &[u8]) -> Cow<'_, [u8]> {
    if name.iter().any(u8::is_ascii_uppercase) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn refused_unless(done: bool, name: &[u8]) -> Result<(), Refused> {
    if done {
        return Ok(());
    }
    Err(Refused {
        what: String::from_utf8_lossy(name).into_owned(),
    })
}

/// The host did not make a change: name or value are not well-formed, it is a header that frames
/// the message or is the proxy's own, or what is changed has been sent on already.
///
/// ```
/// # use weft_sdk::{Headers, Refused};
/// fn tag(headers: &Headers, tag: &[u8]) -> Result<(), Refused> {
///     headers.set("x-tag", tag)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub(crate) what: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy does not let {:?} be changed so", self.what)
    }
}

impl std::error::Error for Refused {}

/// A value, or a name, of a header: bytes that are mostly text.
///
/// ```
/// # fn f(value: &weft_sdk::HeaderValue) {
/// let text: Option<&str> = value.to_str();
/// let shown: String = value.to_string();
/// let bytes: &[u8] = value;
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeaderValue(pub(crate) Vec<u8>);

impl HeaderValue {
    /// As text, where it is UTF-8.
    ///
    /// ```
    /// # fn f(value: &weft_sdk::HeaderValue) -> bool {
    /// value.to_str().is_some_and(|text| text.starts_with("Bearer "))
    /// # }
    /// ```
    #[must_use]
    pub fn to_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The bytes themselves.
    ///
    /// ```
    /// # fn f(value: weft_sdk::HeaderValue) -> Vec<u8> {
    /// value.into_bytes()
    /// # }
    /// ```
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl std::ops::Deref for HeaderValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for HeaderValue {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What is not UTF-8 is shown as replacement characters.
impl fmt::Display for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl PartialEq<str> for HeaderValue {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for HeaderValue {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<[u8]> for HeaderValue {
    fn eq(&self, other: &[u8]) -> bool {
        self.0 == other
    }
}
