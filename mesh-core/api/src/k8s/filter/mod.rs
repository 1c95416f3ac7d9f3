//! Filters: WeftFilter, WeftClusterFilter, and Istio's WasmPlugin.
//!
//! All three become the same [`Filter`]. What an object says and cannot be
//! honoured is refused with the path of the field, as it is for policies.

mod amount;
mod convert;
mod definition;
mod istio;
mod limits;
mod module;
mod spec;
mod status;

use std::sync::Arc;

use serde_json::Value;
pub use weft_core::filter::FilterKind;
use weft_core::filter::{FilterKey, FilterLimits, Isolation, OnError, Phase, Plugin};
use weft_core::model::Direction;
use weft_core::policy::{EndpointSelector, PortRange};

pub(super) use definition::definitions;
pub use definition::{GROUP, ISTIO_GROUP, VERSION, group, plural};
pub use module::{Location, ModuleSource, OciReference, Refresh};
pub use status::{FilterReport, FilterStatus, NodeFilter, NodeStatus};

use super::error::{Errors, FieldError, FieldErrors, Path};
use super::strict;

/// A filter that can be honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The object that it comes from.
    pub key: FilterKey,
    /// Whose requests meet it; at least one.
    pub attachments: Vec<Attachment>,
    /// Where its module is.
    pub module: ModuleSource,
    /// Its configuration: JSON, or nothing.
    pub config: Arc<[u8]>,
    /// What it may take.
    pub limits: FilterLimits,
    /// What becomes of requests when it fails.
    pub on_error: OnError,
    /// Who shares an instance.
    pub isolation: Isolation,
    /// Services that it may ask: `name.namespace:port`.
    pub callouts: Arc<[Box<str>]>,
    /// Of a proxy-wasm filter.
    pub plugin: Plugin,
    /// What users should know although nothing is wrong.
    pub remark: Option<&'static str>,
}

/// Whose requests meet a filter, and when.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// Whose.
    pub subject: Subject,
    /// Those that they get, or those that they send.
    pub direction: Direction,
    /// Destination ports, TCP, sorted and apart; empty: all of them.
    pub ports: Vec<PortRange>,
    /// Where in a request's way.
    pub phase: Phase,
    /// Filters of one phase run by this number, the lowest first.
    pub order: i64,
}

/// Whose requests meet a filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Those of pods.
    Pods(EndpointSelector),
    /// Those to a Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Reads an object of one of the three kinds.
///
/// # Errors
/// Everything that is wrong with it, each with its path. One error refuses the
/// whole object.
pub fn read(kind: FilterKind, object: &Value) -> Result<Filter, FieldErrors> {
    let mut errors = Errors::default();
    let fields = object.as_object();
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    for name in fields.into_iter().flat_map(|fields| fields.keys()) {
        if !known.contains(&name.as_str()) {
            let path = Path::root("").field(name);
            errors.add_with(&path, || strict::unknown_field(name, known));
        }
    }
    let key = key_of(kind, object);
    let spec = Path::root("spec");
    let filter = match (object.get("spec"), kind) {
        (None | Some(Value::Null), _) => {
            errors.add(&spec, "is required");
            None
        }
        (Some(text), FilterKind::WasmPlugin) => {
            let annotations = &object["metadata"]["annotations"];
            istio::filter(key, text, annotations, &mut errors)
        }
        (Some(text), _) => convert::filter(key, text, &spec, &mut errors),
    };
    errors.into_result(filter)?.ok_or_else(|| {
        FieldErrors(vec![FieldError {
            path: "spec".to_owned(),
            message: "cannot be honoured".to_owned(),
        }])
    })
}

/// The name of an object.
pub fn key_of(kind: FilterKind, object: &Value) -> FilterKey {
    let text = |field: &str| object["metadata"][field].as_str();
    let namespace = match kind {
        FilterKind::WeftClusterFilter => "",
        FilterKind::WeftFilter | FilterKind::WasmPlugin => text("namespace").unwrap_or("default"),
    };
    FilterKey {
        kind,
        namespace: namespace.into(),
        name: text("name").unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests;
