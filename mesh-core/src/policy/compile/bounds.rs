//! How much the policy of one endpoint may come to.

use std::collections::HashMap;
use std::fmt;

use super::Atom;
use crate::policy::RuleRef;

/// Bounds of one endpoint's policy. Every object is in its own bounds; several
/// that select the same pods, or one against many identities, may exceed these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Entries of the policy map.
    pub entries: usize,
    /// What the proxy judges, in bytes: a rule's peers and requests, counted
    /// for every range of ports on which it holds.
    pub http_bytes: usize,
    /// The tables of expressions that the proxy needs for it, in bytes, counted
    /// likewise.
    pub http_tables: usize,
}

impl Bounds {
    /// Those of the agent unless it is told otherwise: a sixteenth of the
    /// kernel's map and of the largest snapshot, a quarter of the tables that the
    /// proxy keeps. The agent, which knows all three, is not built otherwise.
    pub const USUAL: Self = Self {
        entries: 16_384,
        http_bytes: 4 << 20,
        http_tables: 64 << 20,
    };
}

impl Default for Bounds {
    fn default() -> Self {
        Self::USUAL
    }
}

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounded {
    /// The rules themselves, a port of a protocol each: nothing of them is
    /// compiled when they are too many.
    Rules,
    /// [`Bounds::entries`].
    Entries,
    /// What is looked at to make the entries: those that several rules make
    /// count for each of them.
    EntrySteps,
    /// [`Bounds::http_bytes`].
    HttpBytes,
    /// [`Bounds::http_tables`].
    HttpTables,
    /// The rules that are looked at for what the proxy judges, counted for every
    /// range of ports.
    HttpSteps,
    /// Ranges of addresses that need an identity, of all policies of a node.
    Ranges,
    /// Entries of the policy map, of all endpoints of a node.
    NodeEntries,
    /// [`Bounds::entries`], on account of ranges of addresses that only rules for
    /// other endpoints name.
    OthersRanges,
    /// Filters in the way of its requests, counted on every range of ports.
    Filters,
}

impl Bounded {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Rules,
        Self::Entries,
        Self::EntrySteps,
        Self::HttpBytes,
        Self::HttpTables,
        Self::HttpSteps,
        Self::Ranges,
        Self::NodeEntries,
        Self::OthersRanges,
        Self::Filters,
    ];

    /// A word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Entries => "entries",
            Self::EntrySteps => "entry_steps",
            Self::HttpBytes => "http_bytes",
            Self::HttpTables => "http_tables",
            Self::HttpSteps => "http_steps",
            Self::Ranges => "ranges",
            Self::NodeEntries => "node_entries",
            Self::OthersRanges => "others_ranges",
            Self::Filters => "filters",
        }
    }
}

/// A bound that an endpoint's policies exceed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Of what there is too much.
    pub of: Bounded,
    /// How much there may be.
    pub limit: usize,
    /// The object that has most of it, and how much.
    pub most: Option<(String, usize)>,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit;
        let what = match self.of {
            Bounded::Ranges => {
                write!(
                    f,
                    "the policies for pods of this node name more than {limit} ranges of addresses"
                )?;
                if let Some((object, amount)) = &self.most {
                    write!(f, ", and there is no room for {amount} of {object}")?;
                }
                return Ok(());
            }
            Bounded::NodeEntries => {
                write!(
                    f,
                    "the policies for all pods of this node come to more than {limit} policy entries"
                )?;
                if let Some((namespace, amount)) = &self.most {
                    write!(f, ", most of them those for {namespace}: {amount}")?;
                }
                return Ok(());
            }
            Bounded::OthersRanges => {
                write!(
                    f,
                    "with the ranges of addresses that only policies for other pods of this node \
                     name, its policies come to more than {limit} policy entries"
                )?;
                if let Some((object, amount)) = &self.most {
                    write!(f, "; most of these ranges are {object}'s: {amount}")?;
                }
                return Ok(());
            }
            Bounded::Filters => {
                write!(
                    f,
                    "the filters that are attached to it come to more than {limit} (counted on \
                     every range of ports)"
                )?;
                if let Some((object, amount)) = &self.most {
                    write!(f, "; most of them are {object}'s: {amount}")?;
                }
                return Ok(());
            }
            Bounded::Rules => "rules of one port and protocol",
            Bounded::Entries => "policy entries (peers times ports)",
            Bounded::EntrySteps => {
                "policy entries (peers times ports, the same ones counted for every rule that \
                 makes them)"
            }
            Bounded::HttpBytes => "bytes of HTTP rules (counted on every range of ports)",
            Bounded::HttpTables => "bytes for expressions in HTTP rules",
            Bounded::HttpSteps => {
                "rules on ports with HTTP rules or filters (counted on every range of ports)"
            }
        };
        write!(f, "its policies come to more than {limit} {what}")?;
        if let Some((object, amount)) = &self.most {
            write!(f, "; most of them are {object}'s: {amount}")?;
        }
        Ok(())
    }
}

impl Excess {
    /// Names the object to which most is due, by how much each atom has.
    pub(super) fn new<'a>(
        of: Bounded,
        limit: usize,
        atoms: impl IntoIterator<Item = (&'a Atom, usize)>,
    ) -> Self {
        let mut by_object: HashMap<_, usize> = HashMap::new();
        for (atom, amount) in atoms {
            if let Some(rule) = &atom.rule {
                let object = (&rule.kind, &rule.namespace, &rule.name);
                *by_object.entry(object).or_default() += amount;
            }
        }
        // Of equals the first by name, so that it is always the same one.
        let most = by_object
            .into_iter()
            .max_by(|(one, less), (other, more)| less.cmp(more).then(other.cmp(one)))
            .map(|((kind, namespace, name), amount)| {
                let object = RuleRef {
                    kind: kind.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    rule: "".into(),
                };
                (object.object(), amount)
            });
        Self { of, limit, most }
    }
}
