//! A request that meets filters, from its head to the head of its answer.
//!
//! The same way as without, with three places where filters look at the
//! request, and one where they look at the answer. Policy judges what is really
//! sent: again, whenever a filter changed something, and whenever one has taken
//! its time.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, DATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::SizeHint;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use weft_core::filter::Phase;
use weft_wasm_host::{Reply, Side};

use super::decide::{Entered, Plan};
use super::made::Made;
use super::record::Recorder;
use super::{admit, forward, headers, inflight};
use crate::accept::addr::OriginalDst;
use crate::accept::connection::{Connection, Running};
use crate::control::config::Config;
use crate::failure::Failure;
use crate::filter::answer::AnswerBody;
use crate::filter::drive::{Drive, Stop};
use crate::filter::exchange::{Answer, Known};
use crate::http::body::{ClientBody, RequestBody, ResponseBody};
use crate::http::respond::{self, Dialect};
use crate::settings;
use crate::upstream::UpstreamBody;
use crate::upstream::target::{Protocol, Target};

/// A request that has come in.
#[derive(Debug)]
pub struct Arrival {
    /// The connection that it came on.
    pub connection: Rc<Connection>,
    /// The request as the sweeper sees it.
    pub running: Running,
    /// The newest snapshot.
    pub config: Arc<Config>,
    /// Its head, admitted and sanitised.
    pub head: Parts,
    /// Its body.
    pub body: Incoming,
    /// The connection, should it switch protocols.
    pub upgraded: Option<OnUpgrade>,
    /// When its head was complete.
    pub started: Instant,
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
    pub async fn serve(self, mut entered: Entered) -> Response<ResponseBody> {
        let dialect = Dialect::of(&self.head);
        let request = Rc::clone(&self.running.request);
        let client = ClientBody::new(self.body, Rc::clone(&request), Rc::clone(&self.connection));
        let known = Known {
            config: Arc::clone(&self.config),
            ends: Arc::clone(&entered.made.ends),
            request_id: entered.made.request_id.clone(),
            trace: entered.made.trace.clone(),
        };
        let drive = Drive::new(
            &self.connection.worker,
            &self.config,
            &entered.judged,
            known,
            self.head,
            client,
            self.connection.account(),
        );
        let way = Way {
            drive: Rc::new(RefCell::new(drive)),
            connection: self.connection,
            request,
            config: RefCell::new(self.config),
            dialect,
            suspended: Cell::new(false),
        };
        let ended = way.request(&mut entered).await;
        way.answer(ended, entered, self.running, self.started, self.upgraded)
            .await
    }
}

impl Way {
    /// Brings the request through its filters and past policy.
    async fn request(&self, entered: &mut Entered) -> Result<Target, Ended> {
        self.through(Phase::BeforePolicy).await?;
        self.judge(entered)?;
        self.through(Phase::AfterPolicy).await?;
        self.through(Phase::Upstream).await?;
        if self.suspended.get() || self.drive.borrow_mut().lent()?.changed {
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

    /// Asks policy about the request as it is now.
    fn judge(&self, entered: &mut Entered) -> Result<(), Ended> {
        if self.suspended.replace(false) {
            self.look_again(entered)?;
        }
        let mut drive = self.drive.borrow_mut();
        let lent = drive.lent()?;
        let changed = lent.changed;
        let head = lent.open().ok_or(Failure::Answered)?;
        if changed {
            let most = self.config.borrow().settings.max_headers as usize;
            if admit::admit(head, settings::MAX_URI_BYTES, most)? == admit::Path::Redirect {
                return Err(Failure::Malformed("path of a filter").into());
            }
        }
        let denied = entered.judge(head);
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
        let over = drive.is_sent(Side::Request);
        fix_length(&mut head.headers, &drive.size_hint(Side::Request), over);
        let refused = match ended {
            Ok(_) | Err(Ended::Reply(_)) => None,
            Err(Ended::Plan(plan)) => plan.failure(),
        };
        let made = Made {
            answered: matches!(ended, Err(Ended::Reply(_))),
            ..entered.made
        };
        let exchange = made.exchange(head, started, refused, running.lend());
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

    /// An answer of the proxy's own, or of a filter's.
    fn own(&self, ended: Ended, recorder: &mut Recorder, config: &Config) -> (Answer, AnswerBody) {
        let server = config.server.as_ref();
        let response = match ended {
            Ended::Reply(reply) => return replied(*reply),
            Ended::Plan(Plan::Deny) => respond::denied(self.dialect, server),
            Ended::Plan(Plan::Redirect(location)) => respond::redirect(&location, server),
            Ended::Plan(Plan::Refuse(failure)) => {
                recorder.note(failure);
                respond::failed(failure, self.dialect, server)
            }
            Ended::Plan(Plan::Forward(_)) => {
                respond::failed(Failure::Answered, self.dialect, server)
            }
        };
        let (head, body) = response.into_parts();
        let answer = Answer {
            status: head.status,
            headers: head.headers,
        };
        (answer, AnswerBody::Own(body.into_full()))
    }

    /// Brings an answer through the filters that the request has passed. One of
    /// them may put another in its place, which those before it still see.
    /// Returns whether it is the one that was given.
    async fn back(&self, answer: (Answer, AnswerBody), recorder: &mut Recorder) -> bool {
        let mut answer = answer;
        let mut given = true;
        loop {
            let (head, body) = answer;
            self.drive.borrow_mut().answer(head, body);
            let Err(stop) = self.through_answer().await else {
                return given;
            };
            given = false;
            let config = Arc::clone(&self.config.borrow());
            answer = self.own(stop.into(), recorder, &config);
            if let Some(mark) = self.drive.borrow().mark() {
                let _first = recorder.exchange().filter.set(Box::new(mark.clone()));
            }
        }
    }

    async fn through_answer(&self) -> Result<(), Stop> {
        poll_fn(|context| {
            Drive::send_on(&self.drive, context);
            let mut drive = self.drive.borrow_mut();
            if let Some(reason) = self.request.poll_cut(inflight::Side::Response, context)
                && drive.leave()
            {
                return Poll::Ready(Err(reason.into()));
            }
            if let Poll::Ready(stop) = drive.poll_answer(context)? {
                return Poll::Ready(Ok(stop));
            }
            Poll::Pending
        })
        .await
    }

    /// Passes the upstream's answer on.
    async fn pass_on(
        &self,
        response: Response<UpstreamBody>,
        mut recorder: Recorder,
        upgraded: Option<OnUpgrade>,
        config: &Config,
    ) -> Response<ResponseBody> {
        let server = config.server.as_ref();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Filters see HTTP: what follows is something else.
            let passed = forward::response(&self.connection, response, recorder, upgraded, server);
            return match passed {
                Ok(response) => response,
                Err((failure, mut recorder)) => {
                    let answer = self.own(failure.into(), &mut recorder, config);
                    self.finish(answer, recorder).await
                }
            };
        }
        let (mut head, body) = response.into_parts();
        headers::sanitise_response(&mut head.headers, false);
        let latency = forward::received(&mut head.headers, &recorder);
        let answer = Answer {
            status: head.status,
            headers: std::mem::take(&mut head.headers),
        };
        let given = self
            .back((answer, AnswerBody::Upstream(body)), &mut recorder)
            .await;
        if !given {
            return self.hand_over(recorder);
        }
        let Some(mut own) = self.answer_head(&recorder) else {
            return respond::failed(Failure::Answered, self.dialect, server);
        };
        head.status = own.status;
        head.headers = std::mem::take(&mut own.headers);
        let handed = forward::hand_on(&self.connection, &mut head, &recorder, latency, server);
        if let Err(failure) = handed {
            recorder.note(failure);
            let answer = respond::failed(failure, self.dialect, server);
            return forward::own(answer, recorder);
        }
        let body = self.answer_body().recorded(recorder);
        Response::from_parts(head, body)
    }

    /// Gives an answer of the proxy's own, or of a filter's.
    async fn finish(
        &self,
        answer: (Answer, AnswerBody),
        mut recorder: Recorder,
    ) -> Response<ResponseBody> {
        self.back(answer, &mut recorder).await;
        self.hand_over(recorder)
    }

    fn hand_over(&self, recorder: Recorder) -> Response<ResponseBody> {
        let config = self.config.borrow();
        let Some(answer) = self.answer_head(&recorder) else {
            return respond::failed(Failure::Answered, self.dialect, config.server.as_ref());
        };
        let mut response = Response::new(self.answer_body());
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        respond::complete(response.headers_mut(), config.server.as_ref());
        forward::own(response, recorder)
    }

    /// The answer's head, as it goes to the client.
    fn answer_head(&self, recorder: &Recorder) -> Option<Answer> {
        let mut drive = self.drive.borrow_mut();
        let mut answer = drive.send_answer()?;
        let bodiless = recorder.exchange().head.method == Method::HEAD
            || matches!(
                answer.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        if !bodiless {
            let over = drive.is_sent(Side::Response);
            fix_length(&mut answer.headers, &drive.size_hint(Side::Response), over);
        }
        Some(answer)
    }

    fn answer_body(&self) -> ResponseBody {
        let mut drive = self.drive.borrow_mut();
        if drive.is_sent(Side::Response) {
            return ResponseBody::empty();
        }
        let unseen = drive.take_answer().map(ResponseBody::upstream);
        unseen.unwrap_or_else(|| ResponseBody::filtered(Rc::clone(&self.drive)))
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

fn replied(reply: Reply) -> (Answer, AnswerBody) {
    let mut headers = reply.headers;
    headers.remove(DATE);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    let answer = Answer {
        status: reply.status,
        headers,
    };
    (answer, AnswerBody::Own(reply.body))
}
