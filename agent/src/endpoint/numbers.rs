//! Numbers of endpoints.

use std::collections::BTreeSet;

use weft_core::model::fnv1a;

use crate::state::ObjectKey;

/// Numbers fit flows and log lines: 1 to 65535.
const SPAN: u64 = 65535;

/// A number for a pod that has none yet.
///
/// It follows from the pod (uid included, so a pod made again under its name
/// gets another one and nothing of the old one is taken for its own); a number
/// in use by another endpoint is passed over. `None` when all are in use.
pub fn number(key: &ObjectKey, uid: &str, used: &BTreeSet<u32>) -> Option<u32> {
    let start = fnv1a([key.namespace.as_str(), &key.name, uid]) % SPAN;
    (0..SPAN)
        .filter_map(|offset| u32::try_from((start + offset) % SPAN + 1).ok())
        .find(|id| !used.contains(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_made_again_gets_another_number() {
        let key = ObjectKey::new("default", "xwing");
        let none = BTreeSet::new();
        assert_ne!(number(&key, "a", &none), number(&key, "b", &none));
        assert_eq!(number(&key, "a", &none), number(&key, "a", &none));
    }

    #[test]
    fn numbers_in_use_are_passed_over_and_run_out() {
        let key = ObjectKey::new("default", "xwing");
        let first = number(&key, "a", &BTreeSet::new()).expect("a number");
        let second = number(&key, "a", &BTreeSet::from([first])).expect("a number");
        assert_ne!(first, second);
        let all: BTreeSet<u32> = (1..=65535).collect();
        assert_eq!(number(&key, "a", &all), None);
    }
}
