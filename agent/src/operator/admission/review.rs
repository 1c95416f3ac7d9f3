//! What is answered to the API server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::info;
use weft_api::k8s::filter::{Filter, ModuleSource};
use weft_filter_schema::Invalid;

use super::request::{self, About, Asked, Object};
use super::schemas::{MODULE_WITHIN, Schemas, is_pinned};
use crate::filter::Turn;

/// How long an answer may take: its module, and checking it.
pub(super) const ANSWER_WITHIN: Duration = MODULE_WITHIN.saturating_add(Duration::from_secs(1));
/// Reviews that are read at a time, and configurations that are checked: each may keep a
/// processor busy. A check may take a second, so that reads do not wait for checks: who
/// comes while many are applied is told that his is not checked.
const AT_ONCE: usize = 2;
/// What users can do, and what becomes of their object.
const CHECKED_LATER: &str =
    "nodes check it before it comes into force: see the condition Configured";

/// What is said of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is wrong with it.
    Good,
    /// It is accepted, and its user is told something.
    Unchecked(String),
    /// It is refused: each field that is wrong, and why.
    Refused(String),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// It is no review.
    #[error("{0}")]
    NoReview(String),
    /// Others take all the time.
    #[error("it took too long\n")]
    Late,
}

/// Answers reviews.
pub(super) struct Reviewer {
    schemas: Schemas,
    reads: Arc<Semaphore>,
    checks: Arc<Semaphore>,
}

impl Reviewer {
    /// One that knows schemas from these.
    pub(super) fn new(schemas: Schemas) -> Self {
        Self {
            schemas,
            reads: Arc::new(Semaphore::new(AT_ONCE)),
            checks: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Answers one until the deadline, as JSON.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub(super) async fn answer(
        &self,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Vec<u8>, Unanswered> {
        let (uid, about, verdict) = self.verdict(body, deadline).await?;
        tell(&about, &verdict);
        let answer = Answer::new(&uid, verdict);
        serde_json::to_vec(&answer).map_err(|error| Unanswered::NoReview(error.to_string()))
    }

    async fn verdict(
        &self,
        body: Bytes,
        deadline: Instant,
    ) -> Result<(String, About, Verdict), Unanswered> {
        let read = in_turn(&self.reads, move || request::read(&body));
        let Ok(Some(asked)) = timeout_at(deadline, read).await else {
            return Err(Unanswered::Late);
        };
        let Asked {
            uid,
            about,
            dry_run,
            object,
        } = asked.map_err(Unanswered::NoReview)?;
        let verdict = match object {
            Object::Same => Verdict::Good,
            Object::Wrong(why) => Verdict::Refused(why),
            Object::Filter(filter) => timeout_at(deadline, self.judge(*filter, dry_run))
                .await
                .unwrap_or_else(|_| unchecked(", for too many filters are applied at once")),
        };
        Ok((uid, about, verdict))
    }

    /// Judges a configuration as nodes will.
    async fn judge(&self, filter: Filter, dry_run: bool) -> Verdict {
        let schema = match self.schemas.of(&filter.module).await {
            Ok(Some(schema)) => schema,
            Ok(None) => return Verdict::Good,
            Err(unknown) => return unchecked(&format!(" yet, for {unknown}")),
        };
        let Filter { module, config, .. } = filter;
        let checked = in_turn(&self.checks, move || check(&schema, &config));
        match checked.await {
            Some(Ok(())) => Verdict::Good,
            Some(Err(why)) if is_pinned(&module) => Verdict::Refused(why),
            Some(Err(why)) => by_what_is_there(&why, &module, dry_run),
            None => unchecked(""),
        }
    }
}

/// Does what takes a while, in its turn. The turn is over when the work is, and not when
/// nobody waits for it any more. Nothing where the work ended without a result.
async fn in_turn<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let turn = Arc::clone(turns).acquire_owned().await.ok()?;
    Turn::from(turn).blocking(work).await.ok()
}

fn unchecked(why: &str) -> Verdict {
    Verdict::Unchecked(format!("spec.config is not checked{why}; {CHECKED_LATER}"))
}

/// Refuses by a module that may be another one later. In a dry run that may be the one
/// that is applied with the filter, which is not written.
fn by_what_is_there(why: &str, module: &ModuleSource, dry_run: bool) -> Verdict {
    let module = module.location.told();
    match dry_run {
        false => Verdict::Refused(format!("{why} (by the schema of {module} as it is now)")),
        true => Verdict::Unchecked(format!(
            "it would be refused by {module} as it is now, which a dry run does not change: {why}"
        )),
    }
}

fn check(schema: &str, config: &[u8]) -> Result<(), String> {
    let config: Value = serde_json::from_slice(config).map_err(|error| error.to_string())?;
    weft_filter_schema::validate(schema, &config).map_err(|invalid| match invalid {
        Invalid::Schema(_) => format!("spec.module: {invalid}"),
        Invalid::Config(_) => invalid.below("spec.config"),
    })
}

fn tell(about: &About, verdict: &Verdict) {
    let About {
        kind,
        namespace,
        name,
    } = about;
    match verdict {
        Verdict::Good => {}
        Verdict::Unchecked(why) => info!(kind, namespace, name, why, "accepted, and not checked"),
        Verdict::Refused(why) => info!(kind, namespace, name, why, "refused"),
    }
}

/// An AdmissionReview with its response.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<[String; 1]>,
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
    reason: &'static str,
    code: u16,
    message: String,
}

impl<'a> Answer<'a> {
    fn new(uid: &'a str, verdict: Verdict) -> Self {
        let (status, warnings) = match verdict {
            Verdict::Good => (None, None),
            Verdict::Unchecked(why) => (None, Some([why])),
            Verdict::Refused(message) => {
                let status = Status {
                    status: "Failure",
                    reason: "Invalid",
                    code: 422,
                    message,
                };
                (Some(status), None)
            }
        };
        Self {
            api_version: "admission.k8s.io/v1",
            kind: "AdmissionReview",
            response: Response {
                uid,
                allowed: status.is_none(),
                status,
                warnings,
            },
        }
    }
}

#[cfg(test)]
mod tests;
