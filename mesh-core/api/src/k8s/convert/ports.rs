//! Ports and what the proxy judges there.

use weft_core::model::Protocol;
use weft_core::policy::http::{HeaderMatch, HttpRule, HttpRules, Mismatch};
use weft_core::policy::{L7Rules, PortMatch, PortRange, PortRule, PortSpec};

use super::super::error::Path;
use super::super::spec::{
    L7Rules as L7Text, PortDenyRule, PortProtocol, PortRule as PortText, PortRuleHttp,
};
use super::super::strict::none_of;
use super::{Converter, limits};

/// Most ports of one element of `toPorts`.
const MAX_PORTS: usize = 40;

/// The `toPorts` of a rule.
pub(super) enum PortsOf<'a> {
    Allow(&'a [PortText]),
    Deny(&'a [PortDenyRule]),
}

impl Converter<'_> {
    pub(super) fn ports(&mut self, rules: &PortsOf<'_>, path: &Path) -> Option<Vec<PortRule>> {
        let converted: Vec<Option<PortRule>> = match rules {
            PortsOf::Allow(rules) => {
                let rules = rules.iter().enumerate();
                rules
                    .map(|(index, rule)| self.allow(rule, &path.index(index)))
                    .collect()
            }
            PortsOf::Deny(rules) => {
                let rules = rules.iter().enumerate();
                rules
                    .map(|(index, rule)| {
                        let ports = self.port_list(rule.ports.as_deref(), &path.index(index))?;
                        Some(PortRule {
                            ports,
                            l7: L7Rules::None,
                        })
                    })
                    .collect()
            }
        };
        converted.into_iter().collect()
    }

    fn allow(&mut self, rule: &PortText, path: &Path) -> Option<PortRule> {
        let ports = self.port_list(rule.ports.as_deref(), path);
        let l7 = match &rule.rules {
            Some(rules) => self.l7(rules, &path.field("rules")),
            None => Some(L7Rules::None),
        };
        let (ports, l7) = (ports?, l7?);
        if l7 != L7Rules::None {
            for (index, port) in ports.iter().enumerate() {
                self.l7_port(port, &path.field("ports").index(index))?;
            }
        }
        Some(PortRule { ports, l7 })
    }

    /// L7 rules need a port, and TCP.
    fn l7_port(&mut self, port: &PortSpec, path: &Path) -> Option<()> {
        if port.protocol != Some(Protocol::Tcp) {
            let found = port.protocol.map_or("ANY", Protocol::as_str);
            let message = format!("http rules need protocol: TCP, not {found}");
            self.errors.add(&path.field("protocol"), message);
            return None;
        }
        if port.port == PortMatch::All {
            let message = "http rules need a port, not port 0 (every port)";
            self.errors.add(&path.field("port"), message);
            return None;
        }
        Some(())
    }

    fn port_list(&mut self, ports: Option<&[PortProtocol]>, path: &Path) -> Option<Vec<PortSpec>> {
        let path = path.field("ports");
        let ports = ports.unwrap_or_default();
        if ports.is_empty() {
            let message = "needs at least one port; leave toPorts out to mean every port";
            self.errors.add(&path, message);
            return None;
        }
        if ports.len() > MAX_PORTS {
            let message = format!("has {} ports, more than {MAX_PORTS}", ports.len());
            self.errors.add(&path, message);
            return None;
        }
        let specs: Vec<Option<PortSpec>> = ports
            .iter()
            .enumerate()
            .map(|(index, port)| self.port(port, &path.index(index)))
            .collect();
        specs.into_iter().collect()
    }

    fn port(&mut self, port: &PortProtocol, path: &Path) -> Option<PortSpec> {
        let protocol = self.protocol(port.protocol.as_deref(), &path.field("protocol"))?;
        let text = port.port.as_deref().unwrap_or_default();
        let end = port.end_port.filter(|end| *end != 0);
        let matched = if text.starts_with(|char: char| char.is_ascii_digit())
            && text.chars().all(|char| char.is_ascii_digit())
        {
            self.range(text, end, path)?
        } else if end.is_some() {
            let message = "needs a number in port, not a name";
            self.errors.add(&path.field("endPort"), message);
            return None;
        } else if is_port_name(text) {
            PortMatch::Named(text.to_ascii_lowercase().into())
        } else {
            let message = match text {
                "" => "is required".to_owned(),
                _ => format!("`{text}` is neither a port number nor a port name"),
            };
            self.errors.add(&path.field("port"), message);
            return None;
        };
        Some(PortSpec {
            port: matched,
            protocol,
        })
    }

    fn range(&mut self, text: &str, end: Option<i32>, path: &Path) -> Option<PortMatch> {
        let Ok(first) = text.parse::<u16>() else {
            let message = format!("{text} is above 65535");
            self.errors.add(&path.field("port"), message);
            return None;
        };
        let Some(end) = end else {
            return Some(match first {
                0 => PortMatch::All,
                first => PortMatch::Range(PortRange { first, last: first }),
            });
        };
        let message = match u16::try_from(end) {
            Ok(_) if first == 0 => "a range cannot start at port 0".to_owned(),
            Ok(last) if last >= first => {
                return Some(PortMatch::Range(PortRange { first, last }));
            }
            Ok(last) => format!("{last} is below port {first}"),
            Err(_) => format!("{end} is not between 1 and 65535"),
        };
        self.errors.add(&path.field("endPort"), message);
        None
    }

    /// The outer `None` is an error, the inner one means any.
    fn protocol(&mut self, name: Option<&str>, path: &Path) -> Option<Option<Protocol>> {
        let name = name.unwrap_or_default();
        if name.is_empty() || name.eq_ignore_ascii_case("ANY") {
            return Some(None);
        }
        if let Some(protocol) = Protocol::from_name(name) {
            return Some(Some(protocol));
        }
        let known = ["TCP", "UDP", "SCTP", "ANY"];
        self.errors.add_with(path, || none_of(name, &known));
        None
    }

    fn l7(&mut self, rules: &L7Text, path: &Path) -> Option<L7Rules> {
        let Some(http) = &rules.http else {
            return Some(L7Rules::None);
        };
        let rules: Vec<Option<(HttpRule, usize)>> = http
            .iter()
            .enumerate()
            .map(|(index, rule)| self.http(rule, &path.field("http").index(index)))
            .collect();
        let rules: Vec<(HttpRule, usize)> = rules.into_iter().collect::<Option<_>>()?;
        let cost = rules.iter().map(|(_, cost)| cost).sum();
        let rules = rules.into_iter().map(|(rule, _)| rule).collect();
        Some(L7Rules::Http(HttpRules::new(rules, cost)))
    }

    /// A rule, and what it costs.
    fn http(&mut self, rule: &PortRuleHttp, path: &Path) -> Option<(HttpRule, usize)> {
        if self.tables.are_full() {
            return None;
        }
        let headers = rule.headers.as_ref().map_or(0, Vec::len);
        let matches = rule.header_matches.as_ref().map_or(0, Vec::len);
        limits::conditions(headers + matches, path, self.errors)?;
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mut header_matches = Vec::new();
        for (index, entry) in rule.header_matches.iter().flatten().enumerate() {
            let path = path.field("headerMatches").index(index);
            header_matches.push(HeaderMatch {
                name: entry.name.clone(),
                value: entry.value.clone().unwrap_or_default(),
                mismatch: self.mismatch(entry.mismatch.as_deref(), &path.field("mismatch"))?,
            });
        }
        let rule = HttpRule {
            method: set(&rule.method),
            path: set(&rule.path),
            host: set(&rule.host),
            headers: rule.headers.clone().unwrap_or_default(),
            header_matches,
        };
        match rule.validate() {
            Ok(cost) => {
                self.tables.add(cost, path, self.errors);
                Some((rule, cost))
            }
            Err(error) => {
                self.tables.refused();
                self.errors
                    .add(&path.field_path(&error.field), error.reason);
                None
            }
        }
    }

    fn mismatch(&mut self, name: Option<&str>, path: &Path) -> Option<Mismatch> {
        Some(match name.unwrap_or_default() {
            "" => Mismatch::Fail,
            "LOG" => Mismatch::Log,
            "ADD" => Mismatch::Add,
            "DELETE" => Mismatch::Delete,
            "REPLACE" => Mismatch::Replace,
            unknown => {
                let message = format!("`{unknown}` is none of LOG, ADD, DELETE, REPLACE");
                self.errors.add(path, message);
                return None;
            }
        })
    }
}

/// The name of a service port: at most 15 letters, digits and single hyphens
/// inside, at least one letter.
fn is_port_name(name: &str) -> bool {
    let characters = |char: char| char.is_ascii_alphanumeric() || char == '-';
    (1..=15).contains(&name.len())
        && name.chars().all(characters)
        && name.contains(|char: char| char.is_ascii_alphabetic())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
