//! What it may cost to check a configuration: looked at before it is done, for a schema can make it
//! take hours, or all of the memory or the stack.
//!
//! The questions that a schema asks of this configuration are gone through as the check will, but
//! nothing is compared, and once they are too many that is the end. Each counts as much as it may
//! cost in the library: whatever is a list in the schema is a question for each entry.

use std::collections::HashMap;

use serde_json::Value;

use super::graph::Graph;

/// Questions that follow from one another.
const MAX_DEPTH: usize = 1000;
/// Questions in all: within a second or so.
const MAX_QUESTIONS: u64 = 10_000_000;
/// Bytes that all problems together may take: the library finds all of them before it tells one.
const MAX_PROBLEM_BYTES: u64 = 64 << 20;
/// Bytes of text that cost as much as a question.
const TEXT: usize = 16;
/// Bytes that one problem takes, without its paths.
const PROBLEM: u64 = 256;
/// Bytes that a value takes in one: of several forms each problem has a copy.
const VALUE: u64 = 80;
/// Items that are compared each with each, if there are no more.
const FEW: usize = 15;
/// The largest whole number that is the same as a floating one.
const EXACT: u64 = 1 << 53;

/// How much may be told of what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    /// All of it may be collected.
    All,
    /// The first problem.
    First,
    /// Nothing: for one problem all that is wrong with several forms may be collected.
    Nothing,
}

/// Refuses what costs too much.
///
/// # Errors
/// What of the schema cannot be.
pub(super) fn check(schema: &Value, config: &Value) -> Result<Telling, String> {
    let graph = Graph::of(schema)?;
    let mut count = Count {
        graph: &graph,
        sizes: HashMap::new(),
        questions: 0,
        problem_bytes: 0,
        form_bytes: 0,
    };
    count.size(config);
    count.ask(0, config, Way::default())?;
    Ok(if count.problem_bytes <= MAX_PROBLEM_BYTES {
        Telling::All
    } else if count.form_bytes <= MAX_PROBLEM_BYTES {
        Telling::First
    } else {
        Telling::Nothing
    })
}

/// What a text costs.
pub(super) fn text(text: &str) -> u64 {
    1 + wide(text.len() / TEXT)
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// How large a value is.
#[derive(Clone, Copy, Default)]
pub(super) struct Measure {
    /// Values in it, texts counted by their length.
    pub(super) size: u64,
    /// Bytes of the longest text in it.
    pub(super) longest_text: usize,
}

/// Measures a value. Reading JSON has bounded its depth.
pub(super) fn measure(value: &Value) -> Measure {
    let of_text = |it: &str| Measure {
        size: text(it),
        longest_text: it.len(),
    };
    let both = |one: Measure, other: Measure| Measure {
        size: one.size + other.size,
        longest_text: one.longest_text.max(other.longest_text),
    };
    let own = Measure {
        size: 1,
        longest_text: 0,
    };
    match value {
        Value::String(string) => of_text(string),
        Value::Array(values) => values.iter().map(measure).fold(own, both),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| both(of_text(name), measure(value)))
            .fold(own, both),
        Value::Null | Value::Bool(_) | Value::Number(_) => own,
    }
}

/// The way to a question.
#[derive(Clone, Copy, Default)]
struct Way {
    depth: usize,
    /// Bytes of the path to the value.
    path: usize,
    /// It is one of several forms, or in one.
    form: bool,
}

impl Way {
    fn on(self, name: usize) -> Self {
        Self {
            depth: self.depth + 1,
            path: self.path + name,
            ..self
        }
    }
}

struct Count<'a> {
    graph: &'a Graph<'a>,
    /// Of lists and objects, by where they are.
    sizes: HashMap<*const Value, u64>,
    questions: u64,
    problem_bytes: u64,
    /// Of these in forms.
    form_bytes: u64,
}

impl Count<'_> {
    /// The size of a value of the configuration, and of all that is in it.
    fn size(&mut self, value: &Value) -> u64 {
        let at = std::ptr::from_ref(value);
        if let Some(size) = self.sizes.get(&at) {
            return *size;
        }
        let size = match value {
            Value::Array(values) => values.iter().map(|it| self.size(it)).sum::<u64>() + 1,
            Value::Object(fields) => {
                let inner = fields.iter().map(|(name, it)| text(name) + self.size(it));
                inner.sum::<u64>() + 1
            }
            value => return measure(value).size,
        };
        self.sizes.insert(at, size);
        size
    }

    fn ask(&mut self, at: usize, value: &Value, way: Way) -> Result<(), String> {
        if way.depth >= MAX_DEPTH {
            return Err(format!(
                "it is nested more than {MAX_DEPTH} deep with this configuration"
            ));
        }
        let graph = self.graph;
        let node = &graph.nodes[at];
        let size = self.size(value);
        let names = |fields: &serde_json::Map<String, Value>| -> u64 {
            let cost = |name: &String| text(name).saturating_mul(1 + node.name_states);
            fields.keys().map(cost).sum()
        };
        let reading = match value {
            Value::String(_) => size.saturating_mul(1 + node.text_states),
            Value::Array(items) if node.unique => size.saturating_mul(comparisons(items)),
            Value::Object(fields) => names(fields),
            Value::Number(_) => node.arithmetic,
            _ => 0,
        };
        self.spend(node.weight.saturating_add(reading))?;
        let paths = way.path + way.depth * (graph.longest_name + TEXT) + graph.longest_name;
        let copied = if way.form { size } else { 0 };
        self.wrong(
            node.weight,
            PROBLEM + wide(paths) + copied.saturating_mul(VALUE),
            way,
        );
        for &asked in &node.here {
            self.ask(asked, value, way.on(0))?;
        }
        for &asked in &node.forms {
            let way = Way { form: true, ..way };
            self.ask(asked, value, way.on(0))?;
        }
        match value {
            Value::Array(items) => {
                for item in items {
                    for &asked in &node.items {
                        self.ask(asked, item, way.on(8))?;
                    }
                }
                for (&asked, item) in node.first_items.iter().zip(items) {
                    self.ask(asked, item, way.on(8))?;
                }
            }
            Value::Object(fields) => {
                for (name, asked) in &node.fields {
                    if let Some(value) = fields.get(*name) {
                        self.ask(*asked, value, way.on(name.len() + 1))?;
                    }
                }
                for (name, value) in fields {
                    for &asked in &node.each_field {
                        self.ask(asked, value, way.on(name.len() + 1))?;
                    }
                    for &asked in &node.names {
                        self.ask(asked, &Value::String(name.clone()), way.on(0))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// So many problems of that size may be found.
    fn wrong(&mut self, problems: u64, size: u64, way: Way) {
        let bytes = problems.saturating_mul(size);
        self.problem_bytes = self.problem_bytes.saturating_add(bytes);
        if way.form {
            self.form_bytes = self.form_bytes.saturating_add(bytes);
        }
    }

    fn spend(&mut self, cost: u64) -> Result<(), String> {
        self.questions = self.questions.saturating_add(cost);
        match self.questions {
            ..=MAX_QUESTIONS => Ok(()),
            _ => Err("to check this configuration takes too long".to_owned()),
        }
    }
}

/// With how many others an item is compared, to see that there is none like it. Hashes spare that,
/// but not where others with the same hash can be made up: lists are hashed without their brackets,
/// and large numbers without their last digits.
fn comparisons(items: &[Value]) -> u64 {
    let plain = |item: &Value| match item {
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (None, None) => true,
            (unsigned, signed) => {
                let size = unsigned.or(signed.map(i64::unsigned_abs));
                size.is_some_and(|size| size <= EXACT)
            }
        },
        Value::Array(_) | Value::Object(_) => false,
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    };
    let many = items.len() > FEW && items.iter().all(plain);
    wide(if many { FEW } else { items.len() })
}

#[cfg(test)]
mod tests;
