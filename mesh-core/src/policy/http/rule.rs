//! HTTP rules as text, and what makes them acceptable.

use std::ops::Deref;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::automaton;

/// The HTTP rules of a port, and what they cost. Cheap to clone: the same rules
/// hold for many ports, peers and pods.
#[derive(Clone, Debug, Default)]
pub struct HttpRules {
    list: Arc<[HttpRule]>,
    cost: usize,
    size: usize,
}

impl HttpRules {
    /// These rules, which cost so much together ([`HttpRule::validate`]).
    pub fn new(list: Vec<HttpRule>, cost: usize) -> Self {
        Self {
            size: list.iter().map(HttpRule::size).sum(),
            list: list.into(),
            cost,
        }
    }

    /// The rules, shared.
    pub fn shared(&self) -> Arc<[HttpRule]> {
        self.list.clone()
    }

    /// Bytes of the tables that their expressions need.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Bytes that they take in a snapshot; rather more than less.
    pub fn size(&self) -> usize {
        self.size
    }
}

impl Deref for HttpRules {
    type Target = [HttpRule];

    fn deref(&self) -> &[HttpRule] {
        &self.list
    }
}

impl PartialEq for HttpRules {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for HttpRules {}

/// One element of `rules.http`. Every field that is set must hold; a rule with
/// no field set passes every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpRule {
    /// Regular expression (RE2 syntax, full match, case-sensitive).
    pub method: Option<String>,
    /// Regular expression for path and query.
    pub path: Option<String>,
    /// Regular expression for the authority, which may carry a port.
    pub host: Option<String>,
    /// `Name: value` (exactly this value) or `Name` (presence).
    pub headers: Vec<String>,
    /// Headers with something to do when they do not match.
    pub header_matches: Vec<HeaderMatch>,
}

/// A header that must have a value, and what to do when it has not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderMatch {
    /// Name, in any case.
    pub name: String,
    /// The exact value; empty means presence.
    pub value: String,
    /// What to do when the request does not have it.
    pub mismatch: Mismatch,
}

/// What to do when a header does not match. All but [`Mismatch::Fail`] let the
/// rule match and change the request only if it is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// The rule does not match.
    #[default]
    Fail,
    /// Log the header as missing.
    Log,
    /// Append the value.
    Add,
    /// Remove the header.
    Delete,
    /// Set the value.
    Replace,
}

/// Why an HTTP rule is refused. `field` says where inside the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct HttpRuleError {
    /// `path`, `headers[1]`, `headerMatches[0].name`.
    pub field: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl HttpRule {
    /// Whether the rule can be compiled: to be asked when an object is
    /// admitted, so that one bad expression refuses that object and no other.
    /// Returns what the rule costs the proxy: bytes of its expressions' tables.
    ///
    /// # Errors
    /// The first field that is wrong: an expression that does not parse or is
    /// too large, a name or value that no header can have.
    pub fn validate(&self) -> Result<usize, HttpRuleError> {
        let patterns = [
            ("method", &self.method),
            ("path", &self.path),
            ("host", &self.host),
        ];
        let mut cost = 0;
        for (field, pattern) in patterns {
            if let Some(pattern) = pattern {
                cost += automaton::cost(pattern).map_err(|reason| refused(field, reason))?;
            }
        }
        for index in 0..self.headers.len() {
            self.header(index)?;
        }
        for index in 0..self.header_matches.len() {
            self.header_match(index)?;
        }
        Ok(cost)
    }

    /// Bytes that it takes in a snapshot; rather more than less.
    pub fn size(&self) -> usize {
        /// Tag and length of a field.
        const FIELD: usize = 5;
        let fields = [&self.method, &self.path, &self.host].into_iter().flatten();
        let texts = fields.chain(&self.headers).map(|text| FIELD + text.len());
        let matches = self.header_matches.iter();
        let matches = matches.map(|one| 4 * FIELD + one.name.len() + one.value.len());
        FIELD + texts.chain(matches).sum::<usize>()
    }

    /// Name and value of an element of `headers`.
    pub(super) fn header(
        &self,
        index: usize,
    ) -> Result<(HeaderName, Option<HeaderValue>), HttpRuleError> {
        let text = self.headers.get(index).map_or("", String::as_str);
        let (name, value) = match text.split_once(':') {
            // A value may hold colons; only the first one separates.
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (text.trim(), None),
        };
        let field = format!("headers[{index}]");
        Ok((
            parse_name(&field, name)?,
            value
                .filter(|value| !value.is_empty())
                .map(|value| parse_value(&field, value))
                .transpose()?,
        ))
    }

    /// Name and value of an element of `headerMatches`.
    pub(super) fn header_match(
        &self,
        index: usize,
    ) -> Result<(HeaderName, Option<HeaderValue>), HttpRuleError> {
        let Some(entry) = self.header_matches.get(index) else {
            return Err(refused(
                &format!("headerMatches[{index}]"),
                "missing".into(),
            ));
        };
        let name = parse_name(&format!("headerMatches[{index}].name"), &entry.name)?;
        let field = format!("headerMatches[{index}].value");
        let value = match entry.value.as_str() {
            "" => None,
            value => Some(parse_value(&field, value)?),
        };
        let adds = matches!(entry.mismatch, Mismatch::Add | Mismatch::Replace);
        if value.is_none() && adds {
            let reason = "ADD and REPLACE need a value to write".to_owned();
            return Err(refused(&field, reason));
        }
        Ok((name, value))
    }
}

fn refused(field: &str, reason: String) -> HttpRuleError {
    HttpRuleError {
        field: field.to_owned(),
        reason,
    }
}

fn parse_name(field: &str, name: &str) -> Result<HeaderName, HttpRuleError> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| refused(field, format!("`{name}` is no header name")))
}

fn parse_value(field: &str, value: &str) -> Result<HeaderValue, HttpRuleError> {
    HeaderValue::from_str(value)
        .map_err(|_| refused(field, "the value has characters no header may hold".into()))
}
