//! HTTP/2 towards upstreams: few connections, many requests on each.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Mutex;

use super::budget::{Budget, Permit};
use super::connect;
use super::exec::LocalExec;
use super::target::{ByTarget, Target};
use crate::failure::Failure;

/// Requests on one connection before another is opened. Below the 100 that
/// servers commonly allow, so that a burst does not queue behind the limit.
const STREAMS: usize = 90;

/// Connections to one target. Past them requests share what is there.
const CONNECTIONS: usize = 8;

/// Receive window of a stream and of a connection: what an upstream may send
/// ahead of a slow client, held in memory for each.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Finds peers that vanished without a word.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a worker's connections are opened, kept and bounded.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Opening them.
    pub connect: connect::Options,
    /// How long an unused one is kept.
    pub idle_timeout: Duration,
    /// Largest head of a response, in bytes.
    pub max_head_bytes: usize,
}

/// The HTTP/2 connections of one worker.
#[derive(Debug)]
pub struct Pool<B> {
    options: Options,
    budget: Budget,
    slots: RefCell<ByTarget<Rc<Slot<B>>>>,
}

#[derive(Debug)]
struct Slot<B> {
    live: RefCell<Vec<Rc<Live<B>>>>,
    /// Held while dialling, so that a burst of first requests opens one
    /// connection and not one each.
    dialling: Mutex<()>,
}

#[derive(Debug)]
struct Live<B> {
    sender: SendRequest<B>,
    load: Rc<Load>,
    used: Cell<bool>,
    _permit: Permit,
}

/// What a connection is doing; outlives it in the bodies of its responses.
#[derive(Debug)]
struct Load {
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
}

impl<B> Live<B> {
    fn usable(&self) -> bool {
        !self.sender.is_closed()
    }
}

/// Counts a stream of a connection while it lives.
#[derive(Debug)]
struct Stream(Rc<Load>);

impl Stream {
    fn open(load: &Rc<Load>) -> Self {
        load.streams.set(load.streams.get() + 1);
        Self(Rc::clone(load))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes, Error = Failure> + Unpin + 'static,
{
    /// A pool without connections.
    #[must_use]
    pub fn new(options: Options, budget: Budget) -> Self {
        Self {
            options,
            budget,
            slots: RefCell::default(),
        }
    }

    /// Sends one request and waits for the head of its response.
    ///
    /// # Errors
    /// Any upstream [`Failure`]. A request that a dying connection did not
    /// take is sent again on another one.
    pub async fn send(
        &self,
        target: &Target,
        head: &Parts,
        body: B,
    ) -> Result<Response<ResponseBody>, Failure> {
        let mut body = body;
        let mut last = Failure::UpstreamReset {
            reused: true,
            sent: false,
        };
        for _attempt in 0..3 {
            let live = self.acquire(target).await?;
            let reused = live.used.replace(true);
            let stream = Stream::open(&live.load);
            let request = request(head, body);
            match live.sender.clone().try_send_request(request).await {
                Ok(response) => {
                    return Ok(response.map(|inner| ResponseBody {
                        inner,
                        _stream: stream,
                    }));
                }
                Err(mut error) => {
                    let untouched = error.take_message();
                    last = Failure::UpstreamReset {
                        reused,
                        sent: untouched.is_none(),
                    };
                    let Some(request) = untouched else { break };
                    self.discard(target, &live);
                    body = request.into_body();
                }
            }
        }
        Err(last)
    }

    /// Closes connections without requests that nobody used for a while.
    pub fn sweep(&self, now: Instant) {
        self.slots.borrow_mut().retain(|_target, slot| {
            let mut live = slot.live.borrow_mut();
            live.retain(|connection| {
                let idle = connection.load.streams.get() == 0
                    && now.saturating_duration_since(connection.load.idle_since.get())
                        > self.options.idle_timeout;
                connection.usable() && !idle
            });
            !live.is_empty() || Rc::strong_count(slot) > 1
        });
    }

    /// Requests that are being served.
    #[must_use]
    pub fn active(&self) -> usize {
        let slots = self.slots.borrow();
        slots
            .values()
            .flat_map(|slot| {
                let live = slot.live.borrow();
                live.iter()
                    .map(|one| one.load.streams.get())
                    .collect::<Vec<_>>()
            })
            .sum()
    }

    /// Connections to this target that still take requests.
    #[cfg(test)]
    fn live(&self, target: &Target) -> usize {
        let slots = self.slots.borrow();
        slots.get(target).map_or(0, |slot| {
            slot.live.borrow().iter().filter(|one| one.usable()).count()
        })
    }

    async fn acquire(&self, target: &Target) -> Result<Rc<Live<B>>, Failure> {
        let slot = {
            let mut slots = self.slots.borrow_mut();
            let slot = slots.entry(*target).or_insert_with(|| Rc::new(Slot::new()));
            Rc::clone(slot)
        };
        if let Some(live) = slot.pick(false) {
            return Ok(live);
        }
        let _turn = slot.dialling.lock().await;
        if let Some(live) = slot.pick(false) {
            return Ok(live);
        }
        if slot.live.borrow().len() >= CONNECTIONS {
            return slot
                .pick(true)
                .ok_or(Failure::Overloaded("upstream connections"));
        }
        let live = self.dial(target).await?;
        slot.live.borrow_mut().push(Rc::clone(&live));
        Ok(live)
    }

    async fn dial(&self, target: &Target) -> Result<Rc<Live<B>>, Failure> {
        let permit = self.budget.take(target.source, target.identity)?;
        let stream = connect::connect(target, &self.options.connect).await?;
        let head_bytes = u32::try_from(self.options.max_head_bytes).unwrap_or(u32::MAX);
        let handshake = http2::Builder::new(LocalExec)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(head_bytes)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|_error| Failure::UpstreamReset {
            reused: false,
            sent: false,
        })?;
        tokio::task::spawn_local(async move {
            // Why it ended was told to the requests that were on it.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Rc::new(Live {
            sender,
            load: Rc::new(Load {
                streams: Cell::new(0),
                idle_since: Cell::new(Instant::now()),
            }),
            used: Cell::new(false),
            _permit: permit,
        }))
    }

    fn discard(&self, target: &Target, dead: &Rc<Live<B>>) {
        if let Some(slot) = self.slots.borrow().get(target) {
            slot.live
                .borrow_mut()
                .retain(|live| !Rc::ptr_eq(live, dead));
        }
    }
}

impl<B> Slot<B> {
    fn new() -> Self {
        Self {
            live: RefCell::default(),
            dialling: Mutex::default(),
        }
    }

    /// The connection with the fewest requests; one that is full only when
    /// `full` allows it.
    fn pick(&self, full: bool) -> Option<Rc<Live<B>>> {
        let mut live = self.live.borrow_mut();
        live.retain(|connection| connection.usable());
        live.iter()
            .filter(|connection| full || connection.load.streams.get() < STREAMS)
            .min_by_key(|connection| connection.load.streams.get())
            .map(Rc::clone)
    }
}

fn request<B>(head: &Parts, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = head.headers.clone();
    request
}

/// A response's body; the stream is closed when it is dropped.
#[derive(Debug)]
pub struct ResponseBody {
    inner: Incoming,
    _stream: Stream,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let inner = &mut self.get_mut().inner;
        let frame = ready!(Pin::new(inner).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map_err(|_error| Failure::Truncated)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
