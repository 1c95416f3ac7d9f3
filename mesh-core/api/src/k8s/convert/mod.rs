//! What accepted text means: specs to rules.
//!
//! Everything here was checked against the schema; what is left are the
//! checks that need more than types.

mod limits;
mod peers;
mod ports;
mod selector;

use weft_core::policy::{DirectionRules, Origin, PolicyKind, Rule, TrafficRule};

pub(super) use self::limits::{Counts, MAX_SPECS, Tables, http};
use self::peers::PeerLists;
use self::ports::PortsOf;
use super::error::{Errors, Path};
use super::spec::{
    Authentication, EgressDenyRule, EgressRule, IngressDenyRule, IngressRule, LabelSelector,
    PolicySpec,
};

/// The rule of one spec, or `None` after adding to `errors` what is wrong.
pub(super) fn rule(
    spec: &PolicySpec,
    origin: Origin,
    path: &Path,
    tables: &mut Tables,
    errors: &mut Errors,
) -> Option<Rule> {
    let mut own = Errors::default();
    let namespace = match origin.kind {
        PolicyKind::CiliumNetworkPolicy => Some(&*origin.namespace),
        PolicyKind::CiliumClusterwideNetworkPolicy => None,
    };
    let mut converter = Converter {
        namespace,
        tables,
        errors: &mut own,
    };
    let subject = converter.subject(spec, path);
    converter.sections(spec, path);
    let ingress = converter.ingress(spec, path);
    let egress = converter.egress(spec, path);
    if own.is_empty() {
        return Some(Rule {
            subject: subject?,
            origin,
            ingress,
            egress,
        });
    }
    errors.append(own);
    None
}

/// A selector as it is written, before anything implicit is added.
pub(super) fn selector(
    selector: &LabelSelector,
    path: &Path,
    errors: &mut Errors,
) -> Option<weft_core::policy::EndpointSelector> {
    let mut converter = Converter {
        namespace: None,
        tables: &mut Tables::default(),
        errors,
    };
    converter.selector(selector, path)
}

/// Converts one spec, collecting errors.
struct Converter<'a> {
    /// The policy's namespace; `None` for clusterwide policies.
    namespace: Option<&'a str>,
    /// What the object's expressions need so far.
    tables: &'a mut Tables,
    errors: &'a mut Errors,
}

impl Converter<'_> {
    fn subject(
        &mut self,
        spec: &PolicySpec,
        path: &Path,
    ) -> Option<weft_core::policy::EndpointSelector> {
        let Some(selector) = &spec.endpoint_selector else {
            let message = "is required; {} selects every pod";
            self.errors.add(&path.field("endpointSelector"), message);
            return None;
        };
        let selector = self.selector(selector, &path.field("endpointSelector"))?;
        Some(selector.for_subject(self.namespace))
    }

    fn sections(&mut self, spec: &PolicySpec, path: &Path) {
        let none = spec.ingress.is_none()
            && spec.ingress_deny.is_none()
            && spec.egress.is_none()
            && spec.egress_deny.is_none();
        if none {
            let message = "needs at least one of ingress, ingressDeny, egress and egressDeny";
            self.errors.add(path, message);
        }
    }

    fn ingress(&mut self, spec: &PolicySpec, path: &Path) -> DirectionRules {
        let explicit = spec
            .enable_default_deny
            .as_ref()
            .and_then(|deny| deny.ingress);
        let present = spec.ingress.is_some() || spec.ingress_deny.is_some();
        DirectionRules {
            default_deny: explicit.unwrap_or(present),
            allow: self.list(spec.ingress.as_deref(), &path.field("ingress")),
            deny: self.list(spec.ingress_deny.as_deref(), &path.field("ingressDeny")),
        }
    }

    fn egress(&mut self, spec: &PolicySpec, path: &Path) -> DirectionRules {
        let explicit = spec
            .enable_default_deny
            .as_ref()
            .and_then(|deny| deny.egress);
        let present = spec.egress.is_some() || spec.egress_deny.is_some();
        DirectionRules {
            default_deny: explicit.unwrap_or(present),
            allow: self.list(spec.egress.as_deref(), &path.field("egress")),
            deny: self.list(spec.egress_deny.as_deref(), &path.field("egressDeny")),
        }
    }

    fn list<T: Traffic>(&mut self, rules: Option<&[T]>, path: &Path) -> Vec<TrafficRule> {
        let rules = rules.unwrap_or_default().iter().enumerate();
        rules
            .filter_map(|(index, rule)| {
                let path = path.index(index);
                self.authentication(rule.authentication(), &path);
                let peers = self.peers(&rule.peers(), &path);
                let ports = self.ports(&rule.ports(), &path.field("toPorts"));
                Some(TrafficRule {
                    peers: peers?,
                    ports: ports?,
                })
            })
            .collect()
    }

    fn authentication(&mut self, authentication: Option<&Authentication>, path: &Path) {
        let Some(mode) = authentication.map(|authentication| authentication.mode.as_str()) else {
            return;
        };
        if mode != "disabled" {
            let message =
                format!("`{mode}` is not supported yet: there is no mutual TLS to require");
            let path = path.field("authentication").field("mode");
            self.errors.add(&path, message);
        }
    }
}

/// What the four kinds of rules have in common.
trait Traffic {
    fn peers(&self) -> PeerLists<'_>;
    fn ports(&self) -> PortsOf<'_>;
    fn authentication(&self) -> Option<&Authentication> {
        None
    }
}

impl Traffic for IngressRule {
    fn peers(&self) -> PeerLists<'_> {
        PeerLists {
            prefix: "from",
            endpoints: self.from_endpoints.as_deref(),
            cidrs: self.from_cidr.as_deref(),
            cidr_sets: self.from_cidr_set.as_deref(),
            entities: self.from_entities.as_deref(),
        }
    }

    fn ports(&self) -> PortsOf<'_> {
        PortsOf::Allow(self.to_ports.as_deref().unwrap_or_default())
    }

    fn authentication(&self) -> Option<&Authentication> {
        self.authentication.as_ref()
    }
}

impl Traffic for IngressDenyRule {
    fn peers(&self) -> PeerLists<'_> {
        PeerLists {
            prefix: "from",
            endpoints: self.from_endpoints.as_deref(),
            cidrs: self.from_cidr.as_deref(),
            cidr_sets: self.from_cidr_set.as_deref(),
            entities: self.from_entities.as_deref(),
        }
    }

    fn ports(&self) -> PortsOf<'_> {
        PortsOf::Deny(self.to_ports.as_deref().unwrap_or_default())
    }
}

impl Traffic for EgressRule {
    fn peers(&self) -> PeerLists<'_> {
        PeerLists {
            prefix: "to",
            endpoints: self.to_endpoints.as_deref(),
            cidrs: self.to_cidr.as_deref(),
            cidr_sets: self.to_cidr_set.as_deref(),
            entities: self.to_entities.as_deref(),
        }
    }

    fn ports(&self) -> PortsOf<'_> {
        PortsOf::Allow(self.to_ports.as_deref().unwrap_or_default())
    }

    fn authentication(&self) -> Option<&Authentication> {
        self.authentication.as_ref()
    }
}

impl Traffic for EgressDenyRule {
    fn peers(&self) -> PeerLists<'_> {
        PeerLists {
            prefix: "to",
            endpoints: self.to_endpoints.as_deref(),
            cidrs: self.to_cidr.as_deref(),
            cidr_sets: self.to_cidr_set.as_deref(),
            entities: self.to_entities.as_deref(),
        }
    }

    fn ports(&self) -> PortsOf<'_> {
        PortsOf::Deny(self.to_ports.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
