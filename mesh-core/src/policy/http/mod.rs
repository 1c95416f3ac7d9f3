//! HTTP rules: what they say, and the matcher that judges requests by them.
//!
//! A [`Matcher`] holds all HTTP rules of one endpoint, direction and port. It
//! is compiled once; judging a request walks each of method, path and host at
//! most once through a table, whatever the number of rules, and allocates
//! nothing.

mod automaton;
mod bits;
mod field;
mod header;
mod matcher;
mod path;
mod re2;
mod rule;

pub use matcher::{Matcher, PeerPolicy, Request, Verdict};
pub use path::{NormalizeError, Normalized, normalize};
pub use rule::{HeaderMatch, HttpRule, HttpRuleError, HttpRules, Mismatch};
