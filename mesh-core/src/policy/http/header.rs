//! Header conditions of rules.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{HttpRule, HttpRuleError, Mismatch};

/// A condition on a header.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    name: HeaderName,
    /// `None`: presence.
    value: Option<HeaderValue>,
    mismatch: Mismatch,
}

impl Condition {
    /// The conditions of a rule.
    pub(super) fn all_of(rule: &HttpRule) -> Result<Vec<Self>, HttpRuleError> {
        let plain = (0..rule.headers.len()).map(|index| {
            let (name, value) = rule.header(index)?;
            let mismatch = Mismatch::Fail;
            Ok(Self {
                name,
                value,
                mismatch,
            })
        });
        let with_action = rule
            .header_matches
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let (name, value) = rule.header_match(index)?;
                let mismatch = entry.mismatch;
                Ok(Self {
                    name,
                    value,
                    mismatch,
                })
            });
        plain.chain(with_action).collect()
    }

    /// Whether the rule may match these headers.
    pub(super) fn passes(&self, headers: &HeaderMap) -> bool {
        self.mismatch != Mismatch::Fail || self.holds(headers)
    }

    /// Whether the header has exactly the value. Several lines of one name are
    /// one value joined by commas: `admin` is not found in `user,admin`, nor
    /// in a line `user` followed by a line `admin`.
    fn holds(&self, headers: &HeaderMap) -> bool {
        let lines = headers.get_all(&self.name);
        let Some(value) = &self.value else {
            return lines.iter().next().is_some();
        };
        let mut rest = value.as_bytes();
        let mut any = false;
        for line in lines {
            if any {
                match rest.strip_prefix(b",") {
                    Some(after) => rest = after,
                    None => return false,
                }
            }
            match rest.strip_prefix(line.as_bytes()) {
                Some(after) => rest = after,
                None => return false,
            }
            any = true;
        }
        any && rest.is_empty()
    }

    /// Writes what the rule asks for when its header does not match.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        if self.holds(headers) {
            return;
        }
        match (self.mismatch, &self.value) {
            (Mismatch::Add, Some(value)) => {
                headers.append(self.name.clone(), value.clone());
            }
            (Mismatch::Replace, Some(value)) => {
                headers.insert(self.name.clone(), value.clone());
            }
            (Mismatch::Delete, _) => {
                headers.remove(&self.name);
            }
            _ => {}
        }
    }

    /// The header, when it is to be logged as missing from this request.
    pub(super) fn missing(
        &self,
        headers: &HeaderMap,
    ) -> Option<(&HeaderName, Option<&HeaderValue>)> {
        let logged = self.mismatch == Mismatch::Log && !self.holds(headers);
        logged.then_some((&self.name, self.value.as_ref()))
    }
}
