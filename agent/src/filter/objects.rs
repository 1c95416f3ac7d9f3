//! The filters in force: of each object the newest version whose module is on
//! this node. Until it is, and while the newest is refused, the one before it
//! serves, also after a restart of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tracing::{info, warn};
use weft_api::k8s::filter::{Filter, ModuleSource, read};
use weft_core::filter::{FilterKey, FilterKind, FilterLimits, FilterSpec, ModuleDigest, Plugin};

use super::modules::Wanted;
use super::{Awaited, ResolvedFilter};
use crate::policy::{Keep, Kept, KeptKind, LastGood, Saved};
use crate::state::{Delta, Keyed as _, ObjectKey, PolicyObject};

impl KeptKind for FilterKind {
    fn name(self) -> &'static str {
        self.as_str()
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::from_name(name)
    }
}

/// Kind, namespace and name of a filter's object.
pub type FilterId = (FilterKind, ObjectKey);

/// A version of an object that was good.
#[derive(Debug)]
struct Good {
    filter: Filter,
    generation: i64,
}

/// Why there is no module where nothing went wrong.
const WAITING: &str = "its module is not on this node yet";

/// What is known of an object.
struct Known {
    seen: PolicyObject,
    /// The newest version, or why it is refused.
    newest: Result<Arc<Good>, String>,
    /// The version that serves while the newest cannot.
    served: Option<Arc<Good>>,
}

/// A filter in force, and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The object.
    pub key: FilterKey,
    /// Version of the object that is in force.
    pub generation: i64,
    /// Why the newest version is not in force, or why it has no module.
    pub problem: Option<String>,
    /// What else is wrong: it could not be seen whether there is a newer module.
    pub warning: Option<String>,
    /// What is in force.
    pub filter: ResolvedFilter,
}

/// The objects, and what of them was kept.
pub struct Objects {
    known: BTreeMap<FilterId, Known>,
    listed: BTreeSet<FilterKind>,
    saved: Kept<FilterKind>,
    last_good: LastGood<FilterKind>,
    unsaved: Vec<Keep<FilterKind>>,
}

impl Objects {
    /// Starts from what was kept. Nothing of it is in force until the object
    /// itself is seen in the API.
    pub fn new(last_good: LastGood<FilterKind>, saved: Kept<FilterKind>) -> Self {
        Self {
            known: BTreeMap::new(),
            listed: BTreeSet::new(),
            saved,
            last_good,
            unsaved: Vec::new(),
        }
    }

    /// The kinds of which something was kept.
    pub fn kept(&self) -> BTreeSet<FilterKind> {
        self.saved.keys().map(|(kind, _)| *kind).collect()
    }

    /// Whether all kinds were listed: before that, what is missing cannot be told
    /// from what is gone.
    pub fn complete(&self) -> bool {
        self.listed.len() == FilterKind::ALL.len()
    }

    /// Takes a change in.
    pub fn apply(&mut self, kind: FilterKind, delta: Delta<PolicyObject>) {
        match delta {
            Delta::Replace(list) => {
                self.listed.insert(kind);
                let there: BTreeSet<_> = list.iter().map(|one| (kind, one.key())).collect();
                let ids = self.known.keys().chain(self.saved.keys());
                let gone = ids.filter(|id| id.0 == kind && !there.contains(*id));
                let gone: BTreeSet<_> = gone.cloned().collect();
                for id in gone {
                    self.forget(&id);
                }
                for object in list {
                    self.see(kind, object);
                }
            }
            Delta::Apply(object) => self.see(kind, object),
            Delta::Delete(key) => self.forget(&(kind, key)),
        }
    }

    fn see(&mut self, kind: FilterKind, object: PolicyObject) {
        let id = (kind, object.key());
        if self
            .known
            .get(&id)
            .is_some_and(|known| known.seen == object)
        {
            return;
        }
        let before = self.known.remove(&id);
        // Deleted and made again under the same name is another object: nothing
        // of the old one holds for it.
        let served = match before {
            Some(known) if known.seen.uid == object.uid => known.served,
            Some(_) => None,
            None => self.saved_of(&id, &object.uid),
        };
        let newest = match read(kind, &object.raw) {
            Ok(filter) => Ok(Arc::new(Good {
                filter,
                generation: object.generation,
            })),
            Err(errors) => {
                let errors = errors.to_string();
                warn!(filter = %name(&id), %errors, "a filter is refused");
                Err(errors)
            }
        };
        let known = Known {
            seen: object,
            newest,
            served,
        };
        self.known.insert(id, known);
    }

    fn saved_of(&self, id: &FilterId, uid: &str) -> Option<Arc<Good>> {
        let saved = self.saved.get(id).filter(|saved| saved.uid == uid)?;
        let filter = read(id.0, &saved.object).ok()?;
        let generation = saved.object["metadata"]["generation"].as_i64();
        Some(Arc::new(Good {
            filter,
            generation: generation.unwrap_or_default(),
        }))
    }

    fn forget(&mut self, id: &FilterId) {
        self.known.remove(id);
        if self.saved.remove(id).is_some() {
            self.unsaved.push(Keep::Forget(id.clone()));
        }
    }

    /// The sources of all versions that are or may come in force, and who wants
    /// them: what this node needs is said by the filters' names.
    pub fn sources(&self, needed: &BTreeSet<FilterKey>) -> BTreeMap<ModuleSource, Wanted> {
        let mut sources: BTreeMap<ModuleSource, Wanted> = BTreeMap::new();
        for known in self.known.values() {
            let newest = known.newest.as_ref().ok();
            for good in newest.into_iter().chain(&known.served) {
                let Filter { key, module, .. } = &good.filter;
                let wanted = sources.entry(module.clone()).or_default();
                wanted.add(&key.namespace, needed.contains(key));
            }
        }
        sources
    }

    /// What is in force, given what sources stand for and what is wrong with them.
    pub fn in_force<'m>(
        &mut self,
        module: impl Fn(&ModuleSource) -> (Option<ModuleDigest>, Option<&'m str>),
    ) -> Vec<InForce> {
        let mut in_force = Vec::new();
        let mut promoted = Vec::new();
        for (id, known) in &mut self.known {
            let mut awaited = None;
            let (good, digest, problem) = match &known.newest {
                Ok(newest) => {
                    let (digest, problem) = module(&newest.filter.module);
                    if digest.is_some() && !same(known.served.as_ref(), newest) {
                        info!(filter = %name(id), generation = newest.generation, "in force");
                        known.served = Some(newest.clone());
                        promoted.push((id.clone(), saved(&known.seen)));
                    }
                    match (digest, &known.served) {
                        (None, Some(served)) => {
                            let (old, _) = module(&served.filter.module);
                            awaited = Some(stand_in(newest, problem));
                            (served, old, problem)
                        }
                        _ => (newest, digest, problem),
                    }
                }
                Err(errors) => {
                    let Some(served) = &known.served else {
                        continue;
                    };
                    let (old, _) = module(&served.filter.module);
                    (served, old, Some(&**errors))
                }
            };
            let newest = known
                .newest
                .as_ref()
                .is_ok_and(|newest| Arc::ptr_eq(newest, good));
            let mut one = resolved(good, digest, problem, newest);
            one.filter.awaited = awaited;
            in_force.push(one);
        }
        for (id, saved) in promoted {
            if self.saved.get(&id) != Some(&saved) {
                self.saved.insert(id.clone(), saved.clone());
                self.unsaved.push(Keep::Save(id, saved));
            }
        }
        self.keep();
        in_force
    }

    fn keep(&mut self) {
        let last_good = &self.last_good;
        self.unsaved.retain(|change| match last_good.keep(change) {
            Ok(()) => false,
            Err(error) => {
                warn!(%error, "a good version of a filter was not kept on disk, trying again");
                true
            }
        });
    }
}

fn same(served: Option<&Arc<Good>>, newest: &Arc<Good>) -> bool {
    served.is_some_and(|served| {
        served.filter == newest.filter && served.generation == newest.generation
    })
}

fn saved(seen: &PolicyObject) -> Saved {
    Saved {
        uid: seen.uid.clone(),
        object: Value::clone(&seen.raw),
    }
}

fn resolved(
    good: &Good,
    module: Option<ModuleDigest>,
    told: Option<&str>,
    newest: bool,
) -> InForce {
    let filter = &good.filter;
    let told = told.map(str::to_owned);
    let (problem, warning) = match newest && module.is_some() {
        true => (None, told),
        false => (told, None),
    };
    // Without a word there would be no reason why it is closed.
    let why = problem.clone();
    let why = why.or_else(|| module.is_none().then(|| WAITING.to_owned()));
    let spec = FilterSpec {
        key: filter.key.clone(),
        module,
        problem: why.map(Into::into),
        config: filter.config.clone(),
        limits: filter.limits,
        on_error: filter.on_error,
        isolation: filter.isolation,
        callouts: filter.callouts.clone(),
        plugin: filter.plugin.clone(),
    };
    InForce {
        key: filter.key.clone(),
        generation: good.generation,
        problem,
        warning,
        filter: ResolvedFilter {
            spec: spec.into(),
            attachments: filter.attachments.clone().into(),
            awaited: None,
            revision: 0,
        },
    }
}

/// What stands for a version whose module is not here. No object has a name like
/// this: the proxy, to which all versions of a name are one filter, would let the
/// version in force serve in its place.
fn stand_in(newest: &Good, problem: Option<&str>) -> Awaited {
    let filter = &newest.filter;
    let FilterKey {
        kind,
        namespace,
        name,
    } = filter.key.clone();
    let spec = FilterSpec {
        key: FilterKey {
            kind,
            namespace,
            name: format!("{name}@{}", newest.generation).into(),
        },
        module: None,
        problem: Some(problem.unwrap_or(WAITING).into()),
        config: Arc::default(),
        limits: FilterLimits::default(),
        on_error: filter.on_error,
        isolation: filter.isolation,
        callouts: Arc::default(),
        plugin: Plugin::default(),
    };
    Awaited {
        spec: spec.into(),
        attachments: filter.attachments.clone().into(),
    }
}

fn name((kind, key): &FilterId) -> String {
    format!("{} {key}", kind.as_str())
}

#[cfg(test)]
mod tests;
