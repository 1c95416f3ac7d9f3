//! The last version of each filter that came into force on this node: what
//! serves after a restart while the one that is wanted cannot.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use weft_api::node as wire;
use weft_core::filter::{FilterKey, FilterSpec};
use weft_wasm_host::Digest;

use super::modules;
use crate::control::convert;

const NAME: &str = "filters.json";

/// A filter as it was wanted when it came into force.
#[derive(Debug, Clone)]
struct Good {
    wire: Arc<wire::Filter>,
    spec: Arc<FilterSpec>,
}

/// By filter.
#[derive(Debug, Default)]
pub struct LastGood {
    state: Option<PathBuf>,
    filters: HashMap<FilterKey, Good>,
    changed: bool,
}

impl LastGood {
    /// What was stored in the folder `state`. What cannot be read is as good as
    /// nothing: the versions that are wanted are loaded all the same.
    #[must_use]
    pub fn load(state: Option<PathBuf>) -> Self {
        let filters = match state.as_ref().map(|state| read(&state.join(NAME))) {
            Some(Ok(filters)) => filters,
            Some(Err(error)) => {
                tracing::warn!(%error, "last good versions of filters are of no use");
                HashMap::new()
            }
            None => HashMap::new(),
        };
        Self {
            state,
            filters,
            changed: false,
        }
    }

    /// The last good version of a filter.
    #[must_use]
    pub fn get(&self, key: &FilterKey) -> Option<&Arc<FilterSpec>> {
        Some(&self.filters.get(key)?.spec)
    }

    /// This version came into force.
    pub fn set(&mut self, wire: &Arc<wire::Filter>, spec: &Arc<FilterSpec>) {
        let good = Good {
            wire: Arc::clone(wire),
            spec: Arc::clone(spec),
        };
        let before = self.filters.insert(spec.key.clone(), good);
        self.changed |= before.is_none_or(|before| before.spec != *spec);
    }

    /// Forgets all filters but these.
    pub fn retain(&mut self, keys: &HashSet<&FilterKey>) {
        let before = self.filters.len();
        self.filters.retain(|key, _good| keys.contains(key));
        self.changed |= self.filters.len() != before;
    }

    /// Modules of all of them.
    pub fn modules(&self) -> impl Iterator<Item = Digest> {
        let modules = self.filters.values().filter_map(|good| good.spec.module);
        modules.filter_map(|module| module.to_string().parse().ok())
    }

    /// Stores what has changed. What cannot be stored is tried again the next
    /// time.
    pub fn save(&mut self) {
        let (true, Some(state)) = (self.changed, &self.state) else {
            return;
        };
        let mut filters: Vec<_> = self.filters.iter().collect();
        filters.sort_by_key(|(key, _good)| *key);
        let snapshot = wire::Snapshot {
            filters: filters
                .into_iter()
                .map(|(_key, good)| (*good.wire).clone())
                .collect(),
            ..Default::default()
        };
        let written = serde_json::to_vec(&snapshot)
            .map_err(io::Error::from)
            .and_then(|text| modules::write(state, &state.join(NAME), &text));
        match written {
            Ok(()) => self.changed = false,
            Err(error) => tracing::warn!(%error, "last good versions of filters not stored"),
        }
    }
}

/// Reads the filters of a snapshot that has nothing else.
fn read(path: &std::path::Path) -> Result<HashMap<FilterKey, Good>, String> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let snapshot: wire::Snapshot =
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let specs = convert::filters(&snapshot).map_err(|error| error.to_string())?;
    let filters = snapshot.filters.into_iter().zip(specs);
    Ok(filters
        .map(|(wire, spec)| {
            let wire = Arc::new(wire);
            (spec.key.clone(), Good { wire, spec })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use weft_api::node as wire;
    use weft_core::filter::FilterSpec;

    use super::{LastGood, NAME};
    use crate::control::convert;

    fn filter(name: &str, config: &str) -> (Arc<wire::Filter>, Arc<FilterSpec>) {
        let wire = wire::Filter {
            kind: "WeftFilter".into(),
            namespace: "default".into(),
            name: name.into(),
            sha256: "ab".repeat(32),
            config: config.as_bytes().to_vec(),
            ..Default::default()
        };
        let snapshot = wire::Snapshot {
            filters: vec![wire.clone()],
            ..Default::default()
        };
        let mut specs = convert::filters(&snapshot).expect("valid");
        (Arc::new(wire), specs.remove(0))
    }

    #[test]
    fn what_was_good_survives_a_restart() {
        let state = tempfile::tempdir().expect("a folder");
        let mut good = LastGood::load(Some(state.path().to_owned()));
        let (wire, one) = filter("one", "{}");
        let (other_wire, other) = filter("other", r#"{"secret": 1}"#);
        good.set(&wire, &one);
        good.set(&other_wire, &other);
        good.save();
        let mut good = LastGood::load(Some(state.path().to_owned()));
        assert_eq!(good.get(&one.key), Some(&one));
        assert_eq!(good.get(&other.key), Some(&other));
        assert_eq!(good.modules().count(), 2);
        good.retain(&HashSet::from([&one.key]));
        good.save();
        let good = LastGood::load(Some(state.path().to_owned()));
        assert_eq!(good.get(&other.key), None, "it is gone");
        assert_eq!(good.get(&one.key), Some(&one));
    }

    #[test]
    fn nothing_is_written_where_nothing_has_changed() {
        let state = tempfile::tempdir().expect("a folder");
        let file = state.path().join(NAME);
        let mut good = LastGood::load(Some(state.path().to_owned()));
        good.save();
        assert!(!file.exists());
        let (wire, spec) = filter("one", "{}");
        good.set(&wire, &spec);
        good.save();
        std::fs::remove_file(&file).expect("there");
        good.set(&wire, &spec);
        good.save();
        assert!(!file.exists());
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let state = tempfile::tempdir().expect("a folder");
        std::fs::write(state.path().join(NAME), "{\"filters\": [{").expect("written");
        let (wire, spec) = filter("one", "{}");
        let mut good = LastGood::load(Some(state.path().to_owned()));
        assert_eq!(good.get(&spec.key), None);
        good.set(&wire, &spec);
        good.save();
        let good = LastGood::load(Some(state.path().to_owned()));
        assert_eq!(good.get(&spec.key), Some(&spec));
    }
}
