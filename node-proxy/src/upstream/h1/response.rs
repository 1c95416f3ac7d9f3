//! The body of a response, and its connection's way home.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};

use super::client::Pool;
use super::exchange::Exchange;
use super::head::{Ending, Head};
use super::tunnel::Tunnel;
use crate::failure::Failure;
use crate::http::chunked::{Chunked, Piece};
use crate::upstream::Content;
use crate::upstream::target::Target;

/// Most trailer fields that are read.
const MOST_TRAILERS: usize = 64;

/// Where a connection goes when its response was read. Counts as active until
/// it is dropped.
#[derive(Debug)]
pub(super) struct Home {
    pool: Weak<Pool>,
    target: Target,
}

impl Home {
    pub(super) fn new(pool: &Rc<Pool>, target: Target) -> Self {
        pool.active.set(pool.active.get() + 1);
        Self {
            pool: Rc::downgrade(pool),
            target,
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.active.set(pool.active.get().saturating_sub(1));
        }
    }
}

/// What is left of a response's body.
#[derive(Debug)]
enum Left {
    Nothing,
    /// All of it was read with the head; the connection is home already.
    Here(Content),
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Tunnel,
}

/// A response's body. Polling it also goes on sending the request's.
///
/// Its connection goes back to the pool at its clean end and is closed when it
/// is dropped before.
#[derive(Debug)]
pub struct ResponseBody<B: Body> {
    left: Left,
    keep_alive: bool,
    exchange: Option<(Box<Exchange<B>>, Home)>,
}

impl<B> ResponseBody<B>
where
    B: Body<Error = Failure> + Unpin,
{
    pub(super) fn respond(exchange: Box<Exchange<B>>, head: Head, home: Home) -> Response<Self> {
        let left = match head.ending {
            Ending::Empty => Left::Nothing,
            Ending::Length(length) => Left::Length(length),
            Ending::Chunked => Left::Chunked(Chunked::new()),
            Ending::Close => Left::UntilClose,
            Ending::Tunnel => Left::Tunnel,
        };
        let mut body = Self {
            left,
            keep_alive: head.keep_alive,
            exchange: Some((exchange, home)),
        };
        body.take_whole();
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response
    }

    /// The connection of a response that switched protocols, with what the
    /// upstream said in the new one already.
    #[must_use]
    pub fn into_tunnel(self) -> Option<Tunnel> {
        let (exchange, _home) = self.exchange?;
        match self.left {
            Left::Tunnel => Some(Tunnel::new(exchange.connection)),
            _ => None,
        }
    }

    /// A small response was read in whole: sends its connection home before
    /// the client has seen a byte of it.
    fn take_whole(&mut self) {
        let length = match &self.left {
            Left::Length(length) => *length,
            Left::Nothing => 0,
            _ => return,
        };
        let Some((exchange, _home)) = &mut self.exchange else {
            return;
        };
        let here = exchange.connection.input.len();
        match usize::try_from(length) {
            Ok(0) => self.go_home(),
            Ok(length) if length == here => {
                let content = exchange.connection.take(length);
                self.go_home();
                self.left = Left::Here(content);
            }
            _ => {}
        }
    }

    /// The response is at its end.
    fn go_home(&mut self) {
        self.left = Left::Nothing;
        let reusable = self
            .exchange
            .as_ref()
            .is_some_and(|(exchange, _)| exchange.is_clean());
        // With the request still being sent the connection is of no further
        // use, but closing it now could cost the client its answer.
        if !(reusable && self.keep_alive) {
            return;
        }
        if let Some((exchange, home)) = self.exchange.take()
            && let Some(pool) = home.pool.upgrade()
        {
            pool.put(home.target, exchange.connection);
        }
    }

    /// Goes on sending the request, as far as its body has bytes.
    ///
    /// # Errors
    /// The request's own failure, with which the response ends.
    pub fn poll_sending(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        let sent = match &mut self.exchange {
            Some((exchange, _home)) => exchange.poll_send(context),
            None => Ok(()),
        };
        sent.inspect_err(|_failure| self.give_up())
    }

    /// The next frame, for whoever goes on sending the request himself.
    pub fn poll_received(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Content>, Failure>>> {
        let next = self.poll_next(context);
        if matches!(next, Poll::Ready(Some(Err(_)))) {
            self.give_up();
        }
        next
    }

    fn give_up(&mut self) {
        self.left = Left::Nothing;
        self.exchange = None;
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Content>, Failure>>> {
        if let Left::Here(_) = self.left
            && let Left::Here(content) = std::mem::replace(&mut self.left, Left::Nothing)
        {
            return Poll::Ready(Some(Ok(Frame::data(content))));
        }
        loop {
            let Some((exchange, _home)) = &mut self.exchange else {
                return Poll::Ready(None);
            };
            match decode(&mut self.left, exchange)? {
                Decoded::Data(content) => {
                    if matches!(self.left, Left::Length(0)) {
                        self.go_home();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(content))));
                }
                Decoded::End(trailers) => {
                    self.go_home();
                    return Poll::Ready(trailers.map(|fields| Ok(Frame::trailers(fields))));
                }
                Decoded::More => {}
            }
            match ready!(exchange.poll_fill(context)) {
                Ok(read) if read > 0 => {}
                Ok(_closed) if matches!(self.left, Left::UntilClose) => {
                    self.left = Left::Nothing;
                    self.exchange = None;
                    return Poll::Ready(None);
                }
                _ended => return Poll::Ready(Some(Err(Failure::Truncated))),
            }
        }
    }
}

enum Decoded {
    Data(Content),
    End(Option<HeaderMap>),
    More,
}

fn decode<B: Body>(left: &mut Left, exchange: &mut Exchange<B>) -> Result<Decoded, Failure> {
    let connection = &mut exchange.connection;
    match left {
        Left::Nothing | Left::Here(_) | Left::Tunnel => Ok(Decoded::End(None)),
        Left::UntilClose if connection.input.is_empty() => Ok(Decoded::More),
        Left::UntilClose => {
            let all = connection.input.len();
            Ok(Decoded::Data(connection.take(all)))
        }
        Left::Length(0) => Ok(Decoded::End(None)),
        Left::Length(_) if connection.input.is_empty() => Ok(Decoded::More),
        Left::Length(length) => {
            let here = connection.input.len();
            let here = usize::try_from(*length).unwrap_or(usize::MAX).min(here);
            *length -= here as u64;
            Ok(Decoded::Data(connection.take(here)))
        }
        Left::Chunked(chunked) => loop {
            let piece = chunked
                .next(&connection.input)
                .map_err(|_error| Failure::BadResponse("chunked body"))?;
            match piece {
                Piece::More => return Ok(Decoded::More),
                Piece::Framing(length) => connection.input.advance(length),
                Piece::Data(length) => return Ok(Decoded::Data(connection.take(length))),
                Piece::End(length) => {
                    let trailers = trailers(&connection.input[..length])?;
                    connection.input.advance(length);
                    return Ok(Decoded::End(trailers));
                }
            }
        },
    }
}

fn trailers(section: &[u8]) -> Result<Option<HeaderMap>, Failure> {
    const BAD: Failure = Failure::BadResponse("trailer");
    if section == b"\r\n" {
        return Ok(None);
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
    match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((_length, fields))) => {
            let mut map = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_error| BAD)?;
                let value = HeaderValue::from_bytes(field.value).map_err(|_error| BAD)?;
                map.append(name, value);
            }
            Ok(Some(map))
        }
        _ => Err(BAD),
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Error = Failure> + Unpin,
{
    type Data = Content;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Content>, Failure>>> {
        let this = self.get_mut();
        this.poll_sending(context)?;
        this.poll_received(context)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.left, Left::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.left {
            Left::Nothing => SizeHint::with_exact(0),
            Left::Here(content) => SizeHint::with_exact(content.remaining() as u64),
            Left::Length(length) => SizeHint::with_exact(*length),
            Left::Chunked(_) | Left::UntilClose | Left::Tunnel => SizeHint::default(),
        }
    }
}
