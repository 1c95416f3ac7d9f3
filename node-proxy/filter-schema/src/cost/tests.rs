use serde_json::{Map, Value, json};

use super::{Telling, check};

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

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("n{number}")).collect()
}

fn takes_too_long(schema: &Value, config: &Value) {
    let error = check(schema, config).expect_err("too long");
    assert!(error.contains("takes too long"), "{error}");
}

#[test]
fn what_is_usual_is_cheap() {
    let tree = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z]+$"},
            "children": {"type": "array", "items": {"$ref": "#"}},
            "by": {"oneOf": [{"$ref": "#/$defs/By"}, {"type": "null"}]},
            "kind": {"enum": ["a", "b", "c"]},
            "ports": {"type": "array", "items": {"type": "integer"}, "uniqueItems": true},
        },
        "required": ["name"],
        "additionalProperties": false,
        "$defs": {"By": {"properties": {"header": {"type": "string"}}}},
    });
    let mut config = json!({"name": "x"});
    for _level in 0..20 {
        config = json!({"name": "x", "children": [config, {"name": "y"}]});
    }
    assert_eq!(check(&tree, &config), Ok(Telling::All));
    let ports: Vec<_> = (0..40_000).collect();
    assert_eq!(
        check(&tree, &json!({"name": "x", "ports": ports})),
        Ok(Telling::All)
    );
    let many: Vec<_> = (0..20_000)
        .map(|_one| json!({"name": "abc", "kind": "a"}))
        .collect();
    assert!(check(&tree, &json!({"children": many})).is_ok());
    assert_eq!(check(&json!(true), &json!({})), Ok(Telling::All));
}

#[test]
fn what_grows_with_each_step_is_refused() {
    let both = |next: Value| json!({"if": next.clone(), "then": next});
    assert_eq!(check(&chain(10, both), &json!({})), Ok(Telling::All));
    takes_too_long(&chain(40, both), &json!({}));
    // Here it is the configuration that makes it grow.
    let inside = json!({"properties": {"x": {"$ref": "#"}}});
    let twice = json!({"allOf": [inside, {"properties": {"x": {"$ref": "#"}}}]});
    assert_eq!(check(&twice, &nested(5)), Ok(Telling::All));
    takes_too_long(&twice, &nested(60));
}

#[test]
fn lists_of_the_schema_are_counted_for_each_value() {
    let items = |schema: Value| json!({"properties": {"x": {"items": schema}}});
    let objects = json!({"x": vec![json!({}); 80_000]});
    takes_too_long(&items(json!({"required": names(40_000)})), &objects);
    let fields: Map<_, _> = names(10_000)
        .into_iter()
        .map(|name| (name, json!(true)))
        .collect();
    takes_too_long(&items(json!({"properties": fields})), &objects);
    let dependent = json!({"dependentRequired": {"a": names(30_000)}});
    takes_too_long(&items(dependent), &objects);
    let dependent = json!({"dependencies": {"a": names(30_000)}});
    takes_too_long(&items(dependent), &objects);
    let numbers = json!({"x": vec![json!(-1); 80_000]});
    let allowed: Vec<_> = (0..40_000).collect();
    takes_too_long(&items(json!({"enum": allowed})), &numbers);
    takes_too_long(&items(json!({"const": allowed})), &numbers);
    // Within reason they are no trouble.
    let few = json!({"x": vec![json!({}); 1000]});
    assert!(check(&items(json!({"required": names(100)})), &few).is_ok());
}

#[test]
fn items_that_can_be_made_to_hash_alike_are_counted_with_each_other() {
    let unique = json!({"uniqueItems": true});
    let lists: Vec<_> = (0..20_000).map(|_one| json!([[1]])).collect();
    takes_too_long(&unique, &json!(lists));
    let large: Vec<_> = (0..12_000).map(|it| json!((1_u64 << 62) + it)).collect();
    takes_too_long(&unique, &json!(large));
    assert!(check(&unique, &json!(names(40_000))).is_ok());
    let few: Vec<_> = (0..500).map(|it| json!({"a": it})).collect();
    assert!(check(&unique, &json!(few)).is_ok());
}

#[test]
fn exact_division_is_counted() {
    let cents = json!({"items": {"multipleOf": 0.01}});
    takes_too_long(&cents, &json!(vec![1e300; 10_000]));
    assert!(check(&cents, &json!(vec![0.5; 100])).is_ok());
    let whole = json!({"items": {"multipleOf": 10}});
    assert!(check(&whole, &json!(vec![20; 10_000])).is_ok());
}

#[test]
fn a_pattern_costs_as_much_as_it_has_states() {
    let large = json!({"pattern": "(a?){5000}b"});
    takes_too_long(&large, &json!("a".repeat(200_000)));
    takes_too_long(
        &json!({"patternProperties": {"(a?){5000}b": true}}),
        &json!({"a".repeat(200_000): 1}),
    );
    let small = json!({"pattern": "^(\\w|-){1,64}$"});
    assert!(check(&json!({"items": small}), &json!(names(10_000))).is_ok());
    let error = check(&json!({"pattern": "a".repeat(2000)}), &json!("")).expect_err("long");
    assert!(error.contains("more than 1024 bytes"), "{error}");
}

#[test]
fn what_would_be_collected_is_bounded() {
    let wrong = json!(vec![json!({}); 2000]);
    let missing = json!({"items": {"required": names(1000)}});
    assert_eq!(check(&missing, &wrong), Ok(Telling::First));
    let forms = json!({"anyOf": [missing]});
    assert_eq!(check(&forms, &wrong), Ok(Telling::Nothing));
    // Forms elsewhere are no trouble.
    let beside = json!({"allOf": [missing, {"anyOf": [{"type": "array"}, {"type": "null"}]}]});
    assert_eq!(check(&beside, &wrong), Ok(Telling::First));
    // Each problem has its path.
    let long = json!({"x".repeat(100_000): vec![1; 1000]});
    let numbers = json!({"additionalProperties": {"items": {"type": "string"}}});
    assert_eq!(check(&numbers, &long), Ok(Telling::First));
    // Of several forms each problem has its value.
    let nothing = json!({"anyOf": vec![json!({"not": {}}); 200]});
    assert_eq!(
        check(&nothing, &json!(vec![1; 20_000])),
        Ok(Telling::Nothing)
    );
}

#[test]
fn what_is_deep_is_refused() {
    let error = check(&chain(5000, |next| next), &json!({})).expect_err("deep");
    assert!(error.contains("more than 1000 deep"), "{error}");
    // A long way that this configuration does not go.
    let inside = |next: Value| json!({"properties": {"x": next}});
    assert_eq!(check(&chain(2500, inside), &nested(3)), Ok(Telling::All));
}

#[test]
fn places_that_take_all_memory_are_refused() {
    let fields: Map<_, _> = names(500)
        .into_iter()
        .map(|name| (name, json!({"type": "string"})))
        .collect();
    let schema = json!({"properties": {"x".repeat(100_000): {"properties": fields}}});
    let error = check(&schema, &json!({})).expect_err("long");
    assert!(error.contains("too long"), "{error}");
}

#[test]
fn places_in_each_other_are_not_referred_to_too_often() {
    let fields: Map<_, _> = names(1000)
        .into_iter()
        .map(|name| (name, json!({"$ref": "#/$defs/b"})))
        .collect();
    let with = |levels: usize| {
        let mut inner = json!({ "properties": fields });
        let mut place = "#/$defs/a".to_owned();
        let mut places = Vec::new();
        for _level in 0..levels {
            inner = json!({ "not": inner });
            places.push(json!({"$ref": place.clone()}));
            place += "/not";
        }
        json!({"properties": {"x": {"prefixItems": places}}, "$defs": {"a": inner, "b": true}})
    };
    assert!(check(&with(2), &json!({})).is_ok());
    let error = check(&with(100), &json!({})).expect_err("too many");
    assert!(error.contains("too much in common"), "{error}");
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
        (
            json!({"unevaluatedProperties": false}),
            "additionalProperties is",
        ),
        (json!({"not": {"$id": "x"}}), "at its top only"),
        (json!({"not": {"$schema": "x"}}), "at its top only"),
        (json!({"$defs": {"a": {"$id": "x"}}}), "at its top only"),
    ] {
        let error = check(&schema, &json!({})).expect_err("refused");
        assert!(error.contains(said), "{schema}: {error}");
    }
    // As the name of a field it is a name.
    let named = json!({"$id": "x", "properties": {"$id": {"type": "string"}}});
    assert_eq!(check(&named, &json!({})), Ok(Telling::All));
    let patterns: Vec<_> = (0..40).map(|n| json!({"pattern": n.to_string()})).collect();
    let error = check(&json!({"anyOf": patterns}), &json!({})).expect_err("many");
    assert!(error.contains("more than 32 patterns"), "{error}");
}
