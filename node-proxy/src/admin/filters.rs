//! What became of the filters, for humans.

use serde_json::{Value, json};
use weft_wasm_host::clock::{Clock, SystemClock};
use weft_wasm_host::{Abi, Filter};

use crate::filter::listing::{FilterState, Listing};

/// All filters of the snapshot in force. Configurations are not shown: they may
/// hold secrets.
pub(super) fn filters(listing: &Listing) -> Value {
    let now = SystemClock.monotonic();
    let filters: Vec<_> = listing.filters.iter().map(|it| filter(it, now)).collect();
    json!({ "version": listing.version, "filters": filters })
}

fn filter(state: &FilterState, now: u64) -> Value {
    let filter = &state.filter;
    let current = filter.published.current();
    let quarantined = filter.budget.quarantined(now);
    let milliseconds = |until: u64| until.saturating_sub(now) / 1_000_000;
    json!({
        "kind": filter.key.kind.as_str(),
        "namespace": &*filter.key.namespace,
        "name": &*filter.key.name,
        "state": word(state, current.is_some()),
        "wanted": state.wanted.map(|digest| digest.to_string()),
        "loaded": state.loaded,
        "configured": state.configured,
        "error": state.error.as_deref(),
        "in_force": current.map(|current| in_force(&current)),
        "slowed": filter.budget.slowed(now),
        "quarantined_ms": quarantined.map(milliseconds),
        "values": { "keys": filter.shared.kv.keys(), "bytes": filter.shared.kv.bytes() },
    })
}

/// In one word.
fn word(state: &FilterState, serves: bool) -> &'static str {
    match (state.configured, &state.error, serves) {
        (true, _, _) => "in force",
        (false, Some(_), true) => "last good version in force",
        (false, Some(_), false) => "failed",
        (false, None, true) => "last good version in force, loading",
        (false, None, false) => "loading",
    }
}

fn in_force(filter: &Filter) -> Value {
    let (module, manifest) = (filter.module(), filter.manifest());
    json!({
        "module": module.digest().hex(),
        "abi": module.abi().to_string(),
        "filter": manifest.name,
        "version": manifest.version,
        "sdk": manifest.sdk,
        "bytes": module.size(),
        "load_us": u64::try_from(module.took().as_micros()).ok(),
        "compiled_before": module.cached(),
        "start_us": u64::try_from(filter.start_cost().as_micros()).ok(),
        "unknown_imports": match module.abi() {
            Abi::Weft => None,
            Abi::ProxyWasm020 | Abi::ProxyWasm021 => Some(module.unknown_imports()),
        },
    })
}
