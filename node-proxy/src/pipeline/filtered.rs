//! A request that meets filters, from its head to the head of its answer.
//!
//! The same way as without, with three places where filters look at the
//! request, and one where they look at the answer. Policy judges what is really
//! sent: again, whenever a filter changed something, and whenever one has taken
//! its time.

mod answer;
mod at_once;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Response};
use http_body::SizeHint;
use hyper::upgrade::OnUpgrade;
use weft_core::filter::Phase;
use weft_wasm_host::{Reply, Side};

pub use self::at_once::{Met, Past, at_once};
use super::decide::{Entered, Plan};
use super::inflight;
use super::made::Made;
use super::record::Recorder;

use crate::accept::addr::OriginalDst;
use crate::accept::connection::{Connection, Running};
use crate::control::config::Config;
use crate::failure::Failure;
use crate::filter::drive::{Drive, Stop};
use crate::http::body::{RequestBody, ResponseBody};
use crate::http::respond::{self, Dialect};
use crate::upstream::UpstreamBody;
use crate::upstream::target::{Protocol, Target};

/// A request that filters go on looking at.
#[derive(Debug)]
pub struct Arrival {
    /// The connection that it came on.
    pub connection: Rc<Connection>,
    /// The request as the sweeper sees it.
    pub running: Running,
    /// The newest snapshot.
    pub config: Arc<Config>,
    /// The connection, should it switch protocols.
    pub upgraded: Option<OnUpgrade>,
    /// When its head was complete.
    pub started: Instant,
    /// How failures are answered.
    pub dialect: Dialect,
}

/// Why a request goes no further.
enum Ended {
    /// In a way that requests without filters know.
    Plan(Plan),
    /// A filter answers it.
    Reply(Box<Reply>),
}

impl From<Stop> for Ended {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Reply(reply) => Self::Reply(reply),
            Stop::Failure(failure) => failure.into(),
        }
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Plan(Plan::Refuse(failure))
    }
}

/// What the stages of a request have in common.
struct Way {
    connection: Rc<Connection>,
    request: Rc<inflight::InFlight>,
    drive: Rc<RefCell<Drive>>,
    config: RefCell<Arc<Config>>,
    dialect: Dialect,
    /// A filter has taken its time since policy was asked.
    suspended: Cell<bool>,
}

impl Arrival {
    /// Serves the request.
    pub async fn serve(self, met: Met) -> Response<ResponseBody> {
        let Met {
            mut entered,
            drive,
            judged,
        } = met;
        let way = Way {
            drive: Rc::new(RefCell::new(drive)),
            connection: self.connection,
            request: Rc::clone(&self.running.request),
            config: RefCell::new(self.config),
            dialect: self.dialect,
            suspended: Cell::new(false),
        };
        let ended = way.request(&mut entered, judged).await;
        way.answer(ended, entered, self.running, self.started, self.upgraded)
            .await
    }
}

impl Way {
    /// Brings the request through its filters and past policy, which may have
    /// judged it before.
    async fn request(&self, entered: &mut Entered, judged: bool) -> Result<Target, Ended> {
        if !judged {
            self.through(Phase::BeforePolicy).await?;
            self.judge(entered)?;
        }
        // Those after policy and then those before the upstream, with no stop in
        // between: it may have come past some of them already.
        self.through(Phase::Upstream).await?;
        if self.is_stale(entered)? {
            self.judge(entered)?;
        }
        let mut drive = self.drive.borrow_mut();
        let head = drive.lent()?.open().ok_or(Failure::Answered)?;
        let config = Arc::clone(&self.config.borrow());
        let target = entered.route(&config, &self.connection, head)?;
        Ok(target)
    }

    /// Waits until the request's head has come through the filters of a phase.
    async fn through(&self, phase: Phase) -> Result<(), Stop> {
        let filters = self.drive.borrow().up_to(phase);
        poll_fn(|context| {
            if let Some(reason) = self.request.poll_cut(inflight::Side::Response, context) {
                return Poll::Ready(Err(reason.into()));
            }
            let polled = self.drive.borrow_mut().poll_request(context, filters);
            if polled.is_pending() {
                self.suspended.set(true);
            }
            polled
        })
        .await
    }

    /// Whether policy may say something else of the request than when it was
    /// asked.
    fn is_stale(&self, entered: &Entered) -> Result<bool, Failure> {
        let mut drive = self.drive.borrow_mut();
        let lent = drive.lent()?;
        let changed = lent.changed;
        let head = lent.open().ok_or(Failure::Answered)?;
        Ok(self.suspended.get() || entered.is_stale(head, changed))
    }

    /// Asks policy about the request as it is now.
    fn judge(&self, entered: &mut Entered) -> Result<(), Ended> {
        if self.suspended.replace(false) {
            self.look_again(entered)?;
        }
        let mut drive = self.drive.borrow_mut();
        let lent = drive.lent()?;
        let changed = lent.changed;
        let head = lent.open().ok_or(Failure::Answered)?;
        let denied = entered.judge_changed(head, changed, &self.config.borrow())?;
        drive.decided(entered.made.decisions.clone());
        match denied {
            None => Ok(()),
            Some(plan) => Err(Ended::Plan(plan)),
        }
    }

    /// Takes over the newest snapshot: it may revoke what this request was let
    /// in with.
    fn look_again(&self, entered: &mut Entered) -> Result<(), Failure> {
        let config = self.connection.worker.config();
        let then = Arc::clone(&entered.judged.ends);
        let destination = OriginalDst(then.destination.address);
        let judged = self.connection.judged(&config, destination);
        let now = &judged.ends;
        if now.source.endpoint != then.source.endpoint
            || now.destination.endpoint != then.destination.endpoint
        {
            return Err(Failure::Revoked);
        }
        self.connection.judgeable(&judged)?;
        entered.judged = judged;
        self.config.replace(config);
        Ok(())
    }

    /// Records the decision, and does what was decided.
    async fn answer(
        self,
        ended: Result<Target, Ended>,
        entered: Entered,
        running: Running,
        started: Instant,
        upgraded: Option<OnUpgrade>,
    ) -> Response<ResponseBody> {
        let config = Arc::clone(&self.config.borrow());
        let mut recorder = match self.record(&ended, entered, running, started) {
            Ok(recorder) => recorder,
            // Only a filter that lost the exchange leaves no head to record.
            Err(failure) => return respond::failed(failure, self.dialect, config.server.as_ref()),
        };
        let target = match ended {
            Ok(target) => target,
            Err(ended) => {
                let answer = self.own(ended, &mut recorder, &config);
                return self.finish(answer, recorder).await;
            }
        };
        match self.send(&target, &recorder).await {
            Ok(response) => self.pass_on(response, recorder, upgraded, &config).await,
            Err(failure) => {
                let stopped = self.drive.borrow_mut().take_stopped();
                let ended = stopped.map_or_else(|| failure.into(), Ended::from);
                let answer = self.own(ended, &mut recorder, &config);
                self.finish(answer, recorder).await
            }
        }
    }

    fn record(
        &self,
        ended: &Result<Target, Ended>,
        entered: Entered,
        running: Running,
        started: Instant,
    ) -> Result<Recorder, Failure> {
        let mut drive = self.drive.borrow_mut();
        let mut head = drive.send()?;
        if drive.changes_length(Side::Request) {
            let over = drive.is_sent(Side::Request);
            fix_length(&mut head.headers, &drive.size_hint(Side::Request), over);
        }
        let refused = match ended {
            Ok(_) | Err(Ended::Reply(_)) => None,
            Err(Ended::Plan(plan)) => plan.failure(),
        };
        let made = Made {
            answered: matches!(ended, Err(Ended::Reply(_))),
            ..entered.made
        };
        let exchange = made.exchange(head, started, refused, running.lend(), None);
        if let Some(mark) = drive.mark() {
            let _first = exchange.filter.set(Box::new(mark.clone()));
        }
        drive.recorded(&exchange);
        running.request.decided(Arc::clone(&exchange));
        let recorder = Recorder::decided(&self.connection.worker, running, exchange);
        Ok(recorder.filtered(Rc::clone(&self.drive)))
    }

    async fn send(
        &self,
        target: &Target,
        recorder: &Recorder,
    ) -> Result<Response<UpstreamBody>, Failure> {
        let body = RequestBody::filtered(
            &self.drive,
            Rc::clone(&self.request),
            &self.connection,
            target.protocol == Protocol::Http2,
        );
        let exchange = Arc::clone(recorder.exchange());
        let upstream = self.connection.worker.upstream();
        let account = self.connection.account();
        let sending = pin!(upstream.send(target, &exchange.head, body, account));
        self.unless_stopped(sending).await
    }

    /// Polls the upstream, unless the request has to end before it answers.
    async fn unless_stopped(
        &self,
        mut sending: Pin<&mut impl Future<Output = Result<Response<UpstreamBody>, Failure>>>,
    ) -> Result<Response<UpstreamBody>, Failure> {
        poll_fn(|context| {
            if let Some(reason) = self.request.poll_cut(inflight::Side::Response, context) {
                return Poll::Ready(Err(reason));
            }
            let stopped = self.drive.borrow_mut().poll_stopped(context);
            if let Poll::Ready(failure) = stopped {
                return Poll::Ready(Err(failure));
            }
            sending.as_mut().poll(context)
        })
        .await
    }
}

/// A length that was said of a body is said of what filters made of it, or not
/// at all.
fn fix_length(headers: &mut HeaderMap, hint: &SizeHint, over: bool) {
    if !headers.contains_key(CONTENT_LENGTH) {
        return;
    }
    match hint.exact() {
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None if over => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        None => {
            headers.remove(CONTENT_LENGTH);
        }
    }
}
