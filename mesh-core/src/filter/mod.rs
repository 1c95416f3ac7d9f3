//! Users' filters, as the mesh knows them: which one, where in a request's way,
//! on whose traffic, and what becomes of requests when it fails. The code of a
//! filter runs in the proxy and is nothing to this crate.

mod chain;
mod intercept;
pub mod target;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use chain::{Attached, Chain, ChainSpec, Step};
pub use intercept::Intercept;

use crate::model::EndpointId;

/// What kind of object a filter comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FilterKind {
    /// Of a namespace.
    WeftFilter,
    /// Of the cluster.
    WeftClusterFilter,
    /// Istio's resource for proxy-wasm modules.
    WasmPlugin,
}

impl FilterKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WeftFilter, Self::WeftClusterFilter, Self::WasmPlugin];

    /// As manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WeftFilter => "WeftFilter",
            Self::WeftClusterFilter => "WeftClusterFilter",
            Self::WasmPlugin => "WasmPlugin",
        }
    }

    /// The kind that manifests write so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Which object a filter comes from. What a filter shares and counts is kept
/// under this name, whatever version of it runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterKey {
    /// Kind of the object.
    pub kind: FilterKind,
    /// Its namespace; empty for clusterwide objects.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl fmt::Display for FilterKey {
    /// `WeftFilter default/jwt`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{} {}", self.kind.as_str(), self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
        }
    }
}

/// Where in a request's way a filter runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Before policy judges: policy sees what the filter made of the request.
    /// For clusterwide filters only, since they see what others' policy denies.
    BeforePolicy,
    /// On requests that policy allows. What a filter changes is judged again.
    #[default]
    AfterPolicy,
    /// When it is known where the request goes, last before it is sent.
    Upstream,
}

impl Phase {
    /// In the order of a request.
    pub const ALL: [Self; 3] = [Self::BeforePolicy, Self::AfterPolicy, Self::Upstream];

    /// As manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeforePolicy => "beforePolicy",
            Self::AfterPolicy => "afterPolicy",
            Self::Upstream => "upstream",
        }
    }
}

/// What becomes of a request when a filter fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailPolicy {
    /// It is answered with 503.
    #[default]
    Closed,
    /// It goes on as if the filter were not there.
    Open,
}

/// A policy for each kind of failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OnError {
    /// The module is not there.
    pub load: FailPolicy,
    /// It refused its configuration.
    pub config: FailPolicy,
    /// It trapped, or had no answer that can be used.
    pub trap: FailPolicy,
    /// It ran too long, or its namespace has used up its CPU time.
    pub timeout: FailPolicy,
}

impl OnError {
    /// The same policy for every kind.
    pub const fn all(policy: FailPolicy) -> Self {
        Self {
            load: policy,
            config: policy,
            trap: policy,
            timeout: policy,
        }
    }
}

/// Who shares an instance of a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// All requests of a worker.
    #[default]
    Worker,
    /// Nobody: each request has one of its own.
    Request,
}

/// A module by its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleDigest(pub [u8; 32]);

impl ModuleDigest {
    /// Reads 64 hexadecimal digits, with or without `sha256:` before them.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let mut digest = [0; 32];
        if hex.len() != 2 * digest.len() {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            let digit = |letter: &u8| char::from(*letter).to_digit(16);
            *byte = u8::try_from(digit(high)? << 4 | digit(low)?).ok()?;
        }
        Some(Self(digest))
    }
}

impl fmt::Display for ModuleDigest {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModuleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What one filter may take; what is `None` has the proxy's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilterLimits {
    /// CPU time of one event.
    pub deadline: Option<Duration>,
    /// CPU time to start and to take the configuration.
    pub start_deadline: Option<Duration>,
    /// Bytes of memory of one instance.
    pub memory: Option<u64>,
    /// Requests in one instance at once.
    pub contexts: Option<u32>,
    /// Bytes of a body that are held for it.
    pub held_body: Option<u64>,
    /// Requests of its own that one request may have under way at once.
    pub fetches_per_context: Option<u32>,
    /// Longest time that a request of its own may take.
    pub fetch_timeout: Option<Duration>,
    /// Bytes of the body of a request of its own, and of the answer.
    pub fetch_body: Option<u64>,
}

/// What only proxy-wasm filters are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plugin {
    /// Its name; that of the object where it is empty.
    pub name: Box<str>,
    /// One module may hold several filters; this says which one it is to be.
    pub root_id: Box<str>,
    /// Of the shared machine, in words of Envoy.
    pub vm_id: Box<str>,
    /// Given to `proxy_on_vm_start`.
    pub vm_config: Box<[u8]>,
}

/// A filter that is attached somewhere on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSpec {
    /// The object that it comes from.
    pub key: FilterKey,
    /// Its module; none while it is not there, which is a failure to load.
    pub module: Option<ModuleDigest>,
    /// Why there is no module, or what else is wrong with the object.
    pub problem: Option<Box<str>>,
    /// Its configuration: JSON for our own ABI, any bytes for proxy-wasm.
    pub config: Arc<[u8]>,
    /// What it may take.
    pub limits: FilterLimits,
    /// What becomes of requests when it fails.
    pub on_error: OnError,
    /// Who shares an instance.
    pub isolation: Isolation,
    /// Services that it may ask, as its code names them.
    pub callouts: Arc<[Box<str>]>,
    /// Of a proxy-wasm filter.
    pub plugin: Plugin,
}

/// A Service that filters may ask, and who of this node may ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callout {
    /// `name.namespace:port`.
    pub service: Box<str>,
    /// Those behind it that are ready.
    pub backends: Box<[Backend]>,
}

/// One that answers for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub address: std::net::SocketAddr,
    /// Pods of this node that policy lets connect to it, sorted. What they may
    /// ask it is judged like any request of theirs.
    pub from: Box<[EndpointId]>,
}

#[cfg(test)]
mod tests {
    use super::{FilterKey, FilterKind, ModuleDigest};

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let text = "00ff".repeat(16);
        let digest = ModuleDigest::parse(&text).expect("a digest");
        assert_eq!(digest.to_string(), text);
        assert_eq!(ModuleDigest::parse(&format!("sha256:{text}")), Some(digest));
        for wrong in ["", "00", &"0g".repeat(32), &"0".repeat(63)] {
            assert_eq!(ModuleDigest::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_reads_as_people_name_objects() {
        let key = |kind, namespace: &str| FilterKey {
            kind,
            namespace: namespace.into(),
            name: "jwt".into(),
        };
        let one = key(FilterKind::WeftFilter, "default");
        assert_eq!(one.to_string(), "WeftFilter default/jwt");
        let all = key(FilterKind::WeftClusterFilter, "");
        assert_eq!(all.to_string(), "WeftClusterFilter jwt");
        for kind in FilterKind::ALL {
            assert_eq!(FilterKind::from_name(kind.as_str()), Some(kind));
        }
    }
}
