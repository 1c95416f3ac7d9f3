//! What went wrong, as one line of text.

use std::fmt;

/// Why a filter could not decide. Anything that is a [`std::error::Error`] becomes one with `?`;
/// its text is for flows and logs, the client never sees it.
///
/// ```
/// use weft_sdk::{Error, Result};
/// fn port(text: &str) -> Result<u16> {
///     let port = text.parse()?;
///     if port == 0 {
///         return Err(Error::new("port 0 cannot be called"));
///     }
///     Ok(port)
/// }
/// assert_eq!(port("0").unwrap_err().to_string(), "port 0 cannot be called");
/// ```
pub struct Error(Box<str>);

/// The result of what a filter does.
///
/// ```
/// fn checked(ok: bool) -> weft_sdk::Result<()> {
///     ok.then_some(()).ok_or_else(|| weft_sdk::Error::new("not ok"))
/// }
/// assert!(checked(false).is_err());
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with this text.
    ///
    /// ```
    /// assert_eq!(weft_sdk::Error::new(format!("no {}", "key")).to_string(), "no key");
    /// ```
    pub fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string().into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// `Error` itself is no std error, or this would overlap with `From<T> for T`.
impl<E: std::error::Error> From<E> for Error {
    fn from(err: E) -> Self {
        let mut text = err.to_string();
        let mut source = err.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self(text.into())
    }
}

/// Says what was being done when something went wrong.
///
/// ```
/// use weft_sdk::{Context as _, Result};
/// fn read(text: &str) -> Result<u8> {
///     text.parse::<u8>().context("the limit")
/// }
/// assert!(read("x").unwrap_err().to_string().starts_with("the limit: "));
/// assert_eq!(None::<u8>.context("no limit").unwrap_err().to_string(), "no limit");
/// ```
pub trait Context<T> {
    /// Puts the text before the error's own.
    ///
    /// # Errors
    /// Where there was one before.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|err| Error::new(format_args!("{what}: {}", err.into())))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error::new(what))
    }
}
