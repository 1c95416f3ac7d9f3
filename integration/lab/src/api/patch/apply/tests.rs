use serde_json::json;

use super::*;
use crate::api::resource::{DEPLOYMENTS, SERVICES, built_in};

fn info(id: &crate::api::resource::ResourceId) -> ResourceType {
    built_in().find(|r| r.is(id)).expect("built in")
}

fn by<'a>(manager: &'a str, config: &'a Value) -> Apply<'a> {
    Apply {
        config,
        manager,
        force: false,
        subresource: "",
    }
}

#[test]
fn a_field_that_is_no_longer_sent_goes_away_and_foreign_ones_stay() {
    let info = info(&DEPLOYMENTS);
    let first = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1", "b": "2"}},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [
            {"name": "x", "image": "x:1", "env": [{"name": "E", "value": "1"}]}, {"name": "y", "image": "y:1"}]}}}});
    let mut object = apply(&info, &Value::Null, &by("one", &first)).expect("creates");
    object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
    let second = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1"}},
        "spec": {"template": {"spec": {"containers": [{"name": "x", "image": "x:2"}]}}}});
    let object = apply(&info, &object, &by("one", &second)).expect("applies");
    assert_eq!(object["metadata"]["labels"], json!({"a": "1"}));
    assert_eq!(object["spec"].get("replicas"), None);
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"],
        json!([{"name": "x", "image": "x:2", "imagePullPolicy": "Always"}])
    );
}

#[test]
fn another_owner_conflicts_unless_forced() {
    let info = info(&DEPLOYMENTS);
    let one = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2}});
    let two = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3}});
    let object = apply(&info, &Value::Null, &by("one", &one)).expect("creates");
    let error = apply(&info, &object, &by("two", &two)).expect_err("conflicts");
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
        )
    );
    // The same value is shared, so taking it back does not remove it for the other.
    let shared = apply(&info, &object, &by("two", &one)).expect("shares");
    let left = json!({"metadata": {"name": "d"}, "spec": {}});
    let shared = apply(&info, &shared, &by("one", &left)).expect("leaves");
    assert_eq!(shared["spec"]["replicas"], 2);

    let forced = Apply {
        force: true,
        ..by("two", &two)
    };
    let object = apply(&info, &object, &forced).expect("takes over");
    assert_eq!(object["spec"]["replicas"], 3);
    // The loser owns it no more: leaving it out removes nothing.
    let object = apply(&info, &object, &by("one", &left)).expect("applies");
    assert_eq!(object["spec"]["replicas"], 3);
}

#[test]
fn ports_are_told_apart_by_protocol() {
    let info = info(&SERVICES);
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}, {"name": "m", "port": 9153}]);
    let config = json!({"metadata": {"name": "kube-dns"}, "spec": {"ports": ports}});
    let object = apply(&info, &Value::Null, &by("one", &config)).expect("creates");
    let again = apply(&info, &object, &by("one", &config)).expect("applies");
    assert_eq!(again["spec"]["ports"], ports);
    let fewer = json!({"metadata": {"name": "kube-dns"}, "spec": {"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}});
    let object = apply(&info, &again, &by("one", &fewer)).expect("applies");
    assert_eq!(object["spec"]["ports"], fewer["spec"]["ports"]);
}

#[test]
fn an_unchanged_apply_changes_nothing() {
    let info = info(&SERVICES);
    let config =
        json!({"apiVersion": "v1", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}}});
    let object = apply(&info, &Value::Null, &by("one", &config)).expect("creates");
    assert_eq!(
        apply(&info, &object, &by("one", &config)).expect("applies"),
        object
    );
}
