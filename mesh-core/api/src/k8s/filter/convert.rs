//! WeftFilter and WeftClusterFilter.

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use weft_core::filter::{FilterKey, FilterKind, ModuleDigest, Phase, Plugin};
use weft_core::model::{Direction, LabelSource, NAMESPACE_LABELS_PREFIX};
use weft_core::policy::{EndpointSelector, PortRange, Requirement, SourceMatch};

use super::super::convert as policy;
use super::super::error::{Errors, Path};
use super::super::schema::schema_of;
use super::super::spec::LabelSelector;
use super::super::strict;
use super::module::{self, Location, ModuleSource, Refresh};
use super::spec::{FilterText, IntOrText, TargetRef};
use super::{Attachment, Filter, Subject, amount};

/// Most ports and ranges of a filter, and most Services that it may ask.
const MAX_LIST: usize = 64;
/// Most requirements and values of a selector.
const MAX_REQUIREMENTS: usize = 1000;
/// Most bytes of a configuration: every snapshot has it.
const MAX_CONFIG: usize = 256 << 10;

/// Schema of `spec`, for checking.
pub(super) static SPEC: LazyLock<Value> = LazyLock::new(schema_of::<FilterText>);

/// Reads `spec`.
pub(super) fn filter(
    key: FilterKey,
    text: &Value,
    path: &Path,
    errors: &mut Errors,
) -> Option<Filter> {
    let text: FilterText = read(text, &SPEC, path, errors)?;
    let mut reader = Reader {
        namespace: match key.kind {
            FilterKind::WeftClusterFilter => None,
            _ => Some(&*key.namespace),
        },
        errors,
    };
    let attachment = reader.attachment(&text, path);
    let module = reader.module(&text, &path.field("module"));
    let config = reader.config(text.config.as_ref(), &path.field("config"));
    let limits = reader.limits(text.limits.as_ref(), &path.field("limits"));
    let on_error = reader.on_error(text.on_error.as_ref(), &path.field("onError"));
    let isolation = reader.isolation(text.isolation.as_deref(), &path.field("isolation"));
    let callouts = reader.callouts(text.callouts.as_deref(), &path.field("callouts"));
    Some(Filter {
        attachments: vec![attachment?],
        module: module?,
        config: config?,
        limits: limits?,
        on_error: on_error?,
        isolation: isolation?,
        callouts: callouts?,
        plugin: Plugin::default(),
        remark: None,
        key,
    })
}

/// What stands in `spec`, every field known and of its type.
pub(super) fn read<T: serde::de::DeserializeOwned>(
    text: &Value,
    schema: &Value,
    path: &Path,
    errors: &mut Errors,
) -> Option<T> {
    let mut own = Errors::default();
    match text {
        Value::Object(_) => strict::check(text, schema, path, &mut own),
        _ => own.add(path, "must be an object"),
    }
    if own.is_empty() {
        match T::deserialize(text) {
            Ok(read) => return Some(read),
            Err(error) => own.add(path, error.to_string()),
        }
    }
    errors.append(own);
    None
}

/// Reads the parts of a filter, collecting errors.
pub(super) struct Reader<'a> {
    /// The object's namespace; `None` for objects of the whole cluster.
    pub(super) namespace: Option<&'a str>,
    pub(super) errors: &'a mut Errors,
}

impl Reader<'_> {
    fn attachment(&mut self, text: &FilterText, path: &Path) -> Option<Attachment> {
        let subject = self.subject(text, path);
        let at = path.field("direction");
        let direction = match text.direction.as_deref() {
            None | Some("ingress") => Some(Direction::Ingress),
            Some("egress") => Some(Direction::Egress),
            Some(other) => self.unknown(other, &["ingress", "egress"], &at),
        };
        let ports = self.ports(text.ports.as_deref(), &path.field("ports"));
        let phase = self.phase(text.phase.as_deref(), &path.field("phase"));
        let order = self.priority(text.priority, &path.field("priority"));
        if direction == Some(Direction::Egress) {
            if text.ports.is_none() {
                let message = "is required for egress: without it everything that the pods send \
                               would go through the proxy";
                self.errors.add(&path.field("ports"), message);
                return None;
            }
            if text.target_ref.is_some() {
                let message = "must be ingress with targetRef: what the pods of a Service send is \
                               selected by their labels";
                self.errors.add(&at, message);
                return None;
            }
        }
        Some(Attachment {
            subject: subject?,
            direction: direction?,
            ports: ports?,
            phase: phase?,
            order: order?.into(),
        })
    }

    pub(super) fn priority(&mut self, number: Option<i64>, path: &Path) -> Option<i32> {
        let number = number.unwrap_or(0);
        let fits = i32::try_from(number).ok();
        if fits.is_none() {
            let message = format!("{number} is not between {} and {}", i32::MIN, i32::MAX);
            self.errors.add(path, message);
        }
        fits
    }

    fn subject(&mut self, text: &FilterText, path: &Path) -> Option<Subject> {
        match (&text.selector, &text.target_ref) {
            (Some(selector), None) => self.pods(selector, text.namespaces.as_ref(), path),
            (None, Some(target)) => {
                if text.namespaces.is_some() {
                    let message = "goes with selector; a targetRef has its own namespace";
                    self.errors.add(&path.field("namespaces"), message);
                    return None;
                }
                self.service(target, &path.field("targetRef"))
            }
            (Some(_), Some(_)) => {
                let message = "excludes selector: write one of them";
                self.errors.add(&path.field("targetRef"), message);
                None
            }
            (None, None) => {
                let message = "is required, or targetRef; {} selects every pod";
                self.errors.add(&path.field("selector"), message);
                None
            }
        }
    }

    fn pods(
        &mut self,
        selector: &LabelSelector,
        namespaces: Option<&LabelSelector>,
        path: &Path,
    ) -> Option<Subject> {
        let pods = self.selector(selector, &path.field("selector"))?;
        let subject = pods.for_subject(self.namespace);
        let Some(namespaces) = namespaces else {
            return Some(Subject::Pods(subject));
        };
        let path = path.field("namespaces");
        if self.namespace.is_some() {
            let message = "is for WeftClusterFilter; this filter serves the pods of its own \
                           namespace";
            self.errors.add(&path, message);
            return None;
        }
        let namespaces = self.selector(namespaces, &path)?;
        let of_namespace = namespaces.requirements().iter().map(|one| Requirement {
            source: SourceMatch::Is(LabelSource::K8s),
            key: format!("{NAMESPACE_LABELS_PREFIX}{}", one.key).into(),
            operator: one.operator.clone(),
        });
        let all = subject.requirements().iter().cloned().chain(of_namespace);
        Some(Subject::Pods(EndpointSelector::new(all)))
    }

    pub(super) fn selector(
        &mut self,
        selector: &LabelSelector,
        path: &Path,
    ) -> Option<EndpointSelector> {
        let expressions = selector.match_expressions.iter().flatten();
        let values = expressions.map(|one| 1 + one.values.as_ref().map_or(0, Vec::len));
        let labels = selector.match_labels.as_ref().map_or(0, |map| map.len());
        let size = labels + values.sum::<usize>();
        if size > MAX_REQUIREMENTS {
            let message =
                format!("has {size} requirements and values, more than {MAX_REQUIREMENTS}");
            self.errors.add(path, message);
            return None;
        }
        policy::selector(selector, path, self.errors)
    }

    pub(super) fn service(&mut self, target: &TargetRef, path: &Path) -> Option<Subject> {
        let group = target.group.as_deref().unwrap_or_default();
        if target.kind != "Service" || !matches!(group, "" | "core") {
            let named = match group {
                "" => target.kind.clone(),
                group => format!("{group}/{}", target.kind),
            };
            let message = format!("is {named}; only Service can be targeted");
            self.errors.add(&path.field("kind"), message);
            return None;
        }
        if !module::is_object_name(&target.name) {
            let message = format!("`{}` is no name of a Service", target.name);
            self.errors.add(&path.field("name"), message);
            return None;
        }
        let at = path.field("namespace");
        let namespace = match (target.namespace.as_deref(), self.namespace) {
            (None | Some(""), Some(own)) => own,
            (Some(named), Some(own)) if named == own => own,
            (Some(named), Some(own)) => {
                let message = format!("is {named}, but a filter serves its own namespace, {own}");
                self.errors.add(&at, message);
                return None;
            }
            (Some(named), None) if module::is_object_name(named) => named,
            (_, None) => {
                let message = "is required: the namespace of the Service";
                self.errors.add(&at, message);
                return None;
            }
        };
        Some(Subject::Service {
            namespace: namespace.to_owned(),
            name: target.name.clone(),
        })
    }

    fn ports(&mut self, ports: Option<&[IntOrText]>, path: &Path) -> Option<Vec<PortRange>> {
        let Some(ports) = ports else {
            return Some(Vec::new());
        };
        if ports.is_empty() {
            let message = "needs at least one port; for ingress, leave it out to mean every port";
            self.errors.add(path, message);
            return None;
        }
        if !self.fits(ports.len(), "ports", path) {
            return None;
        }
        let ranges = ports.iter().enumerate().map(|(index, port)| {
            amount::port(port)
                .map_err(|message| self.errors.add(&path.index(index), message))
                .ok()
        });
        let ranges: Vec<Option<PortRange>> = ranges.collect();
        let ranges: Option<Vec<PortRange>> = ranges.into_iter().collect();
        ranges.map(amount::merged)
    }

    pub(super) fn fits(&mut self, count: usize, what: &str, path: &Path) -> bool {
        if count > MAX_LIST {
            let message = format!("has {count} {what}, more than {MAX_LIST}");
            self.errors.add(path, message);
        }
        count <= MAX_LIST
    }

    fn phase(&mut self, phase: Option<&str>, path: &Path) -> Option<Phase> {
        let Some(name) = phase else {
            return Some(Phase::default());
        };
        let known = Phase::ALL.into_iter().find(|phase| phase.as_str() == name);
        match known {
            Some(Phase::BeforePolicy) if self.namespace.is_some() => {
                let message = "beforePolicy is for WeftClusterFilter: such a filter sees what \
                               policy denies, and changes what it judges";
                self.errors.add(path, message);
                None
            }
            Some(phase) => Some(phase),
            None => self.unknown(name, &Phase::ALL.map(Phase::as_str), path),
        }
    }

    fn module(&mut self, text: &FilterText, path: &Path) -> Option<ModuleSource> {
        let module = &text.module;
        let location =
            module::location(&module.url, self.namespace, &path.field("url"), self.errors)?;
        let at = path.field("sha256");
        let sha256 = self.sha256(module.sha256.as_deref(), &at)?;
        let pinned = match &location {
            Location::Oci(reference) => reference.digest.is_some() || sha256.is_some(),
            Location::Https(_) => sha256.is_some(),
            Location::File(_) | Location::ConfigMap { .. } => true,
        };
        if !pinned {
            let hint = match &location {
                Location::Oci(_) => "; or let the reference end in @sha256:DIGEST",
                _ => "",
            };
            let message = format!(
                "is required: what is fetched from elsewhere has to be pinned by the digest of \
                 the module{hint}"
            );
            self.errors.add(&at, message);
            return None;
        }
        let at = path.field("imagePullSecret");
        let pull_secret = self.pull_secret(module.image_pull_secret.as_deref(), &location, &at)?;
        Some(ModuleSource {
            location,
            sha256,
            pull_secret,
            refresh: Refresh::Never,
        })
    }

    /// The outer `None` is an error.
    pub(super) fn sha256(
        &mut self,
        text: Option<&str>,
        path: &Path,
    ) -> Option<Option<ModuleDigest>> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Some(None);
        };
        let digest = ModuleDigest::parse(text);
        if digest.is_none() {
            let message = format!("`{text}` is not 64 hexadecimal digits");
            self.errors.add(path, message);
        }
        digest.map(Some)
    }

    /// The outer `None` is an error.
    pub(super) fn pull_secret(
        &mut self,
        text: Option<&str>,
        location: &Location,
        path: &Path,
    ) -> Option<Option<(String, String)>> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Some(None);
        };
        if !matches!(location, Location::Oci(_)) {
            self.errors.add(path, "goes with an oci:// reference only");
            return None;
        }
        let (namespace, name) = match (text.split_once('/'), self.namespace) {
            (None, Some(own)) => (own, text),
            (Some((namespace, name)), None) => (namespace, name),
            (Some(_), Some(_)) => {
                let message = "names a namespace: the Secret has to be in the filter's own";
                self.errors.add(path, message);
                return None;
            }
            (None, None) => {
                self.errors.add(path, "must be NAMESPACE/NAME");
                return None;
            }
        };
        if !module::is_object_name(namespace) || !module::is_object_name(name) {
            let message = format!("`{text}` is no name of a Secret");
            self.errors.add(path, message);
            return None;
        }
        Some(Some((namespace.to_owned(), name.to_owned())))
    }

    fn config(&mut self, config: Option<&Value>, path: &Path) -> Option<Arc<[u8]>> {
        match config {
            None | Some(Value::Null) => Some(Arc::from(&b"{}"[..])),
            Some(config) => self.json(config, path),
        }
    }

    /// A configuration as the filter gets it.
    pub(super) fn json(&mut self, config: &Value, path: &Path) -> Option<Arc<[u8]>> {
        let bytes = config.to_string().into_bytes();
        if bytes.len() > MAX_CONFIG {
            let message = format!("has {} bytes as JSON, more than {MAX_CONFIG}", bytes.len());
            self.errors.add(path, message);
            return None;
        }
        Some(bytes.into())
    }

    pub(super) fn callouts(
        &mut self,
        list: Option<&[String]>,
        path: &Path,
    ) -> Option<Arc<[Box<str>]>> {
        let list = list.unwrap_or_default();
        if !self.fits(list.len(), "Services", path) {
            return None;
        }
        let mut services: Vec<Box<str>> = Vec::with_capacity(list.len());
        let mut sound = true;
        for (index, text) in list.iter().enumerate() {
            match callout(text, self.namespace) {
                Ok(service) => services.push(service.into()),
                Err(message) => {
                    self.errors.add(&path.index(index), message);
                    sound = false;
                }
            }
        }
        services.sort();
        services.dedup();
        sound.then(|| services.into())
    }

    /// Notes that a name is none of those that are known.
    pub(super) fn unknown<T>(&mut self, name: &str, known: &[&str], path: &Path) -> Option<T> {
        self.errors.add_with(path, || strict::none_of(name, known));
        None
    }
}

/// `name.namespace:port`, whatever of it was left out.
fn callout(text: &str, own: Option<&str>) -> Result<String, String> {
    let wrong = || format!("`{text}` is no Service: write name:port or name.namespace:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let host = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
    let host = host.strip_suffix(".svc").unwrap_or(host);
    let (name, namespace) = match (host.split_once('.'), own) {
        (Some((name, namespace)), _) => (name, namespace),
        (None, Some(own)) => (host, own),
        (None, None) => {
            return Err(format!(
                "`{text}` names no namespace: write name.namespace:port"
            ));
        }
    };
    let label = |part: &str| module::is_object_name(part) && !part.contains('.');
    if port == 0 || !label(name) || !label(namespace) {
        return Err(wrong());
    }
    Ok(format!("{name}.{namespace}:{port}"))
}
