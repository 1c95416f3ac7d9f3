use serde_json::json;

use super::*;

fn deployment() -> Value {
    json!({"spec": {"replicas": 2, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        "template": {"metadata": {"labels": {"org": "empire"}}, "spec": {"containers": [
            {"name": "main", "image": "a:1", "args": ["x"],
             "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
             "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 8080}]},
            {"name": "side", "image": "b:1"}]}}}})
}

fn containers(value: &Value) -> &Value {
    &value["spec"]["template"]["spec"]["containers"]
}

#[test]
fn items_merge_by_key_and_nothing_else_is_lost() {
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "main"}, {"name": "side"}],
        "containers": [{"name": "main", "image": "a:2",
            "$setElementOrder/env": [{"name": "B"}, {"name": "A"}, {"name": "C"}],
            "env": [{"name": "A", "value": "9"}, {"name": "C", "value": "3"}]}]}}}});
    let out = apply("Deployment", &deployment(), &patch).expect("applies");
    assert_eq!(
        containers(&out)[0],
        json!({"name": "main", "image": "a:2", "args": ["x"],
            "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "9"}, {"name": "C", "value": "3"}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 8080}]})
    );
    assert_eq!(containers(&out)[1], containers(&deployment())[1]);
    assert!(!out.to_string().contains('$'));
}

#[test]
fn items_are_deleted_and_lists_replaced() {
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "side", "$patch": "delete"},
        {"name": "main", "args": ["y", "z"], "ports": [{"containerPort": 80, "$patch": "delete"}]}]}}}});
    let out = apply("Deployment", &deployment(), &patch).expect("applies");
    let left = containers(&out).as_array().expect("a list");
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["args"], json!(["y", "z"]));
    assert_eq!(left[0]["ports"], json!([{"containerPort": 8080}]));

    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"$patch": "replace"}, {"name": "only", "image": "c"}]}}}});
    let out = apply("Deployment", &deployment(), &patch).expect("applies");
    assert_eq!(*containers(&out), json!([{"name": "only", "image": "c"}]));
}

#[test]
fn maps_are_replaced_deleted_and_retained() {
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let out = apply("Deployment", &deployment(), &patch).expect("applies");
    assert_eq!(out["spec"]["strategy"], json!({"type": "Recreate"}));

    let patch = json!({"spec": {"strategy": {"$patch": "replace", "type": "Recreate"},
        "template": {"metadata": {"labels": {"$patch": "delete"}}}}});
    let out = apply("Deployment", &deployment(), &patch).expect("applies");
    assert_eq!(out["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(out["spec"]["template"]["metadata"], json!({}));
}

#[test]
fn sets_of_plain_values() {
    let current = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
        "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}});
    let out = apply("ConfigMap", &current, &patch).expect("applies");
    assert_eq!(out, json!({"metadata": {"finalizers": ["c", "b"]}}));
}

#[test]
fn equal_keys_survive_an_order() {
    // DNS listens on one port with two protocols, and `port` is the merge key.
    let ports =
        json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 9153}]);
    let current = json!({"spec": {"ports": ports}});
    let patch = json!({"spec": {"$setElementOrder/ports": [{"port": 53}, {"port": 53}, {"port": 9153}],
        "sessionAffinity": "None"}});
    let out = apply("Service", &current, &patch).expect("applies");
    assert_eq!(out["spec"]["ports"], ports);
}

#[test]
fn unknown_items_keep_their_neighbours() {
    let mut items = vec![json!("x"), json!("b"), json!("a"), json!("y")];
    set_order(&mut items, &[json!("a"), json!("b")], None);
    assert_eq!(items, vec![json!("x"), json!("a"), json!("b"), json!("y")]);
}

#[test]
fn nulls_delete_and_the_rest_is_plain_json() {
    let current = json!({"data": {"a": "1", "b": "2"}});
    let out = apply(
        "ConfigMap",
        &current,
        &json!({"data": {"a": null, "c": "3"}}),
    )
    .expect("applies");
    assert_eq!(out, json!({"data": {"b": "2", "c": "3"}}));
    assert!(apply("Pod", &json!({}), &json!([])).is_err());
    let keyless = json!({"spec": {"containers": [{"image": "a"}]}});
    assert!(apply("Pod", &json!({}), &keyless).is_err());
    assert!(apply("Pod", &json!({}), &json!({"spec": {"$patch": "explode"}})).is_err());
}
