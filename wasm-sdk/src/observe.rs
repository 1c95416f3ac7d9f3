//! What a filter shows: lines of the log, attributes and events of the request's span.

use std::fmt::Display;

use crate::sys::host;
use crate::sys::types::{Label, Level};

/// Keys and values of a log line or an event.
///
/// ```
/// # fn f(log: &weft_sdk::Log) {
/// let fields: weft_sdk::Fields = &[("user", &"ada"), ("attempt", &2)];
/// log.info("signed in", fields);
/// # }
/// ```
pub type Fields<'a> = &'a [(&'a str, &'a dyn Display)];

/// The log.
///
/// ```
/// # fn f(log: &weft_sdk::Log) {
/// log.warn("the token has expired", &[("subject", &"ada")]);
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Log {
    ctx: u64,
}

impl Log {
    pub(crate) const fn new(ctx: u64) -> Self {
        Self { ctx }
    }

    /// Writes a line.
    ///
    /// ```
    /// # fn f(log: &weft_sdk::Log) {
    /// log.at(weft_sdk::Level::Trace, "looked at", &[]);
    /// # }
    /// ```
    pub fn at(&self, level: Level, message: &str, fields: Fields<'_>) {
        host::log(self.ctx, level, message, &labels(fields));
    }

    /// Writes a line for the filter's author.
    ///
    /// ```
    /// # fn f(log: &weft_sdk::Log) {
    /// log.debug("cache", &[("hit", &true)]);
    /// # }
    /// ```
    pub fn debug(&self, message: &str, fields: Fields<'_>) {
        self.at(Level::Debug, message, fields);
    }

    /// Writes a line about something normal.
    ///
    /// ```
    /// # fn f(log: &weft_sdk::Log) {
    /// log.info("keys were fetched", &[("count", &3)]);
    /// # }
    /// ```
    pub fn info(&self, message: &str, fields: Fields<'_>) {
        self.at(Level::Info, message, fields);
    }

    /// Writes a line about something that is not normal.
    ///
    /// ```
    /// # fn f(log: &weft_sdk::Log) {
    /// log.warn("no keys yet", &[]);
    /// # }
    /// ```
    pub fn warn(&self, message: &str, fields: Fields<'_>) {
        self.at(Level::Warn, message, fields);
    }

    /// Writes a line about something that does not work.
    ///
    /// ```
    /// # fn f(log: &weft_sdk::Log) {
    /// log.error("the key server is away", &[]);
    /// # }
    /// ```
    pub fn error(&self, message: &str, fields: Fields<'_>) {
        self.at(Level::Error, message, fields);
    }
}

/// The request's span.
///
/// ```
/// # fn f(span: &weft_sdk::Span) {
/// span.set("user.id", "ada");
/// span.event("checked", &[("keys", &2)]);
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Span {
    ctx: u64,
}

impl Span {
    pub(crate) const fn new(ctx: u64) -> Self {
        Self { ctx }
    }

    /// Sets an attribute.
    ///
    /// ```
    /// # fn f(span: &weft_sdk::Span) {
    /// span.set("retries", 2);
    /// # }
    /// ```
    pub fn set(&self, key: &str, value: impl Display) {
        host::span_attribute(self.ctx, key, &value.to_string());
    }

    /// Adds an event.
    ///
    /// ```
    /// # fn f(span: &weft_sdk::Span) {
    /// span.event("cache miss", &[]);
    /// # }
    /// ```
    pub fn event(&self, name: &str, fields: Fields<'_>) {
        host::span_event(self.ctx, name, &labels(fields));
    }
}

fn labels(fields: Fields<'_>) -> Vec<Label> {
    fields
        .iter()
        .map(|(key, value)| Label {
            key: (*key).to_owned(),
            value: value.to_string(),
        })
        .collect()
}
