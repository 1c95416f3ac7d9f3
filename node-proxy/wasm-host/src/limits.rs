//! What one filter may take.

use std::time::Duration;

use crate::shared::kv::KvQuota;

/// Most memory that any filter may have; what [`Limits::memory`] can be set to.
pub const MAX_MEMORY: usize = 256 << 20;
/// Longest deadline of one event.
pub const MAX_DEADLINE: Duration = Duration::from_millis(100);
/// Longest time that it may take to start.
const MAX_START_DEADLINE: Duration = Duration::from_secs(10);
/// Most elements of a table.
pub const MAX_TABLE: usize = 20_000;
/// Longest service, path, method and the like that a fetch may have.
pub(crate) const MAX_TEXT: usize = 8 * 1024;
/// Longest reason of a filter's own for what it does.
pub(crate) const MAX_REASON: usize = 1024;
/// Longest time that any fetch may take.
const MAX_FETCH_TIMEOUT: Duration = Duration::from_secs(300);

/// Limits of one filter, for each of its instances where it says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: usize,
    /// Elements of its tables.
    pub table: usize,
    /// CPU time of one event.
    pub deadline: Duration,
    /// CPU time to start and to take the configuration.
    pub start_deadline: Duration,
    /// Requests in it at once.
    pub contexts: usize,
    /// Fetches of one request at once.
    pub fetches_per_context: usize,
    /// Fetches at once.
    pub fetches: usize,
    /// Bytes of the body of a fetch's request, and of its answer.
    pub fetch_body: usize,
    /// Longest time that a fetch may take.
    pub fetch_timeout: Duration,
    /// Timers of one request at once.
    pub timers_per_context: usize,
    /// Bytes of a body that are held for it.
    pub held_body: usize,
    /// Instances at once on a node, where each request has one of its own.
    pub instances: usize,
    /// Values that all its instances share.
    pub kv: KvQuota,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 32 << 20,
            table: 10_000,
            deadline: Duration::from_millis(5),
            start_deadline: Duration::from_secs(1),
            contexts: 65_536,
            fetches_per_context: 16,
            fetches: 65_536,
            fetch_body: 1 << 20,
            fetch_timeout: Duration::from_secs(30),
            timers_per_context: 16,
            held_body: 1 << 20,
            instances: 256,
            kv: KvQuota::default(),
        }
    }
}

impl Limits {
    /// Bytes that one event may give out altogether: in replies, in place of bodies, and in fetches.
    #[must_use]
    pub const fn output(&self) -> usize {
        let most = match self.held_body > self.fetch_body {
            true => self.held_body,
            false => self.fetch_body,
        };
        4 * most
    }

    /// Bytes that one call between filter and host may copy: all that it may give out or keep.
    pub(crate) const fn copied(&self) -> usize {
        let output = self.output();
        let most = match output > self.kv.value {
            true => output,
            false => self.kv.value,
        };
        most + (1 << 20)
    }

    /// Says which limit is beyond what a node allows.
    ///
    /// # Errors
    /// Names the field and its bounds.
    pub fn check(&self) -> Result<(), String> {
        let within = |field: &str, value: usize, most: usize| match value {
            0 => Err(format!("limits.{field} must be at least 1")),
            value if value > most => Err(format!("limits.{field} is {value}, the most is {most}")),
            _ => Ok(()),
        };
        within("memory", self.memory, MAX_MEMORY)?;
        within("table", self.table, MAX_TABLE)?;
        within("contexts", self.contexts, 1 << 20)?;
        within("fetchesPerContext", self.fetches_per_context, 1024)?;
        within("fetches", self.fetches, 1 << 20)?;
        within("fetchBody", self.fetch_body, 64 << 20)?;
        within("timersPerContext", self.timers_per_context, 1024)?;
        within("heldBody", self.held_body, 64 << 20)?;
        within("instances", self.instances, 1 << 16)?;
        within("kv.keys", self.kv.keys, 1 << 20)?;
        within("kv.bytes", self.kv.bytes, 256 << 20)?;
        within("kv.key", self.kv.key, 16 << 10)?;
        within("kv.value", self.kv.value, 16 << 20)?;
        let deadlines = [
            ("deadline", self.deadline, MAX_DEADLINE),
            ("startDeadline", self.start_deadline, MAX_START_DEADLINE),
            ("fetchTimeout", self.fetch_timeout, MAX_FETCH_TIMEOUT),
        ];
        for (field, value, most) in deadlines {
            if value.is_zero() || value > most {
                return Err(format!(
                    "limits.{field} is {} ms, it must be between 1 and {}",
                    value.as_millis(),
                    most.as_millis()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Limits;

    /// A limit: its name, and where it is.
    type Field<T> = (&'static str, fn(&mut Limits) -> &mut T);

    /// What is said of limits that were changed so.
    fn refusal(change: impl FnOnce(&mut Limits)) -> String {
        let mut limits = Limits::default();
        change(&mut limits);
        limits.check().expect_err("beyond")
    }

    #[test]
    fn every_limit_has_bounds() {
        assert_eq!(Limits::default().check(), Ok(()));
        let numbers: [Field<usize>; 13] = [
            ("memory", |limits| &mut limits.memory),
            ("table", |limits| &mut limits.table),
            ("contexts", |limits| &mut limits.contexts),
            ("fetchesPerContext", |limits| {
                &mut limits.fetches_per_context
            }),
            ("fetches", |limits| &mut limits.fetches),
            ("fetchBody", |limits| &mut limits.fetch_body),
            ("timersPerContext", |limits| &mut limits.timers_per_context),
            ("heldBody", |limits| &mut limits.held_body),
            ("instances", |limits| &mut limits.instances),
            ("kv.keys", |limits| &mut limits.kv.keys),
            ("kv.bytes", |limits| &mut limits.kv.bytes),
            ("kv.key", |limits| &mut limits.kv.key),
            ("kv.value", |limits| &mut limits.kv.value),
        ];
        for (field, of) in numbers {
            let none = refusal(|limits| *of(limits) = 0);
            assert_eq!(none, format!("limits.{field} must be at least 1"));
            let much = refusal(|limits| *of(limits) = usize::MAX);
            let begin = format!("limits.{field} is {}, the most is ", usize::MAX);
            assert!(much.starts_with(&begin), "{much}");
        }
        let times: [Field<Duration>; 3] = [
            ("deadline", |limits| &mut limits.deadline),
            ("startDeadline", |limits| &mut limits.start_deadline),
            ("fetchTimeout", |limits| &mut limits.fetch_timeout),
        ];
        for (field, of) in times {
            for value in [Duration::ZERO, Duration::from_secs(301)] {
                let refused = refusal(|limits| *of(limits) = value);
                let begin = format!("limits.{field} is {} ms, it must be", value.as_millis());
                assert!(refused.starts_with(&begin), "{refused}");
            }
        }
    }
}
