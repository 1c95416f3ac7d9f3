//! Two pods of one node, and each kind of rule for a port between them.

use weft_core::filter::Intercept;
use weft_core::model::{
    Direction, Label, LabelSource, Labels, NAMESPACE_LABEL, NamedPorts, NumericIdentity, Protocol,
};
use weft_core::policy::http::{HttpRule, HttpRules};
use weft_core::policy::testing::cases::{Case, PeerOf, Pod, Tuple};
use weft_core::policy::{
    DirectionRules, EndpointSelector, L7Rules, Operator, Origin, Peer, Peers, PolicyKind,
    PortMatch, PortRange, PortRule, PortSpec, Requirement, Rule, TrafficRule,
};

use super::TCP;
use super::sets::INTERCEPTED;

const PORT: u16 = 80;

/// Kinds of rules for one direction; their places are those in [`case`].
const NONE: u32 = 0;
const PLAIN: u32 = 1;
const L7: u32 = 2;
/// As `L7`, without default deny.
const VISIBLE: u32 = 4;
/// Default deny and nothing else.
const CLOSED: u32 = 8;
/// Denied by a rule, and the rest open.
const DENIED: u32 = 16;
/// Rules of the other direction are that many places further.
const OTHER: u32 = 5;

/// Every kind in both directions, and some with filters: sets of policies of [`case`].
pub(super) fn kinds() -> Vec<u32> {
    let kinds = [NONE, PLAIN, L7, PLAIN | L7, VISIBLE, CLOSED, DENIED];
    let both = |ingress: u32| {
        let egress = [NONE, PLAIN, L7, CLOSED];
        egress.map(|egress| ingress | egress << OTHER)
    };
    let filtered = [NONE, PLAIN, L7, CLOSED].map(|ingress| ingress | INTERCEPTED);
    kinds.into_iter().flat_map(both).chain(filtered).collect()
}

/// The client is the first pod, the server the second.
pub(super) fn case() -> Case {
    let ends = |direction| match direction {
        Direction::Ingress => ("server", "client"),
        Direction::Egress => ("client", "server"),
    };
    let mut rules = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        let (subject, peer) = ends(direction);
        let from = Peers::Listed(vec![Peer::Endpoints(is(peer))]);
        let allow = |l7| TrafficRule {
            peers: from.clone(),
            ports: vec![port(l7)],
        };
        let section = |allow: Vec<TrafficRule>, default_deny| DirectionRules {
            default_deny,
            allow,
            deny: vec![],
        };
        let denied = DirectionRules {
            default_deny: false,
            allow: vec![],
            deny: vec![allow(L7Rules::None)],
        };
        let sections = [
            section(vec![allow(L7Rules::None)], true),
            section(vec![allow(get())], true),
            section(vec![allow(get())], false),
            section(vec![], true),
            denied,
        ];
        for section in sections {
            let name = format!("rule{}", rules.len());
            rules.push(rule(&name, is(subject), direction, section));
        }
    }
    let tuple = |port| Tuple {
        direction: Direction::Egress,
        peer: PeerOf::Pod(1),
        protocol: TCP,
        port,
    };
    Case {
        rules,
        pods: vec![pod("client", 300), pod("server", 301)],
        intercepts: Direction::ALL
            .map(|direction| Intercept {
                direction,
                first: PORT,
                last: PORT,
            })
            .to_vec(),
        // Each is asked about with another request.
        tuples: [PORT, PORT, PORT, PORT + 1].map(tuple).to_vec(),
    }
}

fn pod(class: &str, identity: u32) -> Pod {
    let label = |key: &str, value: &str| Label::new(LabelSource::K8s, key, value);
    let labels: Labels = [label("class", class), label(NAMESPACE_LABEL, "default")]
        .into_iter()
        .collect();
    Pod {
        identity: NumericIdentity(identity),
        labels,
        ports: NamedPorts::default(),
    }
}

fn is(class: &str) -> EndpointSelector {
    let class = Requirement::parse("class", Operator::In(vec![class.into()]));
    EndpointSelector::new(class)
}

fn port(l7: L7Rules) -> PortRule {
    PortRule {
        ports: vec![PortSpec {
            port: PortMatch::Range(PortRange {
                first: PORT,
                last: PORT,
            }),
            protocol: Some(Protocol::Tcp),
        }],
        l7,
    }
}

fn get() -> L7Rules {
    let get = HttpRule {
        method: Some("GET".into()),
        ..HttpRule::default()
    };
    L7Rules::Http(HttpRules::new(vec![get], 0))
}

fn rule(
    name: &str,
    subject: EndpointSelector,
    direction: Direction,
    section: DirectionRules,
) -> Rule {
    let (ingress, egress) = match direction {
        Direction::Ingress => (section, DirectionRules::default()),
        Direction::Egress => (DirectionRules::default(), section),
    };
    Rule {
        origin: Origin {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: "default".into(),
            name: name.into(),
            spec: None,
        },
        subject,
        ingress,
        egress,
    }
}
