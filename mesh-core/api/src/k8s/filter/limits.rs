//! What a filter may take, and what becomes of requests when it fails.

use std::time::Duration;

use serde_json::{Map, Value};
use weft_core::filter::{FailPolicy, FilterLimits, Isolation, OnError};

use super::super::error::Path;
use super::super::strict;
use super::amount;
use super::convert::Reader;
use super::spec::{IntOrText, LimitsText, OnErrorText};

/// What the proxy lets filters have at most (`weft_wasm_host::Limits`).
const MAX_MEMORY: u64 = 256 << 20;
const MAX_BODY: u64 = 64 << 20;
const MAX_CONTEXTS: u32 = 1 << 20;
const MAX_FETCHES: u32 = 1024;
const MAX_DEADLINE: Duration = Duration::from_millis(100);
const MAX_START: Duration = Duration::from_secs(10);
const MAX_FETCH_TIMEOUT: Duration = Duration::from_secs(300);

impl Reader<'_> {
    pub(super) fn limits(
        &mut self,
        text: Option<&LimitsText>,
        path: &Path,
    ) -> Option<FilterLimits> {
        let Some(text) = text else {
            return Some(FilterLimits::default());
        };
        let mut sound = true;
        let mut duration = |text: &Option<String>, most: Duration, field: &str| {
            let told = text.as_deref().map(amount::duration).map(|read| {
                read.and_then(|value| match value {
                    value if value.is_zero() || value > most => Err(format!(
                        "is {value:?}, it must be above 0 and at most {most:?}"
                    )),
                    value => Ok(value),
                })
            });
            self.settle(told, &path.field(field), &mut sound)
        };
        let deadline = duration(&text.deadline, MAX_DEADLINE, "deadline");
        let start_deadline = duration(&text.start_deadline, MAX_START, "startDeadline");
        let fetch_timeout = duration(&text.fetch_timeout, MAX_FETCH_TIMEOUT, "fetchTimeout");
        let mut bytes = |text: &Option<IntOrText>, most: u64, field: &str| {
            let told = text.as_ref().map(amount::bytes);
            let told = told.map(|read| read.and_then(|value| bounded(value, most)));
            self.settle(told, &path.field(field), &mut sound)
        };
        let memory = bytes(&text.memory, MAX_MEMORY, "memory");
        let held_body = bytes(&text.held_body, MAX_BODY, "heldBody");
        let fetch_body = bytes(&text.fetch_body, MAX_BODY, "fetchBody");
        let mut count = |value: Option<i64>, most: u32, field: &str| {
            let told = value.map(|value| bounded(value, most.into()));
            let told = told.map(|read| read.map(|value| u32::try_from(value).unwrap_or(most)));
            self.settle(told, &path.field(field), &mut sound)
        };
        let contexts = count(text.contexts, MAX_CONTEXTS, "contexts");
        let fetches = count(text.fetches_per_context, MAX_FETCHES, "fetchesPerContext");
        sound.then_some(FilterLimits {
            deadline,
            start_deadline,
            memory,
            contexts,
            held_body,
            fetches_per_context: fetches,
            fetch_timeout,
            fetch_body,
        })
    }

    /// A value that may be absent; what is wrong with it is noted.
    fn settle<T>(
        &mut self,
        told: Option<Result<T, String>>,
        path: &Path,
        sound: &mut bool,
    ) -> Option<T> {
        match told {
            Some(Ok(value)) => Some(value),
            Some(Err(message)) => {
                self.errors.add(path, message);
                *sound = false;
                None
            }
            None => None,
        }
    }

    pub(super) fn on_error(&mut self, text: Option<&OnErrorText>, path: &Path) -> Option<OnError> {
        let Some(OnErrorText(value)) = text else {
            return Some(OnError::default());
        };
        match value {
            Value::Null => Some(OnError::default()),
            Value::Object(kinds) => self.policies(kinds, path),
            value => self.fail_policy(value, path).map(OnError::all),
        }
    }

    fn policies(&mut self, kinds: &Map<String, Value>, path: &Path) -> Option<OnError> {
        const KINDS: [&str; 4] = ["load", "config", "trap", "timeout"];
        let mut policies = OnError::default();
        let mut sound = true;
        for (name, value) in kinds {
            let path = path.field(name);
            let place = match name.as_str() {
                "load" => &mut policies.load,
                "config" => &mut policies.config,
                "trap" => &mut policies.trap,
                "timeout" => &mut policies.timeout,
                other => {
                    self.errors.add_with(&path, || {
                        let hint = strict::suggestion(other, KINDS);
                        let hint = hint.map_or_else(
                            || format!(": the kinds of failure are {}", KINDS.join(", ")),
                            |known| format!(", did you mean {known}"),
                        );
                        format!("unknown field{hint}")
                    });
                    sound = false;
                    continue;
                }
            };
            match self.fail_policy(value, &path) {
                Some(policy) => *place = policy,
                None => sound = false,
            }
        }
        sound.then_some(policies)
    }

    fn fail_policy(&mut self, value: &Value, path: &Path) -> Option<FailPolicy> {
        match value.as_str() {
            Some("closed") => Some(FailPolicy::Closed),
            Some("open") => Some(FailPolicy::Open),
            Some(other) => self.unknown(other, &["closed", "open"], path),
            None => {
                self.errors.add(path, "must be closed or open");
                None
            }
        }
    }

    pub(super) fn isolation(&mut self, name: Option<&str>, path: &Path) -> Option<Isolation> {
        match name {
            None | Some("worker") => Some(Isolation::Worker),
            Some("request") => Some(Isolation::Request),
            Some(other) => self.unknown(other, &["worker", "request"], path),
        }
    }
}

fn bounded<T: Copy + PartialOrd + Default + std::fmt::Display>(
    value: T,
    most: T,
) -> Result<T, String> {
    if value <= T::default() {
        Err("must be at least 1".to_owned())
    } else if value > most {
        Err(format!("is {value}, the most is {most}"))
    } else {
        Ok(value)
    }
}
