use serde_json::{Map, Value, json};

use super::{MAX_LEVELS, MAX_LINE, NESTED_REFERENCES};
use crate::{Invalid, validate};

/// Half of what threads have that check configurations. Half of this is taken where the library is
/// optimised as little as in most tests.
const STACK: usize = 1 << 20;

/// A schema inside another one.
type Nest = fn(usize, Value) -> Value;

/// Every keyword that has schemas, alone and with those that the library compiles together with it.
const NESTS: [(&str, Nest); 25] = [
    (
        "additionalProperties",
        |_, it| json!({ "additionalProperties": it }),
    ),
    (
        "additionalProperties and properties",
        |_, it| json!({"additionalProperties": it, "properties": {"a": true}}),
    ),
    ("properties", |_, it| json!({"properties": {"a": it}})),
    (
        "properties alone",
        |_, it| json!({"properties": {"a": it, "b": true}, "required": ["a"], "additionalProperties": false}),
    ),
    (
        "patternProperties",
        |_, it| json!({"patternProperties": {"a": it}}),
    ),
    (
        "patternProperties alone",
        |_, it| json!({"patternProperties": {"a": it}, "additionalProperties": false}),
    ),
    ("patternProperties and others", |_, it| {
        json!({
            "patternProperties": {"a": true},
            "additionalProperties": it,
            "properties": {"b": true},
        })
    }),
    ("propertyNames", |_, it| json!({ "propertyNames": it })),
    (
        "dependentSchemas",
        |_, it| json!({"dependentSchemas": {"a": it}}),
    ),
    ("dependencies", |_, it| json!({"dependencies": {"a": it}})),
    ("items", |_, it| json!({ "items": it })),
    (
        "items of a list",
        |_, it| json!({"type": "array", "items": it, "minItems": 1}),
    ),
    (
        "items after others",
        |_, it| json!({"items": it, "prefixItems": [true]}),
    ),
    ("additionalItems", |_, it| json!({ "additionalItems": it })),
    ("prefixItems", |_, it| json!({"prefixItems": [it]})),
    ("contains", |_, it| json!({ "contains": it })),
    (
        "contains so many",
        |_, it| json!({"contains": it, "minContains": 1, "maxContains": 2}),
    ),
    ("allOf", |_, it| json!({"allOf": [it, true]})),
    ("allOf one", |_, it| json!({"allOf": [it]})),
    ("anyOf", |_, it| {
        json!({"anyOf": [
            it,
            {"properties": {"a": {"const": 1}}, "required": ["a"]},
            {"properties": {"a": {"const": 2}}, "required": ["a"]},
        ]})
    }),
    ("oneOf", |_, it| json!({"oneOf": [it, {"type": "null"}]})),
    ("not", |_, it| json!({ "not": it })),
    ("if", |_, it| json!({"if": it, "then": true, "else": false})),
    ("then and else", |level, it| match level % 2 {
        0 => json!({"if": true, "then": it}),
        _ => json!({"if": true, "else": it}),
    }),
    ("several", |level, it| match level % 4 {
        0 => json!({"properties": {"a": it}, "additionalProperties": false}),
        1 => json!({"type": "array", "items": it}),
        2 => json!({"anyOf": [it, {"type": "null"}]}),
        _ => json!({"allOf": [it]}),
    }),
];

/// Patterns of one schema are few.
fn nest(around: Nest, level: usize, inner: Value) -> Value {
    let outer = around(level, inner.clone());
    if level > 30 && outer.get("patternProperties").is_some() {
        return json!({ "additionalProperties": inner });
    }
    outer
}

/// So many schemas in each other, with all the references on the way that count.
fn deep(levels: usize, around: Nest) -> Value {
    let mut definitions = Map::new();
    let mut level = 0;
    for number in 0..NESTED_REFERENCES {
        let mut left = (levels - 1 - level) / (NESTED_REFERENCES - number);
        level += left;
        let mut schema = match number + 1 {
            NESTED_REFERENCES => json!({"items": true}),
            next => json!({"$ref": format!("#/$defs/{next}")}),
        };
        left -= if number + 1 == NESTED_REFERENCES {
            2
        } else {
            1
        };
        for at in 0..left {
            schema = nest(around, level - at, schema);
        }
        definitions.insert(number.to_string(), schema);
    }
    json!({"$ref": "#/$defs/0", "$defs": definitions})
}

/// What `validate` says on a thread with little stack.
fn said(schema: &Value) -> Result<(), Invalid> {
    let schema = schema.to_string();
    let check = move || validate(&schema, &json!("x"));
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(check);
    thread.expect("a thread").join().expect("it ends")
}

#[track_caller]
fn too_deep(schema: &Value, by: &str) {
    match said(schema) {
        Err(Invalid::Schema(why)) => {
            assert!(why.contains("nested too deep"), "{why}");
            assert!(why.contains(&format!("$ref {by:?}")), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_deepest_schemas_fit_on_the_stack() {
    for (name, around) in NESTS {
        let said = said(&deep(MAX_LEVELS, around));
        assert!(!matches!(said, Err(Invalid::Schema(_))), "{name}: {said:?}");
        too_deep(&deep(MAX_LEVELS + 1, around), "#/$defs/0");
    }
}

#[test]
fn so_do_those_that_are_as_deep_as_json_may_be() {
    for (name, around) in NESTS {
        let mut schema = json!(true);
        for level in 0.. {
            let next = nest(around, level, schema.clone());
            if serde_json::from_str::<Value>(&next.to_string()).is_err() {
                break;
            }
            schema = next;
        }
        let said = said(&schema);
        assert!(!matches!(said, Err(Invalid::Schema(_))), "{name}: {said:?}");
    }
}

#[test]
fn what_no_configuration_asks_counts_too() {
    let deep = |next: Value| (0..120).fold(next, |it, _| json!({ "additionalProperties": it }));
    let mut definitions = Map::new();
    for number in 0..8 {
        let next = match number {
            7 => json!({}),
            number => json!({"$ref": format!("#/$defs/{}", number + 1)}),
        };
        definitions.insert(number.to_string(), deep(next));
    }
    let inner = json!({"properties": {"x": {"$ref": "#/$defs/0"}}, "$defs": definitions});
    too_deep(&inner, "#/$defs/1");
}

#[test]
fn what_comes_back_to_itself_is_not_deep() {
    let matcher = json!({"anyOf": [
        {"properties": {"all": {"items": {"$ref": "#/$defs/M"}}}, "required": ["all"]},
        {"properties": {"any": {"items": {"$ref": "#/$defs/M"}}}, "required": ["any"]},
        {"properties": {"not": {"$ref": "#/$defs/M"}}, "required": ["not"]},
        {"properties": {"routes": {"items": {"$ref": "#"}}}, "required": ["routes"]},
        {"type": "string"},
    ]});
    let routes = json!({
        "properties": {"routes": {"items": {"properties": {"when": {"$ref": "#/$defs/M"}}}}},
        "$defs": {"M": matcher},
    });
    let config = json!({"routes": [{"when": {"all": ["a", {"not": "b"}]}}]});
    assert_eq!(validate(&routes.to_string(), &config), Ok(()));
    // A long line of references is not either, for the library does not keep its stack for it.
    let mut definitions = Map::new();
    for number in 0..900 {
        let next = json!({"$ref": format!("#/$defs/{}", number + 1)});
        definitions.insert(number.to_string(), json!({"properties": {"x": next}}));
    }
    definitions.insert("900".to_owned(), json!(true));
    let line = json!({"$ref": "#/$defs/0", "$defs": definitions});
    assert_eq!(said(&line), Ok(()));
}

#[test]
fn the_longest_line_is_let_go_of_on_the_stack() {
    // Each is compiled when the next one is, so none of them needs much; but each holds the next,
    // and nothing else does any more when its turn comes.
    let line = |levels: usize| {
        let count = (levels - 4) / 2;
        let to = |number: usize| json!({"$ref": format!("#/$defs/{number}")});
        let mut definitions: Map<_, _> = (0..count)
            .map(|at| (at.to_string(), json!({"properties": {"a": to(at + 1)}})))
            .collect();
        definitions.insert(count.to_string(), json!(true));
        let all: Vec<_> = (0..=count).rev().map(to).collect();
        json!({"properties": {"x": {"prefixItems": all}}, "$defs": definitions})
    };
    assert_eq!(said(&line(MAX_LINE)), Ok(()));
    match said(&line(MAX_LINE + 2)) {
        Err(Invalid::Schema(why)) => assert!(why.contains("nested too deep"), "{why}"),
        other => panic!("{other:?}"),
    }
}
