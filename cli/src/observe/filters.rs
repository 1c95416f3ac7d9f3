//! From filter flags to the protocol's filters.
//!
//! A flag without a direction (`--pod x`) means "from or to": the result is
//! two filters, one of which must match. All flags together fill one such pair
//! for what is wanted and one for what is not.

use clap::ArgMatches;
use weft_api::hubble::flow::FlowFilter;
use weft_api::hubble::json;
use weft_api::hubble::observer::GetFlowsRequest;

use super::fields::{End, end_field, flow_field, is_end};
use super::flags::{FILTERS, FilterFlag};
use crate::Error;

/// Flags that would contradict each other or whose combination would not mean
/// what it says.
#[rustfmt::skip]
const CONFLICTS: &[&[&str]] = &[
    &["from-fqdn", "from-ip", "ip", "fqdn", "from-namespace", "namespace", "from-all-namespaces", "all-namespaces"],
    &["from-fqdn", "from-ip", "ip", "fqdn", "from-pod", "pod"],
    &["to-fqdn", "to-ip", "ip", "fqdn", "to-namespace", "namespace", "to-all-namespaces", "all-namespaces"],
    &["to-fqdn", "to-ip", "ip", "fqdn", "to-pod", "pod"],
    &["to-pod", "namespace", "all-namespaces"],
    &["from-pod", "namespace", "all-namespaces"],
    &["to-service", "namespace", "all-namespaces"],
    &["from-service", "namespace", "all-namespaces"],
    &["label", "from-label"],
    &["label", "to-label"],
    &["service", "from-service"],
    &["service", "to-service"],
    &["port", "to-port"],
    &["port", "from-port"],
    &["identity", "to-identity"],
    &["identity", "from-identity"],
    &["workload", "to-workload"],
    &["workload", "from-workload"],
    &["encrypted", "unencrypted"],
];

/// The allow list and the deny list.
pub(super) fn lists(matches: &ArgMatches) -> Result<(Vec<FlowFilter>, Vec<FlowFilter>), Error> {
    let (mut wanted, mut unwanted) = (Pair::default(), Pair::default());
    let mut reversed = false;
    for (flag, value) in in_order(matches) {
        if flag.name == "not" {
            if reversed {
                return Err(bad(flag, value, "consecutive --not statements"));
            }
            reversed = true;
            continue;
        }
        let pair = if reversed { &mut unwanted } else { &mut wanted };
        reversed = false;
        pair.add(flag.name, value)
            .map_err(|reason| bad(flag, value, &reason))?;
    }
    if reversed {
        return Err(Error::usage("trailing --not found in the arguments"));
    }
    let mut allow = wanted.filters();
    let mut deny = unwanted.filters();
    allow.extend(from_json(matches, "allowlist")?);
    deny.extend(from_json(matches, "denylist")?);
    Ok((allow, deny))
}

fn bad(flag: &FilterFlag, value: &str, reason: &str) -> Error {
    let short = flag
        .short
        .map(|short| format!("-{short}, "))
        .unwrap_or_default();
    Error::usage(format!(
        "invalid argument {value:?} for \"{short}--{}\" flag: {reason}",
        flag.name
    ))
}

/// Every filter flag with its value, as the user ordered them.
fn in_order(matches: &ArgMatches) -> Vec<(&'static FilterFlag, &str)> {
    let mut found = Vec::new();
    for flag in FILTERS {
        let values = matches.get_many::<String>(flag.name).into_iter().flatten();
        let places = matches.indices_of(flag.name).into_iter().flatten();
        found.extend(
            places
                .zip(values)
                .map(|(place, value)| (place, flag, value.as_str())),
        );
    }
    found.sort_by_key(|(place, _, _)| *place);
    found
        .into_iter()
        .map(|(_, flag, value)| (flag, value))
        .collect()
}

fn from_json(matches: &ArgMatches, name: &str) -> Result<Vec<FlowFilter>, Error> {
    let mut filters = Vec::new();
    for text in matches.get_many::<String>(name).into_iter().flatten() {
        for filter in serde_json::Deserializer::from_str(text).into_iter::<FlowFilter>() {
            filters.push(filter.map_err(|error| {
                Error::usage(format!(
                    "invalid --{name} flag: failed to decode '{text}': {error}"
                ))
            })?);
        }
    }
    Ok(filters)
}

/// Both lists as YAML whose strings are JSON, for a configuration file.
pub(super) fn raw(request: &GetFlowsRequest) -> Result<String, Error> {
    let mut out = String::new();
    for (name, filters) in [
        ("allowlist", &request.whitelist),
        ("denylist", &request.blacklist),
    ] {
        if filters.is_empty() {
            continue;
        }
        out.push_str(&format!("{name}:\n"));
        for filter in filters {
            let quoted = json::message(filter)?.replace('\'', "''");
            out.push_str(&format!("    - '{quoted}'\n"));
        }
    }
    Ok(if out.is_empty() {
        "{}\n".to_owned()
    } else {
        out
    })
}

#[derive(Default)]
struct Pair {
    used: Vec<String>,
    touched: bool,
    left: FlowFilter,
    right: FlowFilter,
    namespaces: Vec<String>,
    source_namespaces: Vec<String>,
    destination_namespaces: Vec<String>,
}

impl Pair {
    fn add(&mut self, name: &str, value: &str) -> Result<(), String> {
        if !self.used.iter().any(|used| used == name) {
            self.used.push(name.to_owned());
        }
        self.check_conflicts()?;
        if !self.namespace(name, value) {
            self.touched = true;
            self.field(name, value)?;
        }
        self.check_namespaces(&self.left)?;
        self.check_namespaces(&self.right)
    }

    fn check_conflicts(&self) -> Result<(), String> {
        let used = |name: &&&str| self.used.iter().any(|used| used == **name);
        for group in CONFLICTS {
            let mut present = group.iter().filter(used);
            if let (Some(one), Some(other)) = (present.next(), present.next()) {
                return Err(format!("filters --{one} and --{other} cannot be combined"));
            }
        }
        Ok(())
    }

    fn namespace(&mut self, name: &str, value: &str) -> bool {
        let list = match name {
            "namespace" | "all-namespaces" => &mut self.namespaces,
            "from-namespace" | "from-all-namespaces" => &mut self.source_namespaces,
            "to-namespace" | "to-all-namespaces" => &mut self.destination_namespaces,
            _ => return false,
        };
        let any = name.ends_with("all-namespaces");
        list.push(if any { String::new() } else { value.to_owned() });
        true
    }

    fn field(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let Some(field) = name.strip_prefix("from-").filter(|field| is_end(field)) {
            end_field(&mut self.left, End::Source, field, value)?;
            return end_field(&mut self.right, End::Source, field, value);
        }
        if let Some(field) = name.strip_prefix("to-").filter(|field| is_end(field)) {
            end_field(&mut self.left, End::Destination, field, value)?;
            return end_field(&mut self.right, End::Destination, field, value);
        }
        if is_end(name) {
            end_field(&mut self.left, End::Source, name, value)?;
            return end_field(&mut self.right, End::Destination, name, value);
        }
        flow_field(&mut self.left, name, value)?;
        flow_field(&mut self.right, name, value)
    }

    fn check_namespaces(&self, filter: &FlowFilter) -> Result<(), String> {
        let source = [&filter.source_pod, &filter.source_service];
        let destination = [&filter.destination_pod, &filter.destination_service];
        for (namespaces, lists) in [
            (&self.namespaces, source),
            (&self.namespaces, destination),
            (&self.source_namespaces, source),
            (&self.destination_namespaces, destination),
        ] {
            for name in lists.into_iter().flatten() {
                let own = name.split_once('/').map_or("", |(namespace, _)| namespace);
                if let Some(other) = namespaces
                    .iter()
                    .find(|other| !own.is_empty() && *other != own)
                {
                    return Err(format!(
                        "namespace conflict: {other:?} does not contain {name:?}"
                    ));
                }
            }
        }
        one_namespace(&filter.source_pod, &filter.source_service)?;
        one_namespace(&filter.destination_pod, &filter.destination_service)
    }

    fn filters(mut self) -> Vec<FlowFilter> {
        let all = [
            &self.namespaces,
            &self.source_namespaces,
            &self.destination_namespaces,
        ];
        if !self.touched && all.iter().all(|list| list.is_empty()) {
            return Vec::new();
        }
        for filter in [&mut self.left, &mut self.right] {
            qualify(filter, End::Destination, &self.destination_namespaces);
            qualify(filter, End::Source, &self.source_namespaces);
        }
        qualify(&mut self.left, End::Source, &self.namespaces);
        qualify(&mut self.right, End::Destination, &self.namespaces);
        if self.left == self.right {
            vec![self.left]
        } else {
            vec![self.left, self.right]
        }
    }
}

/// A pod and a service of one filter must be able to be in one namespace.
fn one_namespace(pods: &[String], services: &[String]) -> Result<(), String> {
    let of = |name: &str| {
        name.split_once('/')
            .map_or_else(String::new, |(ns, _)| ns.to_owned())
    };
    for pod in pods
        .iter()
        .map(|pod| of(pod))
        .filter(|namespace| !namespace.is_empty())
    {
        if let Some(service) = services.iter().find(|service| of(service) != pod) {
            return Err(format!(
                "namespace of service {service:?} conflict with pod {pod:?}"
            ));
        }
    }
    Ok(())
}

/// Puts names that have no namespace into each of these.
fn qualify(filter: &mut FlowFilter, end: End, namespaces: &[String]) {
    if namespaces.is_empty() {
        return;
    }
    let (pods, services) = match end {
        End::Source => (&mut filter.source_pod, &mut filter.source_service),
        End::Destination => (&mut filter.destination_pod, &mut filter.destination_service),
    };
    if pods.is_empty() && services.is_empty() {
        pods.push(String::new());
    }
    for names in [pods, services] {
        let qualified = names.drain(..).flat_map(|name| {
            if name.contains('/') {
                return vec![name];
            }
            namespaces
                .iter()
                .map(|namespace| format!("{namespace}/{name}"))
                .collect()
        });
        *names = qualified.collect();
    }
}
