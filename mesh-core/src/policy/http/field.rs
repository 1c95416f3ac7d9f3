//! One field of a request against all rules that say something about it.

use std::collections::HashMap;

use super::automaton::PatternSet;
use super::bits::Bits;
use super::re2::{self, Shape};

/// Up to this many texts are compared one by one: cheaper than hashing. More
/// literals are hashed, more prefixes go into the table.
const FEW: usize = 8;

/// The patterns of one field of all rules.
#[derive(Debug)]
pub(super) struct FieldMatcher {
    /// Rules that say nothing about the field.
    unconstrained: Bits,
    few_literals: Vec<(Box<str>, Bits)>,
    many_literals: HashMap<Box<str>, Bits>,
    prefixes: Vec<(Box<str>, Bits)>,
    patterns: Option<PatternSet>,
}

impl FieldMatcher {
    /// Compiles the field of all rules, in their order; `None` is a rule that
    /// leaves it open.
    pub(super) fn compile<'r>(
        fields: impl ExactSizeIterator<Item = Option<&'r str>>,
    ) -> Result<Self, String> {
        let bound = fields.len();
        let mut unconstrained = Bits::empty(bound);
        let mut by_pattern: HashMap<&str, Bits> = HashMap::new();
        for (rule, field) in fields.enumerate() {
            match field {
                None => unconstrained.insert(rule),
                Some(pattern) => by_pattern
                    .entry(pattern)
                    .or_insert_with(|| Bits::empty(bound))
                    .insert(rule),
            }
        }
        let mut literals: HashMap<Box<str>, Bits> = HashMap::new();
        let mut prefixes = Vec::new();
        let mut general = Vec::new();
        for (pattern, rules) in by_pattern {
            match re2::translate(pattern).map(|translated| translated.shape) {
                Ok(Shape::Literal(text)) => {
                    // Two spellings of one text: `a` and `\x61`.
                    let known = literals.entry(text.into_boxed_str());
                    known.or_insert_with(|| Bits::empty(bound)).unite(&rules);
                }
                Ok(Shape::Prefix(text)) => prefixes.push((pattern, text.into(), rules)),
                // What cannot be translated is refused by the compiler below.
                Ok(Shape::General) | Err(_) => general.push((pattern.to_owned(), rules)),
            }
        }
        if prefixes.len() > FEW {
            let many = prefixes.drain(..);
            general.extend(many.map(|(pattern, _, rules)| (pattern.to_owned(), rules)));
        }
        let (few, many) = match literals.len() {
            0..=FEW => (literals, HashMap::new()),
            _ => (HashMap::new(), literals),
        };
        Ok(Self {
            unconstrained,
            few_literals: few.into_iter().collect(),
            many_literals: many,
            prefixes: prefixes
                .into_iter()
                .map(|(_, text, rules)| (text, rules))
                .collect(),
            patterns: match general.is_empty() {
                true => None,
                false => Some(PatternSet::compile(general)?),
            },
        })
    }

    /// The rules that the field's value does not rule out.
    pub(super) fn matching(&self, value: &str) -> Bits {
        let mut found = self.unconstrained.clone();
        for (literal, rules) in &self.few_literals {
            if **literal == *value {
                found.unite(rules);
            }
        }
        if !self.many_literals.is_empty()
            && let Some(rules) = self.many_literals.get(value)
        {
            found.unite(rules);
        }
        for (prefix, rules) in &self.prefixes {
            if let Some(rest) = value.strip_prefix(&**prefix)
                && !rest.as_bytes().contains(&b'\n')
            {
                found.unite(rules);
            }
        }
        if let Some(patterns) = &self.patterns {
            patterns.find(value, &mut found);
        }
        found
    }

    /// Whether no rule says anything about the field.
    pub(super) fn is_open(&self) -> bool {
        self.few_literals.is_empty()
            && self.many_literals.is_empty()
            && self.prefixes.is_empty()
            && self.patterns.is_none()
    }
}
