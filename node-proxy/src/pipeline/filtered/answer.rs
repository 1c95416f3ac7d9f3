//! The answer to a request that meets filters: whoever it is from, on its way
//! back through them.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderValue, Method, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use weft_wasm_host::{Reply, Side};

use super::{Ended, Way, fix_length};
use crate::control::config::Config;
use crate::failure::Failure;
use crate::filter::answer::AnswerBody;
use crate::filter::drive::{Drive, Stop};
use crate::filter::exchange::Answer;
use crate::http::body::ResponseBody;
use crate::http::respond;
use crate::pipeline::decide::Plan;
use crate::pipeline::record::Recorder;
use crate::pipeline::{forward, headers, inflight};
use crate::upstream::UpstreamBody;

impl Way {
    /// An answer of the proxy's own, or of a filter's.
    pub(super) fn own(
        &self,
        ended: Ended,
        recorder: &mut Recorder,
        config: &Config,
    ) -> (Answer, AnswerBody) {
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
    pub(super) async fn pass_on(
        &self,
        response: Response<UpstreamBody>,
        mut recorder: Recorder,
        upgraded: Option<OnUpgrade>,
        config: &Config,
    ) -> Response<ResponseBody> {
        let server = config.server.as_ref();
        // Filters see HTTP: after a switch something else follows.
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches || self.drive.borrow().is_left() {
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
    pub(super) async fn finish(
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
