//! The compiled HTTP rules of one endpoint, direction and port.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::bits::Bits;
use super::field::FieldMatcher;
use super::header::Condition;
use super::{HttpRule, HttpRuleError};
use crate::model::NumericIdentity;
use crate::policy::{PeerRule, PeerSet, RuleRef};

/// What of a request is judged.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method, as it was sent.
    pub method: &'a str,
    /// Path and query, normalised, exactly as it will be forwarded.
    pub path: &'a str,
    /// Authority (`host` header), which may carry a port.
    pub authority: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
}

/// All rules of a port, compiled.
#[derive(Debug)]
pub struct Matcher {
    /// What it was compiled from; equal sources share one matcher.
    source: Box<[PeerRule]>,
    peers: Vec<Peer>,
    rules: Vec<CompiledRule>,
    /// A rule has something to say of headers.
    reads_headers: bool,
    method: FieldMatcher,
    path: FieldMatcher,
    host: FieldMatcher,
}

/// A [`PeerRule`] less its requests.
#[derive(Debug)]
struct Peer {
    set: PeerSet,
    deny: Option<Option<Arc<RuleRef>>>,
    /// Its requests are `rules[first..end]`.
    first: usize,
    end: usize,
}

#[derive(Debug)]
struct CompiledRule {
    conditions: Vec<Condition>,
    reference: Option<Arc<RuleRef>>,
}

impl Matcher {
    /// Compiles the rules of a port.
    ///
    /// # Errors
    /// The first HTTP rule that does not compile. Such rules are refused when
    /// an object is admitted ([`HttpRule::validate`]), so none is expected.
    pub fn compile(source: &[PeerRule]) -> Result<Self, HttpRuleError> {
        let mut peers = Vec::new();
        let mut texts: Vec<&HttpRule> = Vec::new();
        let mut rules = Vec::new();
        let open = HttpRule::default();
        for rule in source {
            let first = rules.len();
            let place = rule.rule.clone().map(Arc::new);
            if rule.http.is_empty() && !rule.deny {
                texts.push(&open);
                rules.push(CompiledRule {
                    conditions: Vec::new(),
                    reference: place.clone(),
                });
            }
            for (index, http) in rule.http.iter().enumerate() {
                texts.push(http);
                rules.push(CompiledRule {
                    conditions: Condition::all_of(http)?,
                    reference: place.as_deref().map(|place| within(place, index).into()),
                });
            }
            peers.push(Peer {
                set: sorted(&rule.peers),
                deny: rule.deny.then_some(place),
                first,
                end: rules.len(),
            });
        }
        let field = |name: &str, get: fn(&HttpRule) -> Option<&str>| {
            let fields = texts.iter().map(|rule| get(rule));
            FieldMatcher::compile(fields).map_err(|reason| HttpRuleError {
                field: name.to_owned(),
                reason,
            })
        };
        Ok(Self {
            source: source.into(),
            peers,
            method: field("method", |rule| rule.method.as_deref())?,
            path: field("path", |rule| rule.path.as_deref())?,
            host: field("host", |rule| rule.host.as_deref())?,
            reads_headers: rules.iter().any(|rule| !rule.conditions.is_empty()),
            rules,
        })
    }

    /// What it was compiled from.
    pub fn source(&self) -> &[PeerRule] {
        &self.source
    }

    /// The part of the policy that holds for one other end. Once per
    /// connection.
    pub fn peer(self: &Arc<Self>, identity: NumericIdentity) -> PeerPolicy {
        let mut rules = Bits::empty(self.rules.len());
        let mut denied = None;
        for peer in self.peers.iter().filter(|peer| peer.set.contains(identity)) {
            match &peer.deny {
                Some(rule) => {
                    denied.get_or_insert_with(|| rule.clone());
                }
                None => (peer.first..peer.end).for_each(|rule| rules.insert(rule)),
            }
        }
        PeerPolicy {
            matcher: Arc::clone(self),
            rules,
            denied,
        }
    }
}

/// The set in the order that looking up needs: rules that came over a wire may
/// have lost it, and a peer that is not found would be denied.
fn sorted(peers: &PeerSet) -> PeerSet {
    match peers {
        PeerSet::Any => PeerSet::Any,
        PeerSet::These(these) => {
            let mut these = these.to_vec();
            these.sort_unstable();
            PeerSet::These(these.into())
        }
    }
}

/// The reference to an HTTP rule inside a port rule.
fn within(place: &RuleRef, index: usize) -> RuleRef {
    RuleRef {
        rule: format!("{}.rules.http[{index}]", place.rule).into(),
        ..place.clone()
    }
}

/// The policy of a port towards one other end; kept with a connection.
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    matcher: Arc<Matcher>,
    /// The rules that hold for the other end.
    rules: Bits,
    /// The deny rule that holds for the other end; its place if it has one.
    denied: Option<Option<Arc<RuleRef>>>,
}

impl PeerPolicy {
    /// Whether headers, but for the host, may decide about a request or are
    /// changed by a rule.
    pub fn reads_headers(&self) -> bool {
        self.matcher.reads_headers
    }

    /// Judges a request. Nothing is allocated for up to 512 HTTP rules.
    pub fn judge(&self, request: &Request<'_>) -> Verdict<'_> {
        if let Some(rule) = &self.denied {
            return Verdict::deny(rule.as_ref());
        }
        let mut left = self.rules.clone();
        let fields = [
            (&self.matcher.method, request.method),
            (&self.matcher.path, request.path),
            (&self.matcher.host, request.authority),
        ];
        for (field, value) in fields {
            if !field.is_open() {
                left.intersect(&field.matching(value));
                if left.is_empty() {
                    return Verdict::deny(None);
                }
            }
        }
        let passing = left
            .iter()
            .filter_map(|index| self.matcher.rules.get(index))
            .find(|rule| {
                rule.conditions
                    .iter()
                    .all(|one| one.passes(request.headers))
            });
        match passing {
            Some(rule) => Verdict {
                allow: true,
                rule: rule.reference.as_ref(),
                conditions: &rule.conditions,
            },
            None => Verdict::deny(None),
        }
    }
}

/// What a policy says about a request, in one direction.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Verdict<'p> {
    /// Whether the request may pass.
    pub allow: bool,
    /// The rule that allowed or denied; `None` when no rule matched, or when
    /// no policy had a say. Shared, since a record of each request keeps it.
    pub rule: Option<&'p Arc<RuleRef>>,
    conditions: &'p [Condition],
}

impl<'p> Verdict<'p> {
    fn deny(rule: Option<&'p Arc<RuleRef>>) -> Self {
        Self {
            allow: false,
            rule,
            conditions: &[],
        }
    }

    /// Makes the changes that the rule asks for (`headerMatches` with ADD,
    /// DELETE or REPLACE). Only once every direction has allowed the request.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for condition in self.conditions {
            condition.apply(headers);
        }
    }

    /// The headers that the rule wants logged as missing (`mismatch: LOG`),
    /// with the value that was expected.
    pub fn missing<'h>(
        &'h self,
        headers: &'h HeaderMap,
    ) -> impl Iterator<Item = (&'p HeaderName, Option<&'p HeaderValue>)> + 'h {
        let conditions = self.conditions;
        conditions.iter().filter_map(|one| one.missing(headers))
    }
}

#[cfg(test)]
mod tests;
