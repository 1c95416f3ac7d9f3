//! What of several schemas the library puts together: of forms, to see by one field which of them
//! a value can have, and of `allOf`, to look at each field once.

use super::{Graph, Node};

/// Comparisons that it may take: within a second or so.
const MAX_COMPARISONS: u64 = 100_000_000;

/// What is found on all ways on from a schema that stay with the same value. The library goes each
/// way, also where several lead to the same schema.
#[derive(Clone, Copy, Default)]
struct Found {
    schemas: u64,
    /// Names of fields, and what else they say.
    names: u64,
}

impl Found {
    fn and(self, other: Self) -> Self {
        Self {
            schemas: self.schemas.saturating_add(other.schemas),
            names: self.names.saturating_add(other.names),
        }
    }

    fn of(asked: &[usize], found: &[Self]) -> Self {
        let asked = asked.iter().map(|&at| found[at]);
        asked.fold(Self::default(), Self::and)
    }
}

impl Graph<'_> {
    /// Refuses what takes too long to put together, whether a configuration asks it or not. In this
    /// order each schema comes after those that it asks about the same value.
    pub(super) fn together(&self, order: &[usize]) -> Result<(), String> {
        let mut found = vec![Found::default(); self.nodes.len()];
        let mut comparisons = 0_u64;
        for &at in order {
            let node = &self.nodes[at];
            let own = Found {
                schemas: 1,
                names: node.weight,
            };
            found[at] = own.and(Found::of(&node.here, &found));
            comparisons = comparisons.saturating_add(self.comparisons(node, &found));
            if comparisons > MAX_COMPARISONS {
                return Err("to put its anyOf, oneOf and allOf together takes too long".to_owned());
            }
        }
        Ok(())
    }

    fn comparisons(&self, node: &Node<'_>, found: &[Found]) -> u64 {
        // Each name is looked for in each form.
        let forms = Found::of(&node.forms, found);
        let forms = forms.schemas.saturating_mul(forms.names);
        // Each name is compared with all before it.
        let merged = if node.merged {
            let all = Found::of(&node.here, found);
            all.names.saturating_mul(all.names)
        } else {
            0
        };
        forms.saturating_add(merged)
    }
}

#[cfg(test)]
mod tests;
