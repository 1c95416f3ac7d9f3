//! Filters for snapshots.

use weft_api::node::{Filter, FilterOnError, FilterPhase, FilterStep};
use weft_wasm_host::Digest;

pub use super::modules::module;

/// The filter that does what requests tell it to (`integration/guests/probe`).
pub fn probe() -> Vec<u8> {
    module("integration/guests/probe", "guest-probe")
}

/// A filter of this module, fail closed.
pub fn filter(name: &str, module: &[u8], config: &str) -> Filter {
    Filter {
        kind: "WeftFilter".into(),
        namespace: "default".into(),
        name: name.into(),
        sha256: digest(module),
        config: config.as_bytes().to_vec(),
        ..Default::default()
    }
}

/// The same that lets requests go on when it fails.
pub fn open(filter: Filter) -> Filter {
    let on_error = FilterOnError {
        load: 1,
        config: 1,
        trap: 1,
        timeout: 1,
    };
    Filter {
        on_error: Some(on_error),
        ..filter
    }
}

/// As snapshots name modules.
pub fn digest(module: &[u8]) -> String {
    Digest::of(module).hex()
}

/// The filter at this position, in this phase.
pub fn step(phase: FilterPhase, filter: u32) -> FilterStep {
    FilterStep {
        phase: phase.into(),
        filter,
    }
}
