//! From a module, and what its owner wants of it, to a version of the filter:
//! limits, configuration, and what proxy-wasm filters are told of the node.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use weft_core::filter as model;
use weft_wasm_host::shared::queue::Queues;
use weft_wasm_host::{
    Abi, ConfigureError, FailPolicy, Fault, Filter, FilterSpec, Isolation, Limits, Log, Manifest,
    Module, OnError, Plugin, ReloadError, Runtime, Shared,
};

use super::NodeFilter;
use super::failure::Failure;

/// What of a specification makes a version: where the rest of it changes, the
/// filter stays as it is.
#[must_use]
pub fn same(one: &model::FilterSpec, other: &model::FilterSpec) -> bool {
    one.module == other.module
        && one.config == other.config
        && one.limits == other.limits
        && one.on_error == other.on_error
        && one.isolation == other.isolation
        && one.plugin == other.plugin
}

/// What a version is made in.
#[derive(Debug)]
pub struct Surroundings {
    /// Name of the node.
    pub node: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Queues of the filters that share a `vm_id` with it.
    pub queues: Arc<Queues>,
}

/// Makes a version of `filter`. It takes as long as the filter takes to start.
///
/// # Errors
/// A limit that is beyond what a node allows, a configuration that is not of
/// the form that the filter says or that it refuses, and what its code did.
pub fn version(
    runtime: &Arc<Runtime>,
    module: Arc<Module>,
    spec: &model::FilterSpec,
    filter: &NodeFilter,
    around: Surroundings,
    log: Arc<dyn Log>,
) -> Result<Arc<Filter>, Failure> {
    let limits = limits(&spec.limits);
    limits.check().map_err(ConfigureError::Limits)?;
    let manifest = weft_wasm_host::describe(runtime, &module)?;
    let field = match spec.key.kind {
        model::FilterKind::WasmPlugin => "pluginConfig",
        model::FilterKind::WeftFilter | model::FilterKind::WeftClusterFilter => "config",
    };
    let config = config(module.abi(), &manifest, &spec.config, field)?;
    let shared = Shared {
        queues: around.queues,
        ..filter.shared.clone()
    };
    let name = match &*spec.plugin.name {
        "" => &spec.key.name,
        name => name,
    };
    let spec = FilterSpec {
        name: filter.name.to_string(),
        config,
        limits,
        on_error: on_error(&spec.on_error),
        isolation: match spec.isolation {
            model::Isolation::Worker => Isolation::Worker,
            model::Isolation::Request => Isolation::Request,
        },
        plugin: Plugin {
            name: name.to_owned(),
            root_id: spec.plugin.root_id.to_string(),
            vm_id: spec.plugin.vm_id.to_string(),
            vm_config: Bytes::copy_from_slice(&spec.plugin.vm_config),
            node_id: around.node,
            node_cluster: around.cluster,
        },
        shared,
        log,
    };
    Ok(Filter::configure(Arc::clone(runtime), module, spec)?)
}

/// The configuration, as the filter reads it; from that field of its object.
fn config(abi: Abi, manifest: &Manifest, config: &[u8], field: &str) -> Result<Bytes, Failure> {
    if abi != Abi::Weft {
        return Ok(Bytes::copy_from_slice(config));
    }
    let config = match config.trim_ascii() {
        b"" => b"{}",
        config => config,
    };
    let value: Value =
        serde_json::from_slice(config).map_err(|error| refused(format!("{field}: {error}")))?;
    if !manifest.config_schema.is_empty() {
        weft_filter_schema::validate(&manifest.config_schema, &value)
            .map_err(|invalid| refused(invalid.below(field)))?;
    }
    Ok(Bytes::copy_from_slice(config))
}

/// A refusal whose text has the path already.
fn refused(text: String) -> Failure {
    let fault = Fault::Config(text.clone());
    Failure {
        error: ReloadError::Configure(ConfigureError::Fault(fault)),
        text,
    }
}

fn limits(wanted: &model::FilterLimits) -> Limits {
    let default = Limits::default();
    // What does not fit is far beyond what is allowed, and refused as that.
    let bytes = |wanted: Option<u64>, default| match wanted {
        Some(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
        None => default,
    };
    let count = |wanted: Option<u32>, default| bytes(wanted.map(u64::from), default);
    Limits {
        deadline: wanted.deadline.unwrap_or(default.deadline),
        start_deadline: wanted.start_deadline.unwrap_or(default.start_deadline),
        memory: bytes(wanted.memory, default.memory),
        contexts: count(wanted.contexts, default.contexts),
        held_body: bytes(wanted.held_body, default.held_body),
        fetches_per_context: count(wanted.fetches_per_context, default.fetches_per_context),
        fetch_timeout: wanted.fetch_timeout.unwrap_or(default.fetch_timeout),
        fetch_body: bytes(wanted.fetch_body, default.fetch_body),
        ..default
    }
}

/// What becomes of requests, as the host has it.
pub(super) fn on_error(wanted: &model::OnError) -> OnError {
    let policy = |wanted| match wanted {
        model::FailPolicy::Closed => FailPolicy::Closed,
        model::FailPolicy::Open => FailPolicy::Open,
    };
    OnError {
        load: policy(wanted.load),
        config: policy(wanted.config),
        trap: policy(wanted.trap),
        timeout: policy(wanted.timeout),
    }
}

#[cfg(test)]
mod tests {
    use weft_core::filter::FilterLimits;
    use weft_wasm_host::{Abi, Limits, Manifest};

    use super::{config, limits};

    #[test]
    fn a_configuration_is_refused_by_its_path() {
        let manifest = Manifest {
            config_schema: r#"{"type": "object", "required": ["header"], "properties":
                {"header": {"type": "string"}, "deny": {"items": {"type": "integer"}}}}"#
                .to_owned(),
            ..Manifest::default()
        };
        let refused = |text: &str| config(Abi::Weft, &manifest, text.as_bytes(), "config");
        for (text, said) in [
            ("", "config.header: it is missing"),
            ("[]", r#"config: it is not of type "object""#),
            (
                r#"{"header": 5}"#,
                r#"config.header: it is not of type "string""#,
            ),
            (
                r#"{"header": "x", "deny": [1, "y"]}"#,
                r#"config.deny[1]: it is not of type "integer""#,
            ),
        ] {
            assert_eq!(refused(text).expect_err("refused").text, said);
        }
        let no_json = refused("{").expect_err("refused").text;
        assert!(no_json.starts_with("config: EOF"), "{no_json}");
        let taken = refused(r#" {"header": "x"} "#).expect("taken");
        assert_eq!(taken, r#"{"header": "x"}"#);
        // Whatever it is, it is what that filter was given.
        let other = config(Abi::ProxyWasm021, &manifest, b"{", "config").expect("taken");
        assert_eq!(other, "{");
        let plugin = config(Abi::Weft, &manifest, b"{}", "pluginConfig").expect_err("refused");
        assert_eq!(plugin.text, "pluginConfig.header: it is missing");
    }

    #[test]
    fn what_is_not_limited_has_the_defaults() {
        assert_eq!(limits(&FilterLimits::default()), Limits::default());
        let much = limits(&FilterLimits {
            memory: Some(u64::MAX),
            ..FilterLimits::default()
        });
        let said = much.check().expect_err("beyond");
        assert!(said.starts_with("limits.memory is "), "{said}");
    }
}
