//! What it may cost to check a configuration: looked at before it is done, for
//! a schema can make it take hours, or all of the stack.
//!
//! A schema is a graph: its nodes ask other nodes about the same value, or about
//! what is in it. How often a node is asked at most, and how deep the questions
//! go, is counted without asking them.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Patterns of one schema: each takes memory.
const MAX_PATTERNS: usize = 32;
/// Questions that follow from one another.
const MAX_DEPTH: u64 = 1000;
/// Questions in all.
const MAX_QUESTIONS: u64 = 50_000_000;
/// Bytes of text that cost as much as a question.
const TEXT: u64 = 16;

/// Refuses what costs too much.
///
/// # Errors
/// What of the schema cannot be.
pub(super) fn check(schema: &Value, config: &Value) -> Result<(), String> {
    let graph = Graph::of(schema)?;
    let order = graph.order()?;
    let (size, depth) = measure(config);
    let mut inner = vec![Cost::default(); graph.nodes.len()];
    for _level in 0..=depth {
        inner = graph.costs(&order, &inner);
    }
    let cost = inner.first().copied().unwrap_or_default();
    if cost.depth > MAX_DEPTH {
        return Err(format!(
            "it is nested more than {MAX_DEPTH} deep with this configuration"
        ));
    }
    if cost.questions.saturating_mul(size) > MAX_QUESTIONS {
        return Err("to check this configuration takes too long".to_owned());
    }
    Ok(())
}

/// Values in a value, texts counted by their length; and how deep they are.
fn measure(value: &Value) -> (u64, usize) {
    // Reading JSON has bounded its depth.
    let text = |text: &str| 1 + u64::try_from(text.len()).unwrap_or(u64::MAX) / TEXT;
    let inner = |values: &mut dyn Iterator<Item = &Value>| {
        values.map(measure).fold((0, 0), |(size, depth), inner| {
            (size + inner.0, depth.max(inner.1 + 1))
        })
    };
    match value {
        Value::String(string) => (text(string), 0),
        Value::Array(values) => {
            let (size, depth) = inner(&mut values.iter());
            (size + 1, depth)
        }
        Value::Object(fields) => {
            let names: u64 = fields.keys().map(|name| text(name)).sum();
            let (size, depth) = inner(&mut fields.values());
            (size + names + 1, depth)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => (1, 0),
    }
}

#[derive(Clone, Copy, Default)]
struct Cost {
    questions: u64,
    depth: u64,
}

#[derive(Default)]
struct Node {
    /// Asked about the same value.
    here: Vec<usize>,
    /// Asked about what is in it.
    below: Vec<usize>,
    /// What is here is asked twice: to know what was not asked.
    twice: bool,
}

/// Where a keyword's schemas are, and what they are asked about.
#[derive(Clone, Copy)]
enum Keyword {
    Here,
    HereByName,
    Below,
    BelowByName,
}

fn keyword(name: &str) -> Option<Keyword> {
    Some(match name {
        "allOf" | "anyOf" | "oneOf" | "not" | "if" | "then" | "else" => Keyword::Here,
        "dependentSchemas" | "dependencies" => Keyword::HereByName,
        "items"
        | "prefixItems"
        | "additionalItems"
        | "contains"
        | "additionalProperties"
        | "propertyNames"
        | "unevaluatedItems"
        | "unevaluatedProperties" => Keyword::Below,
        "properties" | "patternProperties" => Keyword::BelowByName,
        _ => return None,
    })
}

struct Graph<'a> {
    root: &'a Value,
    nodes: Vec<Node>,
    known: HashMap<*const Value, usize>,
    open: Vec<(usize, &'a Value)>,
    patterns: usize,
}

impl<'a> Graph<'a> {
    fn of(root: &'a Value) -> Result<Self, String> {
        let mut graph = Self {
            root,
            nodes: Vec::new(),
            known: HashMap::new(),
            open: Vec::new(),
            patterns: 0,
        };
        graph.node(root);
        while let Some((at, schema)) = graph.open.pop() {
            if let Value::Object(fields) = schema {
                let node = graph.read(fields, at == 0)?;
                graph.nodes[at] = node;
            }
        }
        if graph.patterns > MAX_PATTERNS {
            return Err(format!("it has more than {MAX_PATTERNS} patterns"));
        }
        Ok(graph)
    }

    fn node(&mut self, schema: &'a Value) -> usize {
        let next = self.nodes.len();
        let at = *self.known.entry(std::ptr::from_ref(schema)).or_insert(next);
        if at == next {
            self.nodes.push(Node::default());
            self.open.push((at, schema));
        }
        at
    }

    fn read(&mut self, fields: &'a Map<String, Value>, root: bool) -> Result<Node, String> {
        let mut node = Node::default();
        for (name, value) in fields {
            match name.as_str() {
                "$ref" => {
                    let target = self.target(value)?;
                    node.here.push(self.node(target));
                }
                "$dynamicRef" | "$recursiveRef" => {
                    return Err(format!("{name} is not supported, $ref is"));
                }
                "$id" if !root => return Err("$id is supported at its top only".to_owned()),
                "pattern" => self.patterns += 1,
                name => {
                    node.twice |= name.starts_with("unevaluated");
                    if name == "patternProperties" {
                        self.patterns += value.as_object().map_or(0, Map::len);
                    }
                    if let Some(keyword) = keyword(name) {
                        self.ask(&mut node, keyword, value);
                    }
                }
            }
        }
        Ok(node)
    }

    fn ask(&mut self, node: &mut Node, keyword: Keyword, value: &'a Value) {
        let (asked, by_name) = match keyword {
            Keyword::Here => (&mut node.here, false),
            Keyword::HereByName => (&mut node.here, true),
            Keyword::Below => (&mut node.below, false),
            Keyword::BelowByName => (&mut node.below, true),
        };
        match value {
            Value::Object(schemas) if by_name => {
                asked.extend(schemas.values().map(|schema| self.node(schema)));
            }
            Value::Array(schemas) => asked.extend(schemas.iter().map(|schema| self.node(schema))),
            schema => asked.push(self.node(schema)),
        }
    }

    fn target(&self, reference: &Value) -> Result<&'a Value, String> {
        let text = reference.as_str().unwrap_or_default();
        let pointer = text.strip_prefix('#').filter(|it| !it.contains('%'));
        let target = pointer.and_then(|pointer| self.root.pointer(pointer));
        target.ok_or_else(|| {
            format!("$ref {text:?} leads nowhere: it has to be a place in the schema, #/...")
        })
    }

    /// All nodes, those that are asked about the same value before those that
    /// ask them.
    fn order(&self) -> Result<Vec<usize>, String> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        for start in 0..self.nodes.len() {
            let mut way = vec![(start, 0)];
            while let Some((at, next)) = way.last_mut() {
                let at = *at;
                if *next == 0 && marks[at] == Mark::Done {
                    way.pop();
                    continue;
                }
                marks[at] = Mark::Open;
                let Some(&asked) = self.nodes[at].here.get(*next) else {
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

    /// What it costs to ask each node about a value, if it costs `inner` to ask
    /// them about what is in it.
    fn costs(&self, order: &[usize], inner: &[Cost]) -> Vec<Cost> {
        let mut costs = vec![Cost::default(); self.nodes.len()];
        for &at in order {
            let node = &self.nodes[at];
            let mut cost = Cost {
                questions: 1,
                depth: 1,
            };
            let here = node.here.iter().map(|&asked| costs[asked]);
            let again = here.clone().filter(|_asked| node.twice);
            let below = node.below.iter().map(|&asked| inner[asked]);
            for asked in here.clone().chain(again).chain(below) {
                cost.questions = cost.questions.saturating_add(asked.questions);
                cost.depth = cost.depth.max(asked.depth.saturating_add(1));
            }
            costs[at] = cost;
        }
        costs
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::check;

    /// So many definitions, of which each is made of the next.
    fn chain(length: usize, of: impl Fn(Value) -> Value) -> Value {
        let mut definitions = Map::new();
        for number in 0..length {
            let next = json!({"$ref": format!("#/$defs/{}", number + 1)});
            definitions.insert(number.to_string(), of(next));
        }
        definitions.insert(length.to_string(), json!({"type": "object"}));
        json!({"$ref": "#/$defs/0", "$defs": definitions})
    }

    fn nested(depth: usize) -> Value {
        (0..depth).fold(json!({}), |inner, _level| json!({ "x": inner }))
    }

    #[test]
    fn what_is_usual_is_cheap() {
        let tree = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z]+$"},
                "children": {"type": "array", "items": {"$ref": "#"}},
                "by": {"oneOf": [{"$ref": "#/$defs/By"}, {"type": "null"}]},
            },
            "additionalProperties": false,
            "$defs": {"By": {"properties": {"header": {"type": "string"}}}},
        });
        let mut config = json!({"name": "x"});
        for _level in 0..20 {
            config = json!({"name": "x", "children": [config, {"name": "y"}]});
        }
        assert_eq!(check(&tree, &config), Ok(()));
        let many: Vec<_> = (0..20_000).map(|_one| json!({"name": "abc"})).collect();
        assert_eq!(check(&tree, &json!({"children": many})), Ok(()));
        assert_eq!(check(&json!(true), &json!({})), Ok(()));
    }

    #[test]
    fn what_grows_with_each_step_is_refused() {
        let both = |next: Value| json!({"allOf": [next.clone(), next]});
        assert_eq!(check(&chain(10, both), &json!({})), Ok(()));
        let error = check(&chain(40, both), &json!({})).expect_err("too long");
        assert!(error.contains("too long"), "{error}");
        // Here it is the configuration that makes it grow.
        let inside = json!({"properties": {"x": {"$ref": "#"}}});
        let twice = json!({"allOf": [inside, {"properties": {"x": {"$ref": "#"}}}]});
        assert_eq!(check(&twice, &nested(5)), Ok(()));
        let error = check(&twice, &nested(60)).expect_err("too long");
        assert!(error.contains("too long"), "{error}");
    }

    #[test]
    fn what_is_deep_is_refused() {
        let error = check(&chain(5000, |next| next), &json!({})).expect_err("deep");
        assert!(error.contains("more than 1000 deep"), "{error}");
        // A long way that this configuration does not go.
        let inside = |next: Value| json!({"properties": {"x": next}});
        assert_eq!(check(&chain(5000, inside), &nested(3)), Ok(()));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for (schema, said) in [
            (json!({"$ref": "#"}), "without end"),
            (
                json!({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"anyOf": [{"$ref": "#"}]}}}),
                "without end",
            ),
            (json!({"$ref": "https://example.com/x"}), "leads nowhere"),
            (json!({"$ref": "#/$defs/none"}), "leads nowhere"),
            (json!({"items": {"$dynamicRef": "#a"}}), "$dynamicRef"),
            (json!({"not": {"$id": "x"}}), "at its top only"),
        ] {
            let error = check(&schema, &json!({})).expect_err("refused");
            assert!(error.contains(said), "{schema}: {error}");
        }
        // As the name of a field it is a name.
        let named = json!({"$id": "x", "properties": {"$id": {"type": "string"}}});
        assert_eq!(check(&named, &json!({})), Ok(()));
        let patterns: Vec<_> = (0..40).map(|n| json!({"pattern": n.to_string()})).collect();
        let error = check(&json!({"anyOf": patterns}), &json!({})).expect_err("many");
        assert!(error.contains("more than 32 patterns"), "{error}");
    }
}
