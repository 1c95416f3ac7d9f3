//! Towards the servers: pools of one worker, keyed by destination and by the
//! source address that is kept.

pub mod budget;
pub mod connect;
pub mod exec;
pub mod h1;
pub mod h2;
pub mod target;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::Response;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};

use self::budget::Budget;
pub use self::h1::Tunnel;
use self::target::{Protocol, Target};
use crate::failure::Failure;
use crate::http::body::RequestBody;
use crate::memory::Account;

/// Unused connections that a worker keeps for one target.
const MAX_IDLE_PER_TARGET: usize = 256;

/// How a worker talks to upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How connections are opened.
    pub connect: connect::Options,
    /// How long a connection may stay unused.
    pub idle_timeout: Duration,
    /// Connections of one source address, of this worker.
    pub max_per_source: usize,
    /// Largest response head, in bytes.
    pub max_head_bytes: usize,
    /// Most header fields of a response.
    pub max_headers: usize,
    /// What streams and connections of HTTP/2 may have on their way.
    pub http2: h2::Limits,
}

/// The upstream side of one worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upstream(Rc<Pools>);

#[derive(Debug)]
struct Pools {
    http1: h1::Client,
    http2: h2::Pool<RequestBody>,
    budget: Budget,
}

impl Upstream {
    /// Pools without connections.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let budget = Budget::new(options.max_per_source);
        Self(Rc::new(Pools {
            http1: h1::Client::new(
                h1::Options {
                    connect: options.connect,
                    idle_timeout: options.idle_timeout,
                    max_idle_per_target: MAX_IDLE_PER_TARGET,
                    max_head_bytes: options.max_head_bytes,
                    max_headers: options.max_headers,
                },
                budget.clone(),
            ),
            http2: h2::Pool::new(
                h2::Options {
                    connect: options.connect,
                    idle_timeout: options.idle_timeout,
                    max_head_bytes: options.max_head_bytes,
                    limits: options.http2,
                },
                budget.clone(),
            ),
            budget,
        }))
    }

    /// Sends one request and waits for the head of its response. What that
    /// takes is charged to `account`.
    ///
    /// # Errors
    /// Any [`Failure`] of the upstream's, or the body's own.
    pub async fn send(
        &self,
        target: &Target,
        head: &Parts,
        body: RequestBody,
        account: &Arc<Account>,
    ) -> Result<Response<UpstreamBody>, Failure> {
        match target.protocol {
            Protocol::Http1 => {
                let response = self.0.http1.send(target, head, body, account).await?;
                Ok(response.map(UpstreamBody::Http1))
            }
            Protocol::Http2 => {
                // Apart, since its state is large and every request's future
                // has to hold it.
                let sending = self.0.http2.send(target, head, body, account);
                let response = Box::pin(sending).await?;
                Ok(response.map(UpstreamBody::Http2))
            }
        }
    }

    /// Closes what nobody used for a while.
    pub fn sweep(&self, now: Instant) {
        self.0.http1.sweep(now);
        self.0.http2.sweep(now);
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.budget.open()
    }
}

/// A piece of a response's content, and the memory that it keeps.
#[derive(Debug)]
pub struct Content {
    /// What it says.
    pub bytes: Bytes,
    /// Memory of its own.
    pub own: usize,
    /// Size of the buffer that it shares with the pieces before and behind it.
    pub shared: usize,
}

impl Content {
    /// A piece that shares nothing.
    #[must_use]
    pub fn alone(bytes: Bytes, own: usize) -> Self {
        Self {
            bytes,
            own,
            shared: 0,
        }
    }

    /// What is behind the first `length` bytes; keeps the same memory.
    #[must_use]
    pub fn split_off(&mut self, length: usize) -> Self {
        Self {
            bytes: self.bytes.split_off(length),
            ..*self
        }
    }
}

impl Buf for Content {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}

/// The body of an upstream's response.
#[derive(Debug)]
pub enum UpstreamBody {
    /// Of an HTTP/1.1 connection.
    Http1(h1::ResponseBody<RequestBody>),
    /// Of an HTTP/2 stream.
    Http2(h2::ResponseBody),
}

impl UpstreamBody {
    /// The connection of a response that switched protocols.
    #[must_use]
    pub fn into_tunnel(self) -> Option<Tunnel> {
        match self {
            Self::Http1(body) => body.into_tunnel(),
            Self::Http2(_) => None,
        }
    }

    /// Goes on sending the request where that is whose body this is to do.
    ///
    /// # Errors
    /// The request's own failure, with which the response ends.
    pub fn poll_sending(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        match self {
            Self::Http1(body) => body.poll_sending(context),
            // Its connection does.
            Self::Http2(_) => Ok(()),
        }
    }

    /// The next frame, for whoever calls [`Self::poll_sending`] himself.
    pub fn poll_received(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Content>, Failure>>> {
        match self {
            Self::Http1(body) => body.poll_received(context),
            Self::Http2(body) => Pin::new(body).poll_frame(context),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Content;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Content>, Failure>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(context),
            Self::Http2(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
