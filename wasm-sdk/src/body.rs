//! Bodies, part by part.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::runtime::{Exchange, Next, Side};

/// The body of a message. Asking for the next part is what lets the sender go on: a filter that
/// does not ask holds it back.
///
/// ```
/// use weft_sdk::prelude::*;
/// async fn shout(response: &Response) -> Result<Flow> {
///     let mut body = response.body().streaming();
///     while let Some(part) = body.next().await {
///         body.replace(part.to_ascii_uppercase());
///     }
///     Ok(Flow::Continue)
/// }
/// ```
pub struct Body {
    reader: Reader,
}

impl Body {
    pub(crate) const fn new(exchange: Rc<Exchange>, side: Side) -> Self {
        Self {
            reader: Reader::new(exchange, side),
        }
    }

    /// Lets the head go on, and each part when the next one is asked for or the filter has decided.
    /// After this headers can no longer be changed, and a reply ends the message early.
    ///
    /// ```
    /// # async fn f(request: &weft_sdk::Request) {
    /// let mut body = request.body().streaming();
    /// while let Some(part) = body.next().await {
    ///     request.log().debug("passed", &[("bytes", &part.len())]);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn streaming(self) -> Self {
        self.reader.exchange.release(self.reader.side);
        self
    }

    /// The next part, none at the end. It is never empty.
    ///
    /// ```
    /// # async fn f(request: &weft_sdk::Request) -> bool {
    /// let first = request.body().next().await;
    /// first.is_some_and(|part| part.starts_with(b"{"))
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.reader.next().await
    }

    /// All of it, at most so many bytes.
    ///
    /// # Errors
    /// Where there is more than that; what is left was not read.
    ///
    /// ```
    /// # use weft_sdk::Result;
    /// # async fn f(request: &weft_sdk::Request) -> Result<usize> {
    /// let body = request.body().collect(64 << 10).await?;
    /// # Ok(body.len())
    /// # }
    /// ```
    pub async fn collect(&mut self, limit: usize) -> Result<Vec<u8>, BodyTooLarge> {
        let mut all = Vec::new();
        while let Some(mut part) = self.next().await {
            if all.len() + part.len() > limit {
                return Err(BodyTooLarge { limit });
            }
            if all.is_empty() {
                all = part;
            } else {
                all.append(&mut part);
            }
        }
        Ok(all)
    }

    /// Sends these bytes on in place of all that was read and is still held: the last part where it
    /// is streamed, all parts otherwise. Before anything was read they come before the body.
    ///
    /// ```
    /// # use weft_sdk::Result;
    /// # async fn f(request: &weft_sdk::Request) -> Result<()> {
    /// let mut body = request.body();
    /// let text = body.collect(1 << 20).await?;
    /// body.replace(String::from_utf8_lossy(&text).replace("secret", "******"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn replace(&mut self, bytes: impl Into<Vec<u8>>) {
        self.reader
            .exchange
            .replace_body(self.reader.side, bytes.into());
    }
}

/// A body has more bytes than the filter wanted to take.
///
/// ```
/// use weft_sdk::prelude::*;
/// async fn limited(request: &Request) -> Result<Flow> {
///     match request.body().collect(1000).await {
///         Ok(_) => Ok(Flow::Continue),
///         Err(err) => Ok(Reply::new(413).reason(err.to_string()).into()),
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyTooLarge {
    limit: usize,
}

impl fmt::Display for BodyTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body has more than {} bytes", self.limit)
    }
}

impl std::error::Error for BodyTooLarge {}

/// Asks for the parts of a message.
pub(crate) struct Reader {
    exchange: Rc<Exchange>,
    side: Side,
}

impl Reader {
    pub(crate) const fn new(exchange: Rc<Exchange>, side: Side) -> Self {
        Self { exchange, side }
    }

    async fn next(&self) -> Option<Vec<u8>> {
        poll_fn(|_| match self.exchange.next_part(self.side) {
            Next::Part(part) => Poll::Ready(Some(part)),
            Next::End { .. } => Poll::Ready(None),
            Next::Wait => Poll::Pending,
        })
        .await
    }

    /// Goes to the end of the body; whether trailers have come.
    pub(crate) async fn skip(&self) -> bool {
        poll_fn(|_| {
            loop {
                match self.exchange.next_part(self.side) {
                    Next::Part(_) => {}
                    Next::End { trailers } => return Poll::Ready(trailers),
                    Next::Wait => return Poll::Pending,
                }
            }
        })
        .await
    }
}
