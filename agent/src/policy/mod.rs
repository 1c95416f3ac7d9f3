//! The policies in force: every object's newest version if it is valid, else
//! the last valid one of the same object.

mod last_good;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_api::k8s::{
    CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy, FieldError, FieldErrors, PolicyObject as _,
};
use weft_core::policy::{PolicyKind, Rule, RuleRef};

pub use last_good::{Keep, Kept, KeptKind, LastGood, LastGoodError, Saved};

use crate::state::{ObjectKey, PolicyObject};
use crate::status::RejectedPolicy;

/// Kind, namespace and name of a policy.
pub type PolicyId = (PolicyKind, ObjectKey);

/// The rules that a policy object stands for.
///
/// # Errors
/// Every field that is wrong, with its path.
pub fn parse(kind: PolicyKind, raw: &Value) -> Result<Vec<Rule>, FieldErrors> {
    match kind {
        PolicyKind::CiliumNetworkPolicy => read::<CiliumNetworkPolicy>(raw)?.rules(),
        PolicyKind::CiliumClusterwideNetworkPolicy => {
            read::<CiliumClusterwideNetworkPolicy>(raw)?.rules()
        }
    }
}

fn read<T: DeserializeOwned>(raw: &Value) -> Result<T, FieldErrors> {
    T::deserialize(raw).map_err(|error| {
        FieldErrors(vec![FieldError {
            path: "metadata".into(),
            message: error.to_string(),
        }])
    })
}

/// What is known of an object, and what of it is in force.
struct Known {
    uid: String,
    /// The version that was read last, valid or not.
    seen: Arc<Value>,
    rules: Vec<Arc<Rule>>,
    errors: Vec<String>,
    /// Whether `rules` are of a version of this object that was valid.
    valid_once: bool,
}

impl Known {
    /// Whether it was read from this very version. Comparing whole objects is
    /// for those that were listed again.
    fn is_of(&self, object: &PolicyObject) -> bool {
        let same = || Arc::ptr_eq(&self.seen, &object.raw) || self.seen == object.raw;
        self.uid == object.uid && same()
    }
}

/// The policy objects and what is in force of them.
#[derive(Default)]
pub struct Repository {
    objects: BTreeMap<PolicyId, Known>,
    /// Valid versions from before the agent's restart.
    saved: BTreeMap<PolicyId, Saved>,
}

impl Repository {
    /// Starts from what was kept on disk. Nothing of it is in force until the
    /// object itself is seen in the API.
    pub fn new(saved: BTreeMap<PolicyId, Saved>) -> Self {
        Self {
            objects: BTreeMap::new(),
            saved,
        }
    }

    /// Takes the objects in the API in; what is not among them is forgotten.
    /// Returns whether the rules in force changed, and what to keep on disk.
    pub fn update(&mut self, current: &BTreeMap<PolicyId, PolicyObject>) -> (bool, Vec<Keep>) {
        let mut changed = false;
        let mut keep = Vec::new();
        self.objects.retain(|id, old| {
            let stays = current.contains_key(id);
            changed |= !stays && !old.rules.is_empty();
            stays
        });
        let gone: Vec<_> = self
            .saved
            .keys()
            .filter(|id| !current.contains_key(id))
            .cloned()
            .collect();
        for id in gone {
            self.saved.remove(&id);
            keep.push(Keep::Forget(id));
        }
        for (id, object) in current {
            let known = self.objects.get(id);
            if known.is_some_and(|known| known.is_of(object)) {
                continue;
            }
            let (next, save) = self.next(id, object);
            changed |= self
                .objects
                .get(id)
                .is_none_or(|known| known.rules != next.rules);
            if let Some(save) = save {
                self.saved.insert(id.clone(), save.clone());
                keep.push(Keep::Save(id.clone(), save));
            }
            self.objects.insert(id.clone(), next);
        }
        (changed, keep)
    }

    fn next(&self, id: &PolicyId, object: &PolicyObject) -> (Known, Option<Saved>) {
        let mut next = Known {
            uid: object.uid.clone(),
            seen: object.raw.clone(),
            rules: Vec::new(),
            errors: Vec::new(),
            valid_once: true,
        };
        match parse(id.0, &object.raw) {
            Ok(rules) => {
                next.rules = shared(rules);
                let save = Saved {
                    uid: object.uid.clone(),
                    object: (*object.raw).clone(),
                };
                let new = self.saved.get(id) != Some(&save);
                (next, new.then_some(save))
            }
            Err(errors) => {
                next.errors = errors.0.iter().map(ToString::to_string).collect();
                // Deleted and made again under the same name is another
                // object: nothing of the old one holds for it.
                let good = self.saved.get(id).filter(|saved| saved.uid == object.uid);
                let rules = good.and_then(|saved| parse(id.0, &saved.object).ok());
                next.valid_once = rules.is_some();
                next.rules = shared(rules.unwrap_or_default());
                (next, None)
            }
        }
    }

    /// All rules in force, in a stable order. Those of objects that did not
    /// change are the same as before.
    pub fn rules(&self) -> Vec<Arc<Rule>> {
        self.objects
            .values()
            .flat_map(|object| object.rules.iter().cloned())
            .collect()
    }

    /// Whether this rule's object exists.
    pub fn has_object_of(&self, rule: &RuleRef) -> bool {
        const KINDS: [PolicyKind; 2] = [
            PolicyKind::CiliumNetworkPolicy,
            PolicyKind::CiliumClusterwideNetworkPolicy,
        ];
        let kind = KINDS.into_iter().find(|kind| kind.as_str() == &*rule.kind);
        kind.is_some_and(|kind| {
            let key = ObjectKey::new(&*rule.namespace, &*rule.name);
            self.objects.contains_key(&(kind, key))
        })
    }

    /// The objects that are refused, and why.
    pub fn rejected(&self) -> Vec<RejectedPolicy> {
        self.objects
            .iter()
            .filter(|(_, object)| !object.errors.is_empty())
            .map(|((kind, key), object)| RejectedPolicy {
                kind: kind.as_str().into(),
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                reasons: object.errors.clone(),
                last_good: object.valid_once,
            })
            .collect()
    }
}

fn shared(rules: Vec<Rule>) -> Vec<Arc<Rule>> {
    rules.into_iter().map(Arc::new).collect()
}

#[cfg(test)]
mod tests;
