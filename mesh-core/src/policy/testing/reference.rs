//! What policies mean, spelled out plainly.
//!
//! Nothing here is shared with the compiler but the words of the rules: no
//! identities, prefixes, folding or caches, one look at every rule for every
//! question. It is slow and meant to be obviously right.

use std::net::IpAddr;

use regex_automata::meta::Regex;

use crate::filter::Intercept;
use crate::model::{Direction, LabelSource, Labels, NamedPorts, NumericIdentity, Protocol};
use crate::policy::http::{HttpRule, Request};
use crate::policy::{
    CidrPeer, EndpointSelector, Entity, L7Rules, Operator, Peer, Peers, PortMatch, PortRule,
    PortSpec, Requirement, Rule, RuleRef, SourceMatch, TrafficRule,
};

/// The other end of a connection, as itself.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// A pod.
    Pod {
        /// Its labels.
        labels: &'a Labels,
        /// Its container ports.
        ports: &'a NamedPorts,
    },
    /// A node, or something else with a reserved identity.
    Reserved(NumericIdentity),
    /// An address that is neither a pod's nor a node's.
    World(IpAddr),
}

/// A connection that somebody asks about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Direction, as the subject sees it.
    pub direction: Direction,
    /// Labels of the subject.
    pub subject: &'a Labels,
    /// Container ports of the subject.
    pub subject_ports: &'a NamedPorts,
    /// The other end.
    pub peer: Who<'a>,
    /// Number of the IP protocol.
    pub protocol: u8,
    /// Destination port.
    pub port: u16,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Dropped.
    Deny,
    /// Forwarded.
    Allow,
    /// Handed to the proxy.
    Redirect,
}

/// The outcome, and every rule that could be named for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What happens.
    pub outcome: Outcome,
    /// Rules that say so; none where no policy has a say.
    pub because: Vec<RuleRef>,
}

/// What the datapath has to do with a connection.
pub fn decide(rules: &[Rule], question: &Question<'_>) -> Answer {
    let denies = matching(rules, question, Section::Deny);
    if !denies.is_empty() {
        return Answer {
            outcome: Outcome::Deny,
            because: denies.into_iter().map(|found| found.reference).collect(),
        };
    }
    // A node always reaches its pods, directly.
    if is_host_to_pod(question) {
        return Answer {
            outcome: Outcome::Allow,
            because: vec![],
        };
    }
    let allows = matching(rules, question, Section::Allow);
    let redirects: Vec<_> = allows.iter().filter(|found| found.l7.is_some()).collect();
    if !redirects.is_empty() {
        return Answer {
            outcome: Outcome::Redirect,
            because: redirects
                .iter()
                .map(|found| found.reference.clone())
                .collect(),
        };
    }
    if !allows.is_empty() {
        return Answer {
            outcome: Outcome::Allow,
            because: allows.into_iter().map(|found| found.reference).collect(),
        };
    }
    let outcome = match default_deny(rules, question) {
        true => Outcome::Deny,
        false => Outcome::Allow,
    };
    Answer {
        outcome,
        because: vec![],
    }
}

/// The same where the proxy gets the traffic of some ports of the subject for its
/// filters: what would pass without it passes through it, and nothing else.
pub fn decide_intercepted(
    rules: &[Rule],
    intercepts: &[Intercept],
    question: &Question<'_>,
) -> Answer {
    let answer = decide(rules, question);
    let is_tcp = question.protocol == Protocol::Tcp.number();
    let mut intercepts = intercepts.iter();
    let meant = intercepts.any(|one| one.is_on(question.direction, question.port));
    match answer.outcome {
        Outcome::Allow if is_tcp && meant && !is_host_to_pod(question) => Answer {
            outcome: Outcome::Redirect,
            ..answer
        },
        _ => answer,
    }
}

/// Whether the proxy has to pass a request of a connection that reached it.
pub fn decide_http(rules: &[Rule], question: &Question<'_>, request: &Request<'_>) -> bool {
    if !matching(rules, question, Section::Deny).is_empty() {
        return false;
    }
    if is_host_to_pod(question) || !default_deny(rules, question) {
        return true;
    }
    let allows = matching(rules, question, Section::Allow);
    allows.iter().any(|found| match found.l7 {
        None => true,
        Some(_) if !found.enforces => true,
        Some(http) => http.is_empty() || http.iter().any(|rule| passes(rule, request)),
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Section {
    Allow,
    Deny,
}

struct Found<'r> {
    reference: RuleRef,
    l7: Option<&'r [HttpRule]>,
    enforces: bool,
}

fn matching<'r>(rules: &'r [Rule], question: &Question<'_>, section: Section) -> Vec<Found<'r>> {
    let mut found = Vec::new();
    for rule in rules
        .iter()
        .filter(|rule| selects(&rule.subject, question.subject))
    {
        let said = rule.direction(question.direction);
        let (list, suffix) = match section {
            Section::Allow => (&said.allow, ""),
            Section::Deny => (&said.deny, "Deny"),
        };
        for (index, traffic) in list.iter().enumerate() {
            let place = format!("{}{suffix}[{index}]", question.direction);
            for (place, l7) in traffic_matches(traffic, question, &place) {
                found.push(Found {
                    reference: rule.origin.rule_ref(&place),
                    l7,
                    enforces: said.default_deny,
                });
            }
        }
    }
    found
}

/// The places of a traffic rule that match, with their HTTP rules.
fn traffic_matches<'r>(
    traffic: &'r TrafficRule,
    question: &Question<'_>,
    place: &str,
) -> Vec<(String, Option<&'r [HttpRule]>)> {
    let no_ports = traffic.ports.is_empty();
    let peer_matches = match &traffic.peers {
        // `- {}` allows nothing.
        Peers::Unnamed => !no_ports,
        Peers::Listed(peers) => peers.iter().any(|peer| peer_is(peer, &question.peer)),
    };
    if !peer_matches {
        return vec![];
    }
    if no_ports {
        return vec![(place.to_owned(), None)];
    }
    let ports = traffic.ports.iter().enumerate();
    ports
        .filter(|(_, rule)| port_matches(rule, question))
        .map(|(index, rule)| {
            let http = match &rule.l7 {
                L7Rules::None => None,
                L7Rules::Http(http) => Some(&**http),
            };
            (format!("{place}.toPorts[{index}]"), http)
        })
        .collect()
}

fn default_deny(rules: &[Rule], question: &Question<'_>) -> bool {
    rules
        .iter()
        .filter(|rule| selects(&rule.subject, question.subject))
        .any(|rule| rule.direction(question.direction).default_deny)
}

fn is_host_to_pod(question: &Question<'_>) -> bool {
    let from_host = matches!(question.peer, Who::Reserved(NumericIdentity::HOST));
    question.direction == Direction::Ingress && from_host
}

fn port_matches(rule: &PortRule, question: &Question<'_>) -> bool {
    let mut protocols = Protocol::ALL.into_iter();
    let Some(protocol) = protocols.find(|one| one.number() == question.protocol) else {
        return false;
    };
    rule.ports.iter().any(|spec: &PortSpec| {
        let right_protocol = match spec.protocol {
            None => true,
            Some(only) => only == protocol,
        };
        right_protocol
            && match &spec.port {
                PortMatch::All => true,
                PortMatch::Range(range) => {
                    question.port >= range.first && question.port <= range.last
                }
                PortMatch::Named(name) => receiver_ports(question).is_some_and(|ports| {
                    ports
                        .get(name)
                        .any(|port| port == (protocol, question.port))
                }),
            }
    })
}

/// Container ports of whoever receives the traffic.
fn receiver_ports<'a>(question: &Question<'a>) -> Option<&'a NamedPorts> {
    match (question.direction, question.peer) {
        (Direction::Ingress, _) => Some(question.subject_ports),
        (Direction::Egress, Who::Pod { ports, .. }) => Some(ports),
        (Direction::Egress, _) => None,
    }
}

fn peer_is(peer: &Peer, who: &Who<'_>) -> bool {
    match (peer, who) {
        (Peer::Endpoints(selector), Who::Pod { labels, .. }) => selects(selector, labels),
        (Peer::Endpoints(selector), Who::Reserved(identity)) => {
            let name = identity.reserved_name().unwrap_or_default();
            let label = format!("reserved:{name}");
            Labels::parse_all([label.as_str()]).is_ok_and(|labels| selects(selector, &labels))
        }
        (Peer::Endpoints(selector), Who::World(_)) => {
            Labels::parse_all(["reserved:world"]).is_ok_and(|labels| selects(selector, &labels))
        }
        (Peer::Cidr(cidr), Who::World(address)) => cidr_holds(cidr, *address),
        (Peer::Cidr(_), _) => false,
        (Peer::Entity(entity), who) => entity_is(*entity, who),
    }
}

fn cidr_holds(peer: &CidrPeer, address: IpAddr) -> bool {
    peer.cidr.contains(&address) && !peer.except.iter().any(|except| except.contains(&address))
}

fn entity_is(entity: Entity, who: &Who<'_>) -> bool {
    match (entity, who) {
        (Entity::All, _) => true,
        (Entity::World, Who::World(_)) => true,
        (Entity::WorldIpv4, Who::World(address)) => address.is_ipv4(),
        (Entity::WorldIpv6, Who::World(address)) => address.is_ipv6(),
        (Entity::Cluster, Who::Pod { .. }) => true,
        (Entity::Cluster, Who::Reserved(identity)) => {
            (1..=8).contains(&identity.0) && identity.0 != 2
        }
        (Entity::Host, Who::Reserved(NumericIdentity::HOST)) => true,
        (Entity::RemoteNode, Who::Reserved(NumericIdentity::REMOTE_NODE)) => true,
        (Entity::KubeApiserver, Who::Reserved(NumericIdentity::KUBE_APISERVER)) => true,
        (Entity::Ingress, Who::Reserved(NumericIdentity::INGRESS)) => true,
        (Entity::Init, Who::Reserved(NumericIdentity::INIT)) => true,
        (Entity::Health, Who::Reserved(NumericIdentity::HEALTH)) => true,
        (Entity::Unmanaged, Who::Reserved(NumericIdentity::UNMANAGED)) => true,
        _ => false,
    }
}

fn selects(selector: &EndpointSelector, labels: &Labels) -> bool {
    selector.requirements().iter().all(|one| holds(one, labels))
}

fn holds(requirement: &Requirement, labels: &Labels) -> bool {
    let mut values = Vec::new();
    for source in [LabelSource::K8s, LabelSource::Reserved, LabelSource::Cidr] {
        let counts =
            requirement.source == SourceMatch::Any || requirement.source == SourceMatch::Is(source);
        if let Some(label) = labels.get(source, &requirement.key)
            && counts
        {
            values.push(label.value());
        }
    }
    let one_of = |list: &[Box<str>]| list.iter().any(|value| values.contains(&&**value));
    match &requirement.operator {
        Operator::Exists => !values.is_empty(),
        Operator::DoesNotExist => values.is_empty(),
        Operator::In(list) => one_of(list),
        Operator::NotIn(list) => !one_of(list),
    }
}

/// Method, path and host only: the patterns of the random cases mean the same
/// in every dialect, and headers are tested by hand.
fn passes(rule: &HttpRule, request: &Request<'_>) -> bool {
    let full = |pattern: &Option<String>, text: &str| match pattern {
        None => true,
        Some(pattern) => {
            Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(text))
        }
    };
    full(&rule.method, request.method)
        && full(&rule.path, request.path)
        && full(&rule.host, request.authority)
}
