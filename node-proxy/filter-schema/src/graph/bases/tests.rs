use serde_json::{Value, json};

use crate::{Invalid, validate};

const TOP: &str = "https://e.example/top";

#[track_caller]
fn refused(schema: &Value, config: &Value) {
    match validate(&schema.to_string(), config) {
        Err(Invalid::Schema(why)) => assert!(why.contains("at its top only"), "{why}"),
        other => panic!("{schema}: {other:?}"),
    }
}

/// A schema whose `x` is anything as long as references count from its top, and nothing when they
/// count from `#/$defs/a`.
fn with(a: Value) -> Value {
    let mut schema = json!({
        "properties": {"x": {"$ref": "#/$defs/a/$defs/b"}},
        "$defs": {"0": true, "a": {"$defs": {"0": false, "b": {"$ref": "#/$defs/0"}}}},
    });
    for (name, value) in a.as_object().expect("an object") {
        schema["$defs"]["a"][name] = value.clone();
    }
    schema
}

#[test]
fn references_count_from_the_top() {
    let config = json!({"x": "y"});
    let draft4 = "http://json-schema.org/draft-04/schema";
    for a in [
        json!({"$id": "https://e.example/a"}),
        json!({"$id": "a"}),
        json!({"$schema": draft4, "id": "https://e.example/a"}),
    ] {
        refused(&with(a), &config);
    }
    // What else names places does nothing, and what other drafts have for it neither, whatever the
    // top says.
    let mut others = with(json!({
        "id": "https://e.example/a",
        "$anchor": "a",
        "$dynamicAnchor": "b",
    }));
    assert_eq!(validate(&others.to_string(), &config), Ok(()));
    others["$schema"] = json!(draft4);
    assert_eq!(validate(&others.to_string(), &config), Ok(()));
}

#[test]
fn no_other_schema_takes_the_name_of_the_top() {
    let config = json!({"x": "y"});
    let thief = |of: &str| {
        let inner = json!({"$id": of, "$defs": {"0": false}});
        json!({"$id": "https://e.example/a", "$defs": {"b": inner}})
    };
    let schema = json!({
        "$id": TOP,
        "properties": {"x": {"$ref": "#/$defs/0"}},
        "$defs": {"0": true},
    });
    assert_eq!(validate(&schema.to_string(), &config), Ok(()));
    for at in ["$defs", "definitions", "dependentSchemas"] {
        let mut schema = schema.clone();
        schema[at]["a"] = thief(TOP);
        refused(&schema, &config);
    }
    let mut schema = schema.clone();
    schema["contentSchema"] = thief(TOP);
    refused(&schema, &config);
    let mut unnamed = schema.clone();
    unnamed.as_object_mut().expect("an object").remove("$id");
    unnamed["contentSchema"] = thief("json-schema:///");
    refused(&unnamed, &config);
}

#[test]
fn elsewhere_the_same_names_are_names() {
    let schema = json!({
        "$id": TOP,
        "properties": {
            "$id": {"type": "string"},
            "$schema": {"enum": ["a", {"$id": "x"}], "default": {"$schema": "x"}},
            "kind": {"const": {"$id": "a", "$schema": "b"}},
            "x": {"$ref": "#/x-note/$defs/b"},
        },
        "required": ["$id"],
        "dependentRequired": {"$id": ["$schema"]},
        "examples": [{"$id": "a"}],
        "$defs": {"0": true},
        // No place where the library looks for schemas, so references below count from the top.
        "x-note": {"$id": "a", "$defs": {"0": false, "b": {"$ref": "#/$defs/0"}}},
    });
    let config = json!({
        "$id": "a",
        "$schema": {"$id": "x"},
        "kind": {"$id": "a", "$schema": "b"},
        "x": "y",
    });
    assert_eq!(validate(&schema.to_string(), &config), Ok(()));
    // What is called like such a keyword is a schema all the same.
    let named = json!({"properties": {"default": {"$id": "a"}}});
    refused(&named, &json!({}));
    let asked = json!({"$ref": "#/default", "default": {"$id": "a"}});
    refused(&asked, &json!({}));
}
