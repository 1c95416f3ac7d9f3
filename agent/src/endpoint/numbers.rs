//! Numbers of endpoints.

use std::collections::BTreeSet;

use crate::state::ObjectKey;

/// Numbers fit flows and log lines: 1 to 65535.
const SPAN: u64 = 65535;

/// A number for a pod that has none yet.
///
/// It follows from the pod (uid included, so a pod made again under its name
/// gets another one and nothing of the old one is taken for its own); a number
/// in use by another endpoint is passed over. `None` when all are in use.
pub fn number(key: &ObjectKey, uid: &str, used: &BTreeSet<u32>) -> Option<u32> {
    let start = hash(&[&key.namespace, &key.name, uid]) % SPAN;
    (0..SPAN)
        .filter_map(|offset| u32::try_from((start + offset) % SPAN + 1).ok())
        .find(|id| !used.contains(id))
}

/// Over the parts, each ended by a zero byte.
fn hash(parts: &[&str]) -> u64 {
    let bytes: Vec<u8> = parts
        .iter()
        .flat_map(|part| part.bytes().chain([0]))
        .collect();
    hash_bytes(&bytes)
}

/// FNV-1a. Not the standard library's: a restart with another build must come
/// to the same number.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits mix poorly; fold the high half in.
    hash ^ (hash >> 32)
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
