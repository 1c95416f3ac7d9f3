use serde_json::{Map, Value, json};

use crate::{Invalid, validate};

/// A field that may be a few forms of this.
fn forms(of: &str, schema: Value) -> Value {
    json!({
        "properties": {"x": {(of): [{"$ref": "#/$defs/0"}, {"type": "null"}, {"type": "array"}]}},
        "$defs": {"0": schema},
    })
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("n{number}")).collect()
}

#[track_caller]
fn refused(schema: &Value) {
    // No value of this configuration is looked at.
    match validate(&schema.to_string(), &json!({})) {
        Err(Invalid::Schema(why)) => assert!(why.contains("together takes too long"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn forms_that_lead_to_more_with_each_step_are_refused() {
    // Few enough to end, were they not refused.
    let grows = |of: &str, each: usize| {
        let mut schema = forms(
            of,
            json!({"allOf": vec![json!({"$ref": "#/$defs/1"}); each]}),
        );
        for step in 1..8 {
            let next = json!({"$ref": format!("#/$defs/{}", step + 1)});
            schema["$defs"][step.to_string()] = json!({"allOf": vec![next; each]});
        }
        schema["$defs"]["8"] = json!({"required": ["a"]});
        schema
    };
    for of in ["anyOf", "oneOf"] {
        refused(&grows(of, 6));
        let few = grows(of, 1);
        assert_eq!(validate(&few.to_string(), &json!({})), Ok(()));
    }
}

#[test]
fn the_same_names_in_many_forms_are_refused() {
    let many = |schema: Value| {
        let form = json!({"$ref": "#/$defs/0"});
        json!({"items": {"anyOf": vec![form; 2000]}, "$defs": {"0": schema}})
    };
    refused(&many(json!({"required": names(1000)})));
    let fields: Map<_, _> = names(1000).into_iter().map(|it| (it, json!(1))).collect();
    refused(&many(json!({ "properties": fields })));
}

#[test]
fn many_names_put_into_one_are_refused() {
    let fields: Map<_, _> = names(8000)
        .into_iter()
        .map(|name| (name, json!(true)))
        .collect();
    let fields = json!({ "properties": fields });
    let all = json!({"$ref": "#/$defs/0"});
    refused(&json!({"items": {"allOf": [all, all]}, "$defs": {"0": fields}}));
}

#[test]
fn what_is_usual_is_put_together() {
    // An enum with many variants, each of them a struct with many fields.
    let variant = |number: usize| {
        let mut fields: Map<_, _> = (0..15)
            .map(|it| (format!("field_{number}_{it}"), json!({"type": "string"})))
            .collect();
        fields.insert("kind".to_owned(), json!({"const": format!("v{number}")}));
        json!({
            "type": "object",
            "properties": fields,
            "required": ["kind"],
            "additionalProperties": false,
            "allOf": [{"$ref": "#/$defs/Common"}, {"$ref": "#/$defs/More"}],
        })
    };
    let common: Map<_, _> = (0..100)
        .map(|it| (format!("common_{it}"), json!({"type": "integer"})))
        .collect();
    let schema = json!({
        "items": {"oneOf": (0..100).map(variant).collect::<Vec<_>>()},
        "$defs": {"Common": {"properties": common}, "More": {"properties": {"a": true}}},
    });
    assert_eq!(validate(&schema.to_string(), &json!([])), Ok(()));
    let wrong = validate(
        &schema.to_string(),
        &json!([{"kind": "v5", "field_5_1": 1}]),
    );
    assert!(matches!(wrong, Err(Invalid::Config(_))), "{wrong:?}");
}
