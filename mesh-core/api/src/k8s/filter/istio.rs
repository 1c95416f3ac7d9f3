//! Istio's WasmPlugin, for modules of proxy-wasm.

use std::sync::{Arc, LazyLock};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use weft_core::filter::{FailPolicy, FilterKey, FilterLimits, Isolation, OnError, Phase, Plugin};
use weft_core::model::Direction;
use weft_core::policy::PortRange;

use super::super::error::{Errors, Path};
use super::super::schema::schema_of;
use super::super::spec::{AnyObject, LabelSelector, NotYet};
use super::convert::{Reader, read};
use super::module::{self, Location, ModuleSource, Refresh};
use super::spec::TargetRef;
use super::{Attachment, Filter, Subject, amount};

/// Objects of this namespace are for the pods of all namespaces.
pub(super) const ROOT_NAMESPACE: &str = "istio-system";
/// The Services that a plugin may ask, `name.namespace:port` between commas. Istio lets plugins ask
/// what they like and has no field for it.
pub const CALLOUTS: &str = "weft.dev/callouts";
/// Most targets and elements of `match`.
const MAX_LIST: usize = 16;
/// What is said of an object that does not name a side.
const SERVER_ONLY: &str = "serves the requests that the pods get; for those that they send, name \
                           their ports: spec.match[].mode CLIENT with spec.match[].ports";

/// What a plugin is and where it runs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PluginText {
    /// The pods that the plugin serves: all of the namespace where it is absent, and of all
    /// namespaces for a plugin in istio-system.
    selector: Option<PodSelector>,
    /// One of targetRefs.
    target_ref: Option<TargetRef>,
    /// The Services whose requests the plugin sees. Instead of a selector.
    target_refs: Option<Vec<TargetRef>>,
    /// Where the module is: oci:// (also without it), https://, or file://NAME below the
    /// agent's --module-dir.
    url: String,
    /// SHA-256 of the module, or of the manifest of an image.
    sha256: Option<String>,
    /// IfNotPresent or Always.
    image_pull_policy: Option<String>,
    /// Name of the Secret that opens the registry, in the same namespace.
    image_pull_secret: Option<String>,
    /// A key that signatures are verified with.
    #[expect(dead_code, reason = "refused with the schema")]
    verification_key: Option<NotYet>,
    /// Configuration of the plugin.
    #[schemars(with = "Option<AnyObject>")]
    plugin_config: Option<Value>,
    /// Which plugin of the module it is.
    plugin_name: Option<String>,
    /// AUTHN, AUTHZ, STATS; without one, behind them.
    phase: Option<String>,
    /// Plugins of one phase run by this number, the highest first.
    priority: Option<i64>,
    /// FAIL_CLOSE, FAIL_OPEN or FAIL_RELOAD.
    fail_strategy: Option<String>,
    /// Of the machine that the module runs in.
    #[expect(dead_code, reason = "refused with the schema")]
    vm_config: Option<VmConfig>,
    /// Which requests the plugin sees.
    #[serde(rename = "match")]
    matches: Option<Vec<TrafficSelector>>,
    /// HTTP.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Pods, by their labels.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PodSelector {
    /// Labels that they must have.
    match_labels: Option<std::collections::BTreeMap<String, String>>,
}

/// Of the machine that the module runs in.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
struct VmConfig {
    /// Variables of its environment.
    #[expect(dead_code, reason = "refused with the schema")]
    env: Option<NotYet>,
}

/// Some requests.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
struct TrafficSelector {
    /// SERVER: those that the pods get; CLIENT: those that they send; CLIENT_AND_SERVER.
    mode: Option<String>,
    /// Destination ports.
    ports: Option<Vec<PortSelector>>,
}

/// A port.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
struct PortSelector {
    /// Its number.
    number: i64,
}

/// Schema of `spec`.
pub(super) static SPEC: LazyLock<Value> = LazyLock::new(schema_of::<PluginText>);

/// Reads `spec`, and what is said in annotations.
pub(super) fn filter(
    key: FilterKey,
    text: &Value,
    annotations: &Value,
    errors: &mut Errors,
) -> Option<Filter> {
    let path = &Path::root("spec");
    let text: PluginText = read(text, &SPEC, path, errors)?;
    let namespace = key.namespace.clone();
    let mut reader = Reader {
        namespace: Some(&namespace),
        errors,
    };
    let subjects = subjects(&mut reader, &text, path);
    let sides = sides(&mut reader, &text, path);
    let order = order(&mut reader, &text, path);
    let module = source(&mut reader, &text, path);
    let on_error = on_error(&mut reader, text.fail_strategy.as_deref(), path);
    let config = match &text.plugin_config {
        None | Some(Value::Null) => Some(Arc::default()),
        Some(config) => reader.json(config, &path.field("pluginConfig")),
    };
    let kind = plugin_type(&mut reader, text.kind.as_deref(), path);
    let callouts = callouts(&mut reader, annotations);
    let (sides, server_only) = sides?;
    let order = order?;
    let subjects = subjects?;
    let attachments = subjects.iter().flat_map(|subject| {
        sides.iter().map(|(direction, ports)| Attachment {
            subject: subject.clone(),
            direction: *direction,
            ports: ports.clone(),
            phase: Phase::AfterPolicy,
            order,
        })
    });
    kind?;
    Some(Filter {
        attachments: attachments.collect(),
        module: module?,
        config: config?,
        limits: FilterLimits::default(),
        on_error: on_error?,
        isolation: Isolation::Worker,
        callouts: callouts?,
        plugin: Plugin {
            root_id: text.plugin_name.unwrap_or_default().into(),
            ..Plugin::default()
        },
        remark: server_only.then_some(SERVER_ONLY),
        key,
    })
}

fn callouts(reader: &mut Reader<'_>, annotations: &Value) -> Option<Arc<[Box<str>]>> {
    let text = annotations[CALLOUTS].as_str().unwrap_or_default();
    let services = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    let services: Vec<String> = services.map(str::to_owned).collect();
    let path = Path::root("metadata").field("annotations").field(CALLOUTS);
    reader.callouts(Some(&services), &path)
}

fn subjects(reader: &mut Reader<'_>, text: &PluginText, path: &Path) -> Option<Vec<Subject>> {
    let mut targets: Vec<(&TargetRef, Path)> = Vec::new();
    if let Some(target) = &text.target_ref {
        targets.push((target, path.field("targetRef")));
    }
    let list = path.field("targetRefs");
    for (index, target) in text.target_refs.iter().flatten().enumerate() {
        targets.push((target, list.index(index)));
    }
    if targets.len() > MAX_LIST {
        let message = format!("has {} targets, more than {MAX_LIST}", targets.len());
        reader.errors.add(&list, message);
        return None;
    }
    if targets.is_empty() {
        let selector = LabelSelector {
            match_labels: text
                .selector
                .as_ref()
                .and_then(|one| one.match_labels.clone()),
            match_expressions: None,
        };
        let selected = reader.selector(&selector, &path.field("selector"))?;
        let namespace = reader.namespace.filter(|own| *own != ROOT_NAMESPACE);
        return Some(vec![Subject::Pods(selected.for_subject(namespace))]);
    }
    if text.selector.is_some() {
        let message = "excludes selector: write one of them";
        reader.errors.add(&list, message);
        return None;
    }
    let subjects = targets
        .iter()
        .map(|(target, path)| reader.service(target, path));
    let subjects: Vec<Option<Subject>> = subjects.collect();
    subjects.into_iter().collect()
}

/// Directions and ports.
type Sides = Vec<(Direction, Vec<PortRange>)>;

/// What `match` selects, and whether it left the side open, which is then the
/// server's alone.
fn sides(reader: &mut Reader<'_>, text: &PluginText, path: &Path) -> Option<(Sides, bool)> {
    let targets = text.target_refs.as_deref().unwrap_or_default();
    let targeted = text.target_ref.is_some() || !targets.is_empty();
    let path = path.field("match");
    let list = text.matches.as_deref().unwrap_or_default();
    if list.is_empty() {
        return Some((vec![(Direction::Ingress, Vec::new())], !targeted));
    }
    if list.len() > MAX_LIST {
        let message = format!("has {} elements, more than {MAX_LIST}", list.len());
        reader.errors.add(&path, message);
        return None;
    }
    let (mut server, mut client) = (Side::default(), Side::default());
    let mut server_only = false;
    let mut sound = true;
    for (index, element) in list.iter().enumerate() {
        let path = path.index(index);
        let Some(ports) = ports(reader, element.ports.as_deref(), &path.field("ports")) else {
            sound = false;
            continue;
        };
        let at = path.field("mode");
        let (serves, asks, said) = match element.mode.as_deref() {
            Some("SERVER") => (true, false, true),
            Some("CLIENT") => (false, true, true),
            Some("CLIENT_AND_SERVER") => (true, true, true),
            None | Some("" | "UNDEFINED") => (true, !targeted && !ports.is_empty(), false),
            Some(other) => {
                let known = ["SERVER", "CLIENT", "CLIENT_AND_SERVER", "UNDEFINED"];
                let _none: Option<()> = reader.unknown(other, &known, &at);
                sound = false;
                continue;
            }
        };
        server_only |= !said && !targeted && !asks;
        if asks && targeted {
            let message = "must be SERVER with targetRefs";
            reader.errors.add(&at, message);
            sound = false;
        } else if asks && ports.is_empty() {
            let message = "is required for what the pods send: without it everything that they \
                           send would go through the proxy";
            reader.errors.add(&path.field("ports"), message);
            sound = false;
        }
        if serves {
            server.add(&ports);
        }
        if asks {
            client.add(&ports);
        }
    }
    let mut sides = Sides::new();
    sides.extend(server.ports().map(|ports| (Direction::Ingress, ports)));
    sides.extend(client.ports().map(|ports| (Direction::Egress, ports)));
    sound.then_some((sides, server_only))
}

/// Ports of one direction.
#[derive(Default)]
struct Side {
    some: bool,
    every: bool,
    ports: Vec<PortRange>,
}

impl Side {
    fn add(&mut self, ports: &[PortRange]) {
        self.some = true;
        self.every |= ports.is_empty();
        self.ports.extend(ports);
    }

    /// Empty for all of them; none where nothing was selected.
    fn ports(self) -> Option<Vec<PortRange>> {
        let ports = match self.every {
            true => Vec::new(),
            false => amount::merged(self.ports),
        };
        self.some.then_some(ports)
    }
}

fn ports(
    reader: &mut Reader<'_>,
    list: Option<&[PortSelector]>,
    path: &Path,
) -> Option<Vec<PortRange>> {
    let list = list.unwrap_or_default();
    if !reader.fits(list.len(), "ports", path) {
        return None;
    }
    let mut ports = Vec::with_capacity(list.len());
    let mut sound = true;
    for (index, port) in list.iter().enumerate() {
        match u16::try_from(port.number) {
            Ok(number) if number != 0 => ports.push(PortRange {
                first: number,
                last: number,
            }),
            _ => {
                let message = format!("{} is not between 1 and 65535", port.number);
                let path = path.index(index).field("number");
                reader.errors.add(&path, message);
                sound = false;
            }
        }
    }
    sound.then_some(ports)
}

/// Phases one after the other, and in each the highest priority first. A plugin
/// without a phase has the place of a WeftFilter of the opposite priority.
fn order(reader: &mut Reader<'_>, text: &PluginText, path: &Path) -> Option<i64> {
    const PHASE: i64 = 1 << 33;
    let phase = match text.phase.as_deref() {
        Some("AUTHN") => -3,
        Some("AUTHZ") => -2,
        Some("STATS") => -1,
        None | Some("" | "UNSPECIFIED_PHASE") => 0,
        Some(other) => {
            let known = ["AUTHN", "AUTHZ", "STATS", "UNSPECIFIED_PHASE"];
            return reader.unknown(other, &known, &path.field("phase"));
        }
    };
    let priority = reader.priority(text.priority, &path.field("priority"))?;
    Some(phase * PHASE - i64::from(priority))
}

fn source(reader: &mut Reader<'_>, text: &PluginText, path: &Path) -> Option<ModuleSource> {
    let at = path.field("url");
    let url = match text.url.contains("://") || text.url.is_empty() {
        true => text.url.clone(),
        false => format!("oci://{}", text.url),
    };
    if url.starts_with("configmap://") {
        let message = "must begin with oci://, https:// or file://";
        reader.errors.add(&at, message);
        return None;
    }
    let mut location = module::location(&url, reader.namespace, &at, reader.errors)?;
    let at = path.field("sha256");
    let mut sha256 = reader.sha256(text.sha256.as_deref(), &at)?;
    // Of an image it is the manifest's.
    if let Location::Oci(reference) = &mut location {
        let said = sha256.take();
        if let (Some(said), Some(named)) = (said, reference.digest)
            && said != named
        {
            reader.errors.add(&at, "is not the digest that url names");
            return None;
        }
        reference.digest = reference.digest.or(said);
    }
    let refresh = match text.image_pull_policy.as_deref() {
        Some("Always") => Refresh::Periodic,
        Some("IfNotPresent") => Refresh::Never,
        None | Some("" | "UNSPECIFIED_POLICY") => match &location {
            Location::Oci(reference) if reference.is_latest() => Refresh::Periodic,
            _ => Refresh::Never,
        },
        Some(other) => {
            let known = ["IfNotPresent", "Always", "UNSPECIFIED_POLICY"];
            return reader.unknown(other, &known, &path.field("imagePullPolicy"));
        }
    };
    let fixed = match &location {
        Location::Oci(reference) => reference.digest.is_some(),
        _ => sha256.is_some(),
    };
    let at = path.field("imagePullSecret");
    let pull_secret = reader.pull_secret(text.image_pull_secret.as_deref(), &location, &at)?;
    Some(ModuleSource {
        location,
        sha256,
        pull_secret,
        refresh: if fixed { Refresh::Never } else { refresh },
    })
}

fn on_error(reader: &mut Reader<'_>, name: Option<&str>, path: &Path) -> Option<OnError> {
    match name {
        // An instance that failed has a successor in any case.
        None | Some("" | "FAIL_CLOSE" | "FAIL_RELOAD") => Some(OnError::default()),
        Some("FAIL_OPEN") => Some(OnError::all(FailPolicy::Open)),
        Some(other) => {
            let known = ["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"];
            reader.unknown(other, &known, &path.field("failStrategy"))
        }
    }
}

fn plugin_type(reader: &mut Reader<'_>, name: Option<&str>, path: &Path) -> Option<()> {
    let path = path.field("type");
    match name {
        None | Some("" | "HTTP" | "UNSPECIFIED_PLUGIN_TYPE") => Some(()),
        Some("NETWORK") => {
            let message = "NETWORK is not supported: filters see requests, not connections";
            reader.errors.add(&path, message);
            None
        }
        Some(other) => reader.unknown(other, &["HTTP", "UNSPECIFIED_PLUGIN_TYPE"], &path),
    }
}
