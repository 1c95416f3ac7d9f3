//! HTTP/2 towards upstreams: few connections, many requests on each.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
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
use super::exec::LocalExec;
use super::target::{ByTarget, Target};
use super::{Content, connect};
use crate::failure::Failure;
use crate::memory::{Account, Frames, Held, Unread, unshared};

/// Requests on one connection before another is opened. Below the 100 that
/// servers commonly allow, so that a burst does not queue behind the limit.
const STREAMS: usize = 90;

/// Connections to one target. Past them requests share what is there.
const CONNECTIONS: usize = 8;

/// Memory of a connection with what is made for it.
const MEMORY: usize = 64 * 1024;

/// Finds peers that vanished without a word.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What may be on its way, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What an upstream may send ahead of a slow client, on one stream.
    pub stream_window: u32,
    /// The same on one connection.
    pub connection_window: u32,
    /// What may wait to be sent to a slow upstream, on one stream.
    pub send_buffer: usize,
}

/// How a worker's connections are opened, kept and bounded.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Opening them.
    pub connect: connect::Options,
    /// How long an unused one is kept.
    pub idle_timeout: Duration,
    /// Largest head of a response, in bytes.
    pub max_head_bytes: usize,
    /// What may be on its way.
    pub limits: Limits,
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
    unread: Rc<Unread>,
    /// Bodies of which something may wait to be read.
    waiting: Cell<usize>,
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
    B: Body<Error = Failure> + Unpin + 'static,
    B::Data: Send,
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

    /// Sends one request and waits for the head of its response. A connection
    /// that is opened for it is charged to `account`.
    ///
    /// # Errors
    /// Any upstream [`Failure`]. A request that a dying connection did not
    /// take is sent again on another one.
    pub async fn send(
        &self,
        target: &Target,
        head: &Parts,
        body: B,
        account: &Arc<Account>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let mut body = body;
        let mut last = Failure::UpstreamReset {
            reused: true,
            sent: false,
        };
        for _attempt in 0..3 {
            let live = self.acquire(target, account).await?;
            let reused = live.used.replace(true);
            let stream = Stream::open(&live.load);
            let request = request(head, body);
            match live.sender.clone().try_send_request(request).await {
                Ok(response) => {
                    live.load.unread.trailers_taken();
                    return Ok(response.map(|inner| ResponseBody::new(inner, stream)));
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
                let load = &connection.load;
                load.unread.settle(load.waiting.get() == 0);
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

    async fn acquire(
        &self,
        target: &Target,
        account: &Arc<Account>,
    ) -> Result<Rc<Live<B>>, Failure> {
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
        let live = self.dial(target, account).await?;
        slot.live.borrow_mut().push(Rc::clone(&live));
        Ok(live)
    }

    async fn dial(&self, target: &Target, account: &Arc<Account>) -> Result<Rc<Live<B>>, Failure> {
        let memory = Held::new(account, MEMORY);
        let permit = self.budget.take(target.source, target.identity, memory)?;
        let stream = connect::connect(target, &self.options.connect).await?;
        let Options {
            max_head_bytes,
            limits,
            ..
        } = self.options;
        let unread = Rc::new(Unread::new(account, max_head_bytes));
        let stream = Frames::of_server(stream, Rc::clone(&unread));
        let handshake = http2::Builder::new(LocalExec)
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_send_buf_size(limits.send_buffer)
            .max_header_list_size(u32::try_from(max_head_bytes).unwrap_or(u32::MAX))
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
                unread,
                waiting: Cell::new(0),
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
    stream: Stream,
    /// Something of it may wait to be read.
    waiting: bool,
}

impl ResponseBody {
    fn new(inner: Incoming, stream: Stream) -> Self {
        let mut body = Self {
            inner,
            stream,
            waiting: false,
        };
        body.wait(!body.inner.is_end_stream());
        body
    }

    fn wait(&mut self, waiting: bool) {
        let all = &self.stream.0.waiting;
        match (self.waiting, waiting) {
            (false, true) => all.set(all.get() + 1),
            (true, false) => all.set(all.get() - 1),
            _ => {}
        }
        self.waiting = waiting;
    }

    /// Counts what was taken from the connection.
    fn content(&self, data: Bytes) -> Content {
        if !data.is_empty() {
            self.stream.0.unread.taken();
        }
        let (bytes, own) = unshared(data);
        Content::alone(bytes, own)
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.wait(false);
    }
}

impl Body for ResponseBody {
    type Data = Content;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Content>, Failure>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.inner).poll_frame(context);
        this.wait(matches!(frame, Poll::Ready(Some(Ok(_)))) && !this.inner.is_end_stream());
        let Some(frame) = ready!(frame) else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(|_error| Failure::Truncated)?;
        if frame.is_trailers() {
            this.stream.0.unread.trailers_taken();
        }
        Poll::Ready(Some(Ok(frame.map_data(|data| this.content(data)))))
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
