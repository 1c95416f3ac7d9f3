//! A schema as a graph: its nodes ask other nodes about the same value, or about what is in it.

use std::collections::HashMap;

use regex_automata::nfa::thompson::NFA;
use serde_json::{Map, Value};

use super::MAX_PATTERN;
use super::cost::{measure, text};

mod bases;
mod depth;
mod together;

/// Patterns of one schema: each takes memory.
const MAX_PATTERNS: usize = 32;
/// Bytes of one: a class of letters takes kilobytes for each time that it is named.
const MAX_PATTERN_TEXT: usize = 1024;
/// Bytes of the places of all keywords, each of which is kept with its whole path.
const MAX_PLACES: usize = 4 << 20;

/// What it costs to divide a number by a fraction, which is done exactly.
const DIVISION: u64 = 5000;

/// What one schema asks.
#[derive(Default)]
pub(super) struct Node<'a> {
    /// Asked about the same value.
    pub(super) here: Vec<usize>,
    /// What `$ref` says, and which of these it leads to.
    reference: Option<(&'a str, usize)>,
    /// The same, of which some may say no: what is wrong with each is collected.
    pub(super) forms: Vec<usize>,
    /// Asked about a field of that name.
    pub(super) fields: Vec<(&'a str, usize)>,
    /// Asked about each field.
    pub(super) each_field: Vec<usize>,
    /// Asked about the name of each field.
    pub(super) names: Vec<usize>,
    /// Asked about each item.
    pub(super) items: Vec<usize>,
    /// Asked about one item each, from the first one on.
    pub(super) first_items: Vec<usize>,
    /// What it says itself: names that are required, values that are allowed, and so on.
    pub(super) weight: u64,
    /// States of the patterns that a text is matched against.
    pub(super) text_states: u64,
    /// States of the patterns that the names of fields are matched against.
    pub(super) name_states: u64,
    /// What is done with a number.
    pub(super) arithmetic: u64,
    /// Items are compared with each other.
    pub(super) unique: bool,
    /// It has schemas that are put together.
    merged: bool,
    /// Bytes of the places of what it says itself.
    places: usize,
}

impl<'a> Node<'a> {
    /// What `$ref` says, and where it leads.
    fn target(&self) -> Option<(&'a str, usize)> {
        let (text, nth) = self.reference?;
        Some((text, self.here[nth]))
    }

    /// The schemas that it is made of.
    fn inside(&self) -> impl Iterator<Item = usize> {
        let reference = self.reference.map(|(_text, nth)| nth);
        let here = self.here.iter().enumerate();
        let here = here.filter(move |(nth, _at)| reference != Some(*nth));
        let fields = self.fields.iter().map(|(_name, at)| at);
        let others = [
            &self.forms,
            &self.each_field,
            &self.names,
            &self.items,
            &self.first_items,
        ];
        let here = here.map(|(_nth, at)| at);
        here.chain(fields)
            .chain(others.into_iter().flatten())
            .copied()
    }
}

/// All that a schema may ask.
pub(super) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    /// Bytes of the longest name that is said.
    pub(super) longest_name: usize,
    root: &'a Value,
    known: HashMap<*const Value, usize>,
    open: Vec<Open<'a>>,
    patterns: usize,
    places: usize,
}

struct Open<'a> {
    at: usize,
    schema: &'a Value,
    /// Bytes of its path.
    path: usize,
}

impl<'a> Graph<'a> {
    /// Reads a schema.
    ///
    /// # Errors
    /// What of it cannot be.
    pub(super) fn of(root: &'a Value) -> Result<Self, String> {
        let mut graph = Self {
            nodes: Vec::new(),
            longest_name: 0,
            root,
            known: HashMap::new(),
            open: Vec::new(),
            patterns: 0,
            places: 0,
        };
        bases::check(root)?;
        graph.node(root, 0);
        while let Some(Open { at, schema, path }) = graph.open.pop() {
            if let Value::Object(fields) = schema {
                let node = graph.read(fields, path, at == 0)?;
                graph.nodes[at] = node;
            }
            if graph.places > MAX_PLACES {
                return Err("the paths of its fields are too long".to_owned());
            }
        }
        let order = graph.ends()?;
        graph.together(&order)?;
        graph.depth()?;
        graph.copies()?;
        Ok(graph)
    }

    fn node(&mut self, schema: &'a Value, path: usize) -> usize {
        let next = self.nodes.len();
        let at = *self.known.entry(std::ptr::from_ref(schema)).or_insert(next);
        if at == next {
            self.places = self.places.saturating_add(path);
            self.nodes.push(Node {
                weight: 1,
                places: path,
                ..Node::default()
            });
            self.open.push(Open { at, schema, path });
        }
        at
    }

    fn read(
        &mut self,
        fields: &'a Map<String, Value>,
        path: usize,
        root: bool,
    ) -> Result<Node<'a>, String> {
        let mut node = Node {
            weight: 1,
            places: path,
            ..Node::default()
        };
        for (name, value) in fields {
            let path = path + name.len() + 1;
            node.places = node.places.saturating_add(path);
            self.places = self.places.saturating_add(path);
            match name.as_str() {
                "$ref" => {
                    let text = value.as_str().unwrap_or_default();
                    let target = self.target(text)?;
                    node.reference = Some((text, node.here.len()));
                    node.here.push(self.node(target, text.len()));
                }
                // To follow these takes time that grows with each step of the schema.
                "$dynamicRef" | "$recursiveRef" => {
                    return Err(format!("{name} is not supported, $ref is"));
                }
                "unevaluatedProperties" | "unevaluatedItems" => {
                    return Err(format!("{name} is not supported, additionalProperties is"));
                }
                "$id" | "$schema" if !root => return Err(bases::refused(name)),
                keyword => self.keyword(&mut node, keyword, value, path)?,
            }
        }
        Ok(node)
    }

    fn keyword(
        &mut self,
        node: &mut Node<'a>,
        keyword: &str,
        value: &'a Value,
        path: usize,
    ) -> Result<(), String> {
        match keyword {
            "allOf" | "not" | "if" | "then" | "else" => {
                node.merged |= keyword == "allOf";
                node.here.extend(self.schemas(value, path));
            }
            "anyOf" | "oneOf" => node.forms.extend(self.schemas(value, path)),
            "items" | "additionalItems" | "contains" => {
                node.items.extend(self.schemas(value, path));
            }
            "prefixItems" => node.first_items.extend(self.schemas(value, path)),
            "propertyNames" => node.names.extend(self.schemas(value, path)),
            "additionalProperties" => node.each_field.extend(self.schemas(value, path)),
            "properties" => {
                let fields = self.named(node, value, path);
                node.fields.extend(fields);
            }
            "patternProperties" => {
                for (pattern, schema) in self.named(node, value, path) {
                    node.name_states += self.states(pattern)?;
                    node.each_field.push(schema);
                }
            }
            "dependentSchemas" | "dependencies" => {
                // Of "dependencies" some are names.
                let lists = value.as_object().into_iter().flat_map(Map::values);
                for list in lists.filter(|it| it.is_array()) {
                    self.says(node, list);
                }
                let schemas = self.named(node, value, path);
                node.here.extend(schemas.into_iter().map(|(_name, at)| at));
            }
            "pattern" => node.text_states += self.states(value.as_str().unwrap_or_default())?,
            "multipleOf" if value.as_f64().is_some_and(|it| it.fract() != 0.0) => {
                node.arithmetic += DIVISION;
            }
            "uniqueItems" => node.unique = true,
            "required" | "enum" | "const" | "dependentRequired" | "type" => self.says(node, value),
            _ => {}
        }
        Ok(())
    }

    /// Values that what is asked about is compared with.
    fn says(&mut self, node: &mut Node<'a>, value: &Value) {
        let said = measure(value);
        node.weight = node.weight.saturating_add(said.size);
        self.longest_name = self.longest_name.max(said.longest_text);
    }

    fn schemas(&mut self, value: &'a Value, path: usize) -> Vec<usize> {
        match value {
            Value::Array(schemas) => {
                let schemas = schemas.iter().enumerate();
                schemas
                    .map(|(at, schema)| self.node(schema, path + digits(at)))
                    .collect()
            }
            schema => vec![self.node(schema, path)],
        }
    }

    fn named(
        &mut self,
        node: &mut Node<'a>,
        value: &'a Value,
        path: usize,
    ) -> Vec<(&'a str, usize)> {
        let mut all = Vec::new();
        for (name, schema) in value.as_object().into_iter().flatten() {
            node.weight = node.weight.saturating_add(text(name));
            self.longest_name = self.longest_name.max(name.len());
            all.push((name.as_str(), self.node(schema, path + name.len() + 1)));
        }
        all
    }

    /// What each byte of a text may cost that is matched against a pattern.
    fn states(&mut self, pattern: &str) -> Result<u64, String> {
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(format!("it has more than {MAX_PATTERNS} patterns"));
        }
        if pattern.len() > MAX_PATTERN_TEXT {
            return Err(format!(
                "a pattern of it has more than {MAX_PATTERN_TEXT} bytes"
            ));
        }
        let limit = NFA::config().nfa_size_limit(Some(MAX_PATTERN));
        let compiled = jsonschema_regex::to_rust_regex(pattern)
            .ok()
            .and_then(|pattern| NFA::compiler().configure(limit).build(&pattern).ok());
        // What cannot be compiled here cannot be compiled there either, which says why.
        Ok(compiled.map_or(1, |nfa| {
            u64::try_from(nfa.states().len()).unwrap_or(u64::MAX)
        }))
    }

    fn target(&self, text: &str) -> Result<&'a Value, String> {
        let pointer = text.strip_prefix('#').filter(|it| !it.contains('%'));
        let target = pointer.and_then(|pointer| self.root.pointer(pointer));
        target.ok_or_else(|| {
            format!("$ref {text:?} leads nowhere: it has to be a place in the schema, #/...")
        })
    }

    /// Refuses what takes too much memory because places that are in each other are referred to:
    /// the library may compile all that is in one for each of them.
    fn copies(&self) -> Result<(), String> {
        let mut known = vec![None; self.nodes.len()];
        let starts = self.entered().into_iter().enumerate();
        let starts = starts.filter(|(_at, entered)| *entered);
        let copies = starts
            .map(|(at, _entered)| self.places_in(at, &mut known))
            .fold(0, usize::saturating_add);
        match copies {
            ..=MAX_PLACES => Ok(()),
            _ => Err("the places that it refers to have too much in common".to_owned()),
        }
    }

    /// The places in a schema. Reading JSON has bounded its depth.
    fn places_in(&self, at: usize, known: &mut [Option<usize>]) -> usize {
        if let Some(places) = known[at] {
            return places;
        }
        let node = &self.nodes[at];
        let inside = node.inside().map(|it| self.places_in(it, known));
        let places = inside.fold(node.places, usize::saturating_add);
        known[at] = Some(places);
        places
    }

    /// Where the library starts to compile: at the top, and at what is referred to.
    fn entered(&self) -> Vec<bool> {
        let mut entered = vec![false; self.nodes.len()];
        entered[0] = true;
        for (_text, target) in self.nodes.iter().filter_map(Node::target) {
            entered[target] = true;
        }
        entered
    }

    /// Refuses what asks itself about one value without end. The nodes as they come after those
    /// that they ask.
    fn ends(&self) -> Result<Vec<usize>, String> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        for start in 0..self.nodes.len() {
            if marks[start] == Mark::Done {
                continue;
            }
            let mut way = vec![(start, 0)];
            while let Some((at, next)) = way.last_mut() {
                let at = *at;
                marks[at] = Mark::Open;
                let node = &self.nodes[at];
                let Some(&asked) = node.here.iter().chain(&node.forms).nth(*next) else {
                    marks[at] = Mark::Done;
                    order.push(at);
                    way.pop();
                    continue;
                };
                *next += 1;
                match marks[asked] {
                    Mark::New => way.push((asked, 0)),
                    Mark::Open => return Err("it asks itself without end".to_owned()),
                    Mark::Done => {}
                }
            }
        }
        Ok(order)
    }
}

fn digits(number: usize) -> usize {
    2 + usize::try_from(number.checked_ilog10().unwrap_or(0)).unwrap_or(0)
}
