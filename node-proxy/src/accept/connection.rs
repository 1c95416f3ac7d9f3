//! What a worker knows of one accepted connection.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::request::Parts;
use tokio::task::JoinHandle;

use super::addr::{Local, OriginalDst, Source};
use super::clock::Tick;
use super::io::Progress;
use super::worker::Worker;
use crate::control::config::Config;
use crate::failure::Failure;
use crate::http::strict::StrictHandle;
use crate::identity::Judged;
use crate::memory::{Account, Answered, Fields, Held, Lent, Owner, Piece, Unread};
use crate::pipeline::inflight::InFlight;
use crate::pipeline::policy;
use crate::upstream::Content;

/// Where the requests of a connection go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To the address that the client dialled.
    Original(OriginalDst),
    /// To an endpoint of this cluster.
    Cluster(Rc<str>),
}

/// Why a connection is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// After the requests that are being served.
    Graceful,
    /// At once: the head of a request did not come in time.
    HeaderTimeout,
    /// At once: a request that was cut does not end by itself.
    Stuck,
}

/// Memory of a connection with what is made for it: its buffers, while they are
/// small, its state, its task.
const CONNECTION: usize = 24 * 1024;

/// The same for HTTP/2, which has buffers and tables of its own.
const HTTP2_CONNECTION: usize = 64 * 1024;

/// Memory of a request beside its head and its bodies: its task and its state
/// here, in the server's library and towards the upstream.
const REQUEST: usize = 12 * 1024;

/// A head that takes more than this counts for as long as its record lasts.
const LARGE_HEAD: usize = 8 * 1024;

/// What is counted of a connection of HTTP/2.
#[derive(Debug)]
struct Http2 {
    unread: Rc<Unread>,
    answered: Answered,
}

/// One accepted connection: addresses, identities and what is being served.
#[derive(Debug)]
pub struct Connection {
    /// The worker that accepted it and serves it to its end.
    pub worker: Rc<Worker>,
    /// Who opened it.
    pub source: Source,
    /// Where its requests go.
    pub route: Route,
    /// The proxy's listener.
    pub local: Local,
    /// What was read from it.
    pub progress: Progress,
    /// Protocols that it may be switched to besides WebSocket: those of the
    /// snapshot that it was accepted under, for all that look at its requests.
    pub upgrades: Arc<[Box<str>]>,
    memory: RefCell<Held>,
    judged: RefCell<Option<(Arc<Config>, Rc<Judged>)>>,
    /// Rules that judged its requests are gone.
    lapsed: Cell<bool>,
    running: RefCell<Vec<Rc<InFlight>>>,
    /// Bytes read when the last request's head was complete.
    boundary: Cell<u64>,
    /// When it became idle, or when the head that is being read began.
    since: Cell<Tick>,
    head_began: Cell<bool>,
    /// Of HTTP/2. Its frames between requests are no head that someone is slow
    /// to send.
    http2: OnceCell<Http2>,
    /// When it was seen that the client had closed its half.
    ended_since: Cell<Option<Tick>>,
    served: Cell<u64>,
    close: Cell<Option<Close>>,
    task: RefCell<Option<Waker>>,
    tunnel: RefCell<Option<JoinHandle<()>>>,
    strict: RefCell<Option<StrictHandle>>,
}

impl Connection {
    /// A connection that was accepted just now.
    #[must_use]
    pub fn new(worker: Rc<Worker>, source: Source, route: Route, local: Local) -> Self {
        let now = worker.clock.now();
        let account = worker.account(source);
        let upgrades = Arc::clone(&worker.config().settings.upgrades);
        Self {
            worker,
            source,
            route,
            local,
            memory: RefCell::new(Held::new(&account, CONNECTION)),
            progress: Progress::new(account),
            upgrades,
            judged: RefCell::new(None),
            lapsed: Cell::new(false),
            running: RefCell::default(),
            boundary: Cell::new(0),
            since: Cell::new(now),
            head_began: Cell::new(false),
            http2: OnceCell::new(),
            ended_since: Cell::new(None),
            served: Cell::new(0),
            close: Cell::new(None),
            task: RefCell::new(None),
            tunnel: RefCell::new(None),
            strict: RefCell::new(None),
        }
    }

    /// The worker's coarse clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.worker.clock.now()
    }

    /// Both ends and the policies that apply to requests towards
    /// `destination`, as `config` has them. Looked up once and again only
    /// when the snapshot or the destination changed.
    pub fn judged(&self, config: &Arc<Config>, destination: OriginalDst) -> Rc<Judged> {
        let mut cache = self.judged.borrow_mut();
        let before = cache
            .as_ref()
            .filter(|(_of, judged)| judged.ends.destination.address == destination.0);
        if let Some((of, judged)) = before
            && Arc::ptr_eq(of, config)
        {
            return Rc::clone(judged);
        }
        let judged = Rc::new(Judged::resolve(
            config,
            self.source,
            destination,
            self.local,
        ));
        if before.is_some_and(|(_of, before)| judged.lost_rules_of(before)) {
            self.lapsed.set(true);
        }
        *cache = Some((Arc::clone(config), Rc::clone(&judged)));
        judged
    }

    /// Whether its requests may be judged at all.
    ///
    /// # Errors
    /// [`Failure::Strangers`], [`Failure::Private`], and [`Failure::Unpoliced`] when rules that once
    /// judged them are gone, or when it was redirected here and there are
    /// none: what the kernel wanted judged would pass unjudged.
    pub fn judgeable(&self, judged: &Judged) -> Result<(), Failure> {
        if judged.strangers() {
            return Err(Failure::Strangers);
        }
        if judged.private {
            return Err(Failure::Private);
        }
        let redirected = matches!(self.route, Route::Original(_));
        if self.lapsed.get() || redirected && !judged.policed() {
            return Err(Failure::Unpoliced);
        }
        Ok(())
    }

    /// A request's head is complete: registers the request with the sweeper.
    pub fn begin(self: &Rc<Self>, head: &Parts) -> Running {
        let memory = REQUEST + Fields::of(&head.headers).memory();
        let request = InFlight::new(self.now(), Arc::clone(self.account()), memory);
        let request = Rc::new(request);
        self.running.borrow_mut().push(Rc::clone(&request));
        self.head_began.set(false);
        self.served.set(self.served.get() + 1);
        Running {
            connection: Rc::clone(self),
            request,
        }
    }

    fn end(&self, request: &Rc<InFlight>) {
        let mut running = self.running.borrow_mut();
        if let Some(index) = running.iter().position(|one| Rc::ptr_eq(one, request)) {
            running.swap_remove(index);
        }
        if let Some(strict) = &*self.strict.borrow() {
            strict.answered();
        }
        if let Some(http2) = self.http2.get() {
            let (writes, blocked) = (self.progress.writes(), self.progress.is_blocked());
            http2.answered.add(request.answer(), writes, blocked);
        }
        if running.is_empty() {
            self.since.set(self.now());
            self.boundary.set(self.progress.bytes());
        }
    }

    /// Whether the connection is to be ended, and how. Otherwise the caller's
    /// task is woken when that changes.
    pub fn poll_close(&self, context: &Context<'_>) -> Option<Close> {
        let mut task = self.task.borrow_mut();
        match &mut *task {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        self.close.get()
    }

    /// Ends the connection; a graceful end may still become an abrupt one.
    pub fn close(&self, how: Close) {
        if matches!(self.close.get(), Some(Close::HeaderTimeout | Close::Stuck)) {
            return;
        }
        self.close.set(Some(how));
        if let Some(waker) = self.task.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The memory of its source.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        self.progress.written().account()
    }

    /// The connection speaks HTTP/2, with heads of at most `head_bytes`.
    pub fn set_http2(&self, head_bytes: u32) -> Rc<Unread> {
        self.memory.borrow_mut().set(HTTP2_CONNECTION);
        let http2 = self.http2.get_or_init(|| Http2 {
            unread: Rc::new(Unread::new(self.account(), head_bytes as usize)),
            answered: Answered::new(self.account()),
        });
        Rc::clone(&http2.unread)
    }

    /// What it has received and nobody has read, if it speaks HTTP/2.
    #[must_use]
    pub fn http2(&self) -> Option<&Unread> {
        self.http2.get().map(|http2| &*http2.unread)
    }

    /// The check of HTTP/1 requests that is to be told of an upgrade.
    pub fn set_strict(&self, handle: StrictHandle) {
        self.strict.replace(Some(handle));
    }

    /// The connection switches protocols; this task carries its bytes.
    pub fn set_tunnel(&self, task: JoinHandle<()>) {
        if let Some(strict) = &*self.strict.borrow() {
            strict.tunnel();
        }
        self.tunnel.replace(Some(task));
    }

    /// The task of a connection that switched protocols.
    pub fn take_tunnel(&self) -> Option<JoinHandle<()>> {
        self.tunnel.take()
    }

    /// Requests that were begun on it.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.get()
    }

    /// Ends what is overdue. Called once a tick.
    pub fn sweep(&self, now: Tick, limits: &super::worker::Deadlines) {
        let running = self.running.borrow();
        if let Some(http2) = self.http2.get() {
            let drained = running.iter().all(|request| request.is_drained());
            http2.unread.settle(drained);
            http2.answered.settle(self.progress.is_blocked());
        }
        for request in running.iter() {
            if let Some(reason) = request.overdue(now, limits.request) {
                request.cut(reason);
            }
            if request.lingers() > limits.lingering {
                self.close(Close::Stuck);
            }
        }
        if !running.is_empty() {
            self.sweep_half_closed(now, &running, limits.half_closed);
            return;
        }
        if self.http2.get().is_none()
            && !self.head_began.get()
            && self.progress.bytes() != self.boundary.get()
        {
            self.head_began.set(true);
            self.since.set(now);
        }
        let waited = now.since(self.since.get());
        if !self.head_began.get() && self.keeps_what_is_scarce() {
            self.close(Close::Graceful);
        }
        if self.head_began.get() && waited > limits.header {
            self.close(Close::HeaderTimeout);
        } else if waited > limits.idle.saturating_mul(2) {
            // Told to end, it still waits for a client to take its answers.
            self.close(Close::Stuck);
        } else if waited > limits.idle {
            self.close(Close::Graceful);
        }
    }

    /// Whether it has a large buffer that an answer once needed, while its source
    /// is short of memory: another connection comes without.
    fn keeps_what_is_scarce(&self) -> bool {
        self.progress.written().is_grown() && self.account().is_scarce()
    }

    /// A client that closed its half may still wait for its answer, or be
    /// gone: only a write would tell. It is given some time.
    fn sweep_half_closed(&self, now: Tick, running: &[Rc<InFlight>], limit: u64) {
        let strict = self.strict.borrow();
        if !strict.as_ref().is_some_and(StrictHandle::ended) {
            return;
        }
        let since = self.ended_since.get().unwrap_or(now);
        self.ended_since.set(Some(since));
        if now.since(since) > limit {
            let waiting = running.iter().filter(|request| !request.is_answered());
            waiting.for_each(|request| request.cut(Failure::ClientGone));
        }
    }

    /// Cuts the requests that `config` no longer allows, and ends the
    /// connection when it is not to have any more.
    pub fn rejudge(&self, config: &Arc<Config>) {
        let cached = self
            .judged
            .borrow()
            .as_ref()
            .map(|(_of, judged)| OriginalDst(judged.ends.destination.address));
        if let Some(destination) = cached {
            let judged = self.judged(config, destination);
            if self.judgeable(&judged).is_err() {
                self.close(Close::Graceful);
            }
        }
        for request in self.running.borrow().iter() {
            if let Some(exchange) = request.exchange()
                && let Err(reason) = policy::again(config, self, exchange)
            {
                request.cut(reason);
            }
        }
    }
}

/// A registered request; unregistered when dropped.
#[derive(Debug)]
pub struct Running {
    connection: Rc<Connection>,
    /// What the sweeper sees of it.
    pub request: Rc<InFlight>,
}

impl Running {
    /// Memory for the request's record, if its head is a large one.
    #[must_use]
    pub fn lend(&self) -> Option<Lent> {
        let head = self.request.memory().saturating_sub(REQUEST);
        (head > LARGE_HEAD).then(|| self.connection.account().lend(head))
    }

    /// How many bytes of the response may follow now; if none, the task is woken
    /// when some may.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<usize> {
        match self.connection.http2() {
            Some(_) => self.request.flow().poll_room(context).map(|()| usize::MAX),
            None => self.connection.progress.written().poll_room(context),
        }
    }

    /// Fields of the response, in its head or behind its body, are on their way
    /// to the server.
    pub fn answer(&self, fields: Fields) {
        if self.connection.http2().is_some() {
            self.request.answers(fields.memory());
        } else {
            self.connection.progress.written().put(fields.text);
        }
    }

    /// So many bytes of the response are held, besides those on their way.
    #[must_use]
    pub fn hold(&self, bytes: usize) -> Held {
        Held::new(self.connection.account(), bytes)
    }

    /// A piece of the response on its way to the server, which queues those of
    /// HTTP/2 as they are and copies those of HTTP/1.
    #[must_use]
    pub fn piece(&self, content: Content) -> Piece<Rc<InFlight>> {
        if self.connection.http2().is_some() {
            self.request.keeps(content.shared);
            Piece::new(content.bytes, content.own, Rc::clone(&self.request))
        } else {
            self.connection.progress.written().put(content.bytes.len());
            Piece::free(content.bytes)
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.connection.end(&self.request);
    }
}
