//! Numbers for what filters are: two of one number are the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_core::filter::{FilterKey, FilterSpec};

use super::objects::InForce;

/// The numbers that were given last.
#[derive(Debug, Default)]
pub struct Revisions {
    last: u64,
    known: BTreeMap<FilterKey, (Arc<FilterSpec>, u64)>,
}

impl Revisions {
    /// Numbers all filters that there are.
    pub fn number(&mut self, filters: &mut [InForce]) {
        let mut before = std::mem::take(&mut self.known);
        for InForce { key, filter, .. } in filters {
            let known = before.remove(key).filter(|(spec, _)| *spec == filter.spec);
            let (spec, revision) = known.unwrap_or_else(|| {
                self.last += 1;
                (filter.spec.clone(), self.last)
            });
            filter.revision = revision;
            filter.spec = spec.clone();
            self.known.insert(key.clone(), (spec, revision));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::filters::testing::{filter, spec};

    #[test]
    fn what_is_the_same_keeps_its_number() {
        let mut revisions = Revisions::default();
        let mut numbered = |config: &[u8]| {
            let spec = FilterSpec {
                config: config.into(),
                ..spec("jwt")
            };
            let mut one = [InForce {
                key: spec.key.clone(),
                generation: 1,
                problem: None,
                warning: None,
                filter: filter(spec, &[]),
            }];
            revisions.number(&mut one);
            one[0].filter.revision
        };
        let (first, second) = (numbered(b"a"), numbered(b"b"));
        assert_ne!(first, second);
        assert_eq!(numbered(b"b"), second);
        assert!(numbered(b"a") > second);
    }
}
