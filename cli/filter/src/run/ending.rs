//! How a run ended.

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HeaderValue};

use super::drive::Drive;
use super::line::{Line, State};
use super::record::{Counted, Outcome, Report, Shown};

impl Drive {
    pub(super) fn report(self) -> Report {
        let (outcome, why, reply) = self.outcome();
        let request = self.request.head_sent.then(|| {
            let head = format!("{} {}", self.state.method, self.state.path);
            sent(head, &self.state.request, &self.request)
        });
        let response = self
            .response
            .as_ref()
            .filter(|line| line.head_sent)
            .zip(self.state.response.as_ref())
            .map(|(line, (status, headers))| sent(status.to_string(), headers, line));
        let mut metrics: Vec<Counted> = self
            .shared
            .metrics
            .all()
            .iter()
            .map(|metric| Counted::new(metric))
            .collect();
        metrics.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
        Report {
            filter: self.filter.name().to_owned(),
            outcome,
            why,
            steps: self.steps,
            cpu_us: self.cpu.as_secs_f64() * 1e6,
            memory_bytes: self.guest.memory(),
            request,
            response,
            reply,
            metrics,
            unasked: self.script.answers.unasked(),
        }
    }

    fn outcome(&self) -> (Outcome, String, Option<Shown>) {
        let failed = |why: String| (Outcome::Failed, why, None);
        if let Some(fault) = &self.broken {
            return failed(fault.to_string());
        }
        for (line, what) in [
            (Some(&self.request), "request"),
            (self.response.as_ref(), "response"),
        ] {
            match line.map(|line| &line.state) {
                Some(State::Replied(reply)) => {
                    let why = reply.reason.clone();
                    return (Outcome::Replied, why, Some(Shown::reply(reply)));
                }
                Some(State::Failed(fault)) => return failed(fault.to_string()),
                Some(State::TooLarge) => {
                    return failed(format!("the {what}'s body is larger than what may be held"));
                }
                Some(State::Held | State::Feeding) => {
                    return failed(format!(
                        "the {what} is held for ever: the filter waits for nothing that will come"
                    ));
                }
                Some(State::Passed) | None => {}
            }
        }
        (Outcome::Passed, String::new(), None)
    }
}

/// A message as it goes on: whoever sends it frames it.
fn sent(head: String, headers: &HeaderMap, line: &Line) -> Shown {
    let mut headers = headers.clone();
    if let Some(length) = headers.get_mut(CONTENT_LENGTH) {
        *length = HeaderValue::from(line.sent.len());
    }
    Shown::new(head, &headers, &line.sent)
}
