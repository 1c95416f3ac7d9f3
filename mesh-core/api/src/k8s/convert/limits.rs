//! How large an object may be.
//!
//! What a policy costs is a product: peers by ports by pods, HTTP rules by the
//! ranges on which they hold. So what one object may have of each is bounded,
//! far above what people write and below what takes a node's memory or time.
//! An object above a limit is refused as a whole.

use weft_core::policy::{Bounded, Bounds, PortMatch, PortRange, Rule, http_load, port_parts};
use weft_core::snapshot::MOST_HEADERS;

use super::super::error::{Errors, Path};
use super::super::spec::{CidrRule, L7Rules, LabelSelector, PolicySpec, PortProtocol};
use super::ports::PortsOf;
use super::{PeerLists, Traffic};

/// Most elements of `specs`.
pub(in crate::k8s) const MAX_SPECS: usize = 100;
/// Bytes of tables that the regular expressions of an object may need.
const MAX_TABLES: usize = 16 << 20;
/// What an expression counts for that is refused: finding out took time.
const REFUSED: usize = 1 << 20;
/// Most conditions on headers of one HTTP rule: the proxy takes no request with
/// more headers, whatever it is set to.
const MAX_CONDITIONS: usize = MOST_HEADERS;

/// Something that an object may have only so many of.
struct Limit {
    /// What it is, in the plural.
    what: &'static str,
    /// What to do when there are too many.
    advice: &'static str,
    most: usize,
    seen: usize,
    /// Where there were too many first.
    at: Option<Path>,
}

impl Limit {
    fn new(most: usize, what: &'static str, advice: &'static str) -> Self {
        Self {
            what,
            advice,
            most,
            seen: 0,
            at: None,
        }
    }

    fn add(&mut self, more: usize, path: &Path, field: &str) {
        self.seen = self.seen.saturating_add(more);
        if self.seen > self.most && self.at.is_none() {
            self.at = Some(path.field(field));
        }
    }

    fn report(&self, errors: &mut Errors) {
        let Self {
            what,
            advice,
            most,
            seen,
            at,
        } = self;
        if let Some(path) = at {
            let message = format!("the object has {seen} {what}, more than {most}; {advice}");
            errors.add(path, message);
        }
    }
}

/// What an object has of everything that is limited.
pub(in crate::k8s) struct Counts {
    rules: Limit,
    peers: Limit,
    requirements: Limit,
    cidrs: Limit,
    ports: Limit,
    parts: Limit,
    http: Limit,
    conditions: Limit,
}

impl Counts {
    pub(in crate::k8s) fn new() -> Self {
        const SEVERAL: &str = "make several objects of it";
        Self {
            rules: Limit::new(1000, "rules", SEVERAL),
            peers: Limit::new(1000, "selectors and entities as peers", SEVERAL),
            requirements: Limit::new(
                10_000,
                "label requirements and values",
                "select by labels that the pods have in common",
            ),
            cidrs: Limit::new(
                2000,
                "prefixes with their exceptions",
                "name larger prefixes, or make several objects of it",
            ),
            ports: Limit::new(2000, "ports", "use ranges, or make several objects of it"),
            parts: Limit::new(
                8192,
                "map entries for each peer, up to 30 for a range of ports and protocol",
                "name a protocol, or use ranges that begin and end at powers of two",
            ),
            http: Limit::new(
                1000,
                "HTTP rules",
                "use expressions that match several requests, or make several objects of it",
            ),
            conditions: Limit::new(5000, "conditions on headers", SEVERAL),
        }
    }

    /// Counts what a spec has.
    pub(in crate::k8s) fn add(&mut self, spec: &PolicySpec, path: &Path) {
        if let Some(selector) = &spec.endpoint_selector {
            self.selector(selector, path, "endpointSelector");
        }
        self.section(spec.ingress.as_deref(), path, "ingress");
        self.section(spec.ingress_deny.as_deref(), path, "ingressDeny");
        self.section(spec.egress.as_deref(), path, "egress");
        self.section(spec.egress_deny.as_deref(), path, "egressDeny");
    }

    /// Adds to `errors` what is too much; whether there was anything.
    pub(in crate::k8s) fn report(&self, errors: &mut Errors) -> bool {
        let all = [
            &self.rules,
            &self.peers,
            &self.requirements,
            &self.cidrs,
            &self.ports,
            &self.parts,
            &self.http,
            &self.conditions,
        ];
        all.iter().for_each(|limit| limit.report(errors));
        all.iter().any(|limit| limit.at.is_some())
    }

    fn section<T: Traffic>(&mut self, rules: Option<&[T]>, path: &Path, name: &str) {
        let rules = rules.unwrap_or_default();
        self.rules.add(rules.len(), path, name);
        for (index, rule) in rules.iter().enumerate() {
            let path = path.field(name).index(index);
            self.peer_lists(&rule.peers(), &path);
            let to_ports = path.field("toPorts");
            match rule.ports() {
                PortsOf::Allow(list) => {
                    for (index, ports) in list.iter().enumerate() {
                        let path = to_ports.index(index);
                        self.port_list(ports.ports.as_deref(), &path);
                        if let Some(rules) = &ports.rules {
                            self.requests(rules, &path.field("rules"));
                        }
                    }
                }
                PortsOf::Deny(list) => {
                    for (index, ports) in list.iter().enumerate() {
                        self.port_list(ports.ports.as_deref(), &to_ports.index(index));
                    }
                }
            }
        }
    }

    fn peer_lists(&mut self, lists: &PeerLists<'_>, path: &Path) {
        let name = |kind: &str| format!("{}{kind}", lists.prefix);
        let endpoints = lists.endpoints.unwrap_or_default();
        self.peers.add(endpoints.len(), path, &name("Endpoints"));
        for selector in endpoints {
            self.selector(selector, path, &name("Endpoints"));
        }
        let entities = lists.entities.unwrap_or_default();
        self.peers.add(entities.len(), path, &name("Entities"));
        let cidrs = lists.cidrs.unwrap_or_default();
        self.cidrs.add(cidrs.len(), path, &name("CIDR"));
        let prefixes = |set: &CidrRule| 1 + set.except.as_ref().map_or(0, Vec::len);
        let sets = lists.cidr_sets.unwrap_or_default().iter();
        self.cidrs
            .add(sets.map(prefixes).sum(), path, &name("CIDRSet"));
    }

    fn selector(&mut self, selector: &LabelSelector, path: &Path, field: &str) {
        let labels = selector.match_labels.as_ref().map_or(0, |map| map.len());
        let expressions = selector.match_expressions.as_deref().unwrap_or_default();
        let values: usize = expressions
            .iter()
            .map(|expression| 1 + expression.values.as_ref().map_or(0, Vec::len))
            .sum();
        self.requirements.add(labels + values, path, field);
    }

    fn port_list(&mut self, ports: Option<&[PortProtocol]>, path: &Path) {
        let ports = ports.unwrap_or_default();
        self.ports.add(ports.len(), path, "ports");
        self.parts
            .add(ports.iter().map(parts_of).sum(), path, "ports");
    }

    fn requests(&mut self, rules: &L7Rules, path: &Path) {
        let rules = rules.http.as_deref().unwrap_or_default();
        self.http.add(rules.len(), path, "http");
        let conditions = rules.iter().map(|rule| {
            let headers = rule.headers.as_ref().map_or(0, Vec::len);
            headers + rule.header_matches.as_ref().map_or(0, Vec::len)
        });
        self.conditions.add(conditions.sum(), path, "http");
    }
}

/// Entries of the policy map that a port takes for each peer. What is wrong with
/// it is said elsewhere.
fn parts_of(port: &PortProtocol) -> usize {
    let protocols = match port.protocol.as_deref().unwrap_or_default() {
        "" => 3,
        name if name.eq_ignore_ascii_case("ANY") => 3,
        _ => 1,
    };
    let first = port.port.as_deref().and_then(|text| text.parse().ok());
    let last = port.end_port.and_then(|end| u16::try_from(end).ok());
    protocols
        * match (first, last) {
            (Some(first), Some(last)) if last > first => {
                port_parts(&PortMatch::Range(PortRange { first, last }))
            }
            _ => 1,
        }
}

/// What the expressions of an object need, as they are looked at.
#[derive(Default)]
pub(in crate::k8s) struct Tables {
    used: usize,
}

impl Tables {
    /// Whether there were too many; then no more is looked at.
    pub(super) fn are_full(&self) -> bool {
        self.used > MAX_TABLES
    }

    /// An expression was refused.
    pub(super) fn refused(&mut self) {
        self.used += REFUSED;
    }

    /// Adds what a rule needs.
    pub(super) fn add(&mut self, cost: usize, path: &Path, errors: &mut Errors) {
        self.used += cost;
        if self.are_full() {
            let message = format!(
                "the regular expressions up to here need tables of {} bytes, more than \
                 {MAX_TABLES}; use simpler ones, or make several objects of it",
                self.used
            );
            errors.add(path, message);
        }
    }
}

/// Refuses a rule with more conditions than a request has headers.
pub(super) fn conditions(count: usize, path: &Path, errors: &mut Errors) -> Option<()> {
    if count <= MAX_CONDITIONS {
        return Some(());
    }
    let message = format!(
        "has {count} conditions on headers, more than {MAX_CONDITIONS}; no request with so many \
         headers gets through the proxy, so name fewer"
    );
    errors.add(path, message);
    None
}

/// Refuses an object whose HTTP rules alone are more than a pod may have.
pub(in crate::k8s) fn http(rules: &[Rule], path: &Path, errors: &mut Errors) {
    let Bounds {
        http_bytes,
        http_tables,
        ..
    } = Bounds::default();
    let message = match http_load(rules) {
        Ok(load) if load.bytes > http_bytes => bytes("texts", load.bytes, http_bytes),
        Ok(load) if load.tables > http_tables => bytes("expressions", load.tables, http_tables),
        Ok(_) => return,
        Err(excess) => {
            let what = match excess.of {
                Bounded::Rules => "rules of one port and protocol",
                _ => "rules on ports with HTTP rules, each on every range where it holds",
            };
            format!("has more than {} {what}; {FEWER}", excess.limit)
        }
    };
    errors.add(path, message);
}

/// What to do when HTTP rules are too many.
const FEWER: &str = "let fewer ranges overlap, or make several objects of it";

fn bytes(what: &str, found: usize, most: usize) -> String {
    format!(
        "the {what} of its HTTP rules come to {found} bytes on the ranges of ports where they \
         hold, more than {most}; {FEWER}"
    )
}

#[cfg(test)]
mod tests;
