//! Which webhooks a request concerns. Pure.

use serde_json::Value;

use super::{Operation, Subject};
use crate::api::object;
use crate::api::resource::NAMESPACES;
use crate::api::selector::LabelSelector;

/// The version of its objects in which a webhook wants to judge the subject; `None` when
/// it does not want to. `namespace` is the subject's.
pub(super) fn version<'a>(
    hook: &Value,
    subject: &Subject<'a>,
    namespace: Option<&Value>,
) -> Option<&'a str> {
    if !of_namespace(hook, subject, namespace) || !of_object(hook, subject) {
        return None;
    }
    let rules = object::list(hook, "/rules");
    let wanted = |version: &str| rules.iter().any(|rule| matches(rule, subject, version));
    if wanted(subject.version) {
        return Some(subject.version);
    }
    // All versions show the same object: a rule about one of them is about all.
    let equivalent = hook["matchPolicy"] != "Exact";
    let mut others = subject.info.versions.iter().map(|v| v.name.as_str());
    others.find(|version| equivalent && wanted(version))
}

fn matches(rule: &Value, subject: &Subject<'_>, version: &str) -> bool {
    let listed = |pointer: &str, value: &str| {
        let list = object::list(rule, pointer);
        list.iter().any(|entry| entry == "*" || entry == value)
    };
    let scope = match object::text(rule, "/scope") {
        "Cluster" => !subject.info.namespaced,
        "Namespaced" => subject.info.namespaced,
        _ => true,
    };
    let mut resources = object::list(rule, "/resources").iter();
    scope
        && listed("/operations", subject.operation.name())
        && listed("/apiGroups", &subject.info.group)
        && listed("/apiVersions", version)
        && resources.any(|r| names(r.as_str().unwrap_or_default(), subject))
}

/// `pods`, `pods/status`, `pods/*`, `*/status`, `*` (no subresources) or `*/*`.
fn names(resource: &str, subject: &Subject<'_>) -> bool {
    let (plural, sub) = resource.split_once('/').unwrap_or((resource, ""));
    (plural == "*" || plural == subject.info.plural) && (sub == "*" || sub == subject.subresource)
}

/// A Namespace is judged by its own labels; other cluster-scoped objects always match.
fn of_namespace(hook: &Value, subject: &Subject<'_>, namespace: Option<&Value>) -> bool {
    let Some(selector) = LabelSelector::from_object(&hook["namespaceSelector"]) else {
        return true;
    };
    let labelled = if subject.info.namespaced {
        namespace
    } else if subject.info.is(&NAMESPACES) {
        let new = subject.operation != Operation::Delete && subject.subresource.is_empty();
        let side = if new { &subject.object } else { &subject.old };
        side.as_ref()
    } else {
        return true;
    };
    selector.is_empty() || labelled.is_some_and(|object| selector.matches(object))
}

/// Either side will do: taking a label away does not get around a webhook.
fn of_object(hook: &Value, subject: &Subject<'_>) -> bool {
    let Some(selector) = LabelSelector::from_object(&hook["objectSelector"]) else {
        return true;
    };
    let mut sides = [&subject.object, &subject.old].into_iter().flatten();
    selector.is_empty() || sides.any(|object| selector.matches(object))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::resource::{self, ResourceId, ResourceType, Version};

    fn info(id: &ResourceId) -> ResourceType {
        let mut info = resource::built_in().find(|r| r.is(id)).expect("built in");
        info.versions.push(Version {
            name: "v2".to_owned(),
            columns: Vec::new(),
            schema: Value::Null,
        });
        info
    }

    fn subject(info: &ResourceType) -> Subject<'_> {
        Subject {
            info,
            version: "v1",
            subresource: "",
            operation: Operation::Update,
            namespace: "default",
            name: "x",
            object: Some(json!({"metadata": {"labels": {"new": "1"}}})),
            old: Some(json!({"metadata": {"labels": {"old": "1"}}})),
            dry_run: false,
            options: json!({}),
        }
    }

    /// A webhook about all Pods, but for these fields.
    fn hook(rule: Value, fields: Value) -> Value {
        let mut hook = json!({
            "matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {},
            "rules": [
                {"operations": ["DELETE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["nothing"], "scope": "*"},
                {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "*"},
            ],
        });
        crate::api::patch::merge(&mut hook["rules"][1], &rule);
        crate::api::patch::merge(&mut hook, &fields);
        hook
    }

    #[test]
    fn every_part_of_a_rule_counts() {
        let pods = info(&resource::PODS);
        let wants = |rule: Value| version(&hook(rule, json!({})), &subject(&pods), None).is_some();
        for rule in [
            json!({}),
            json!({"operations": ["CREATE", "UPDATE"]}),
            json!({"apiGroups": ["*"]}),
            json!({"apiVersions": ["*"]}),
            json!({"resources": ["services", "pods"]}),
            json!({"resources": ["*"]}),
            json!({"resources": ["*/*"]}),
            json!({"resources": ["pods/*"]}),
            json!({"scope": "Namespaced"}),
        ] {
            assert!(wants(rule.clone()), "{rule}");
        }
        for rule in [
            json!({"operations": ["CREATE", "DELETE", "CONNECT"]}),
            json!({"apiGroups": ["apps"]}),
            json!({"apiVersions": ["v3"]}),
            json!({"resources": ["services"]}),
            json!({"resources": ["pods/status"]}),
            json!({"resources": ["*/status"]}),
            json!({"scope": "Cluster"}),
        ] {
            assert!(!wants(rule.clone()), "{rule}");
        }
    }

    #[test]
    fn subresources_are_named() {
        let pods = info(&resource::PODS);
        let mut status = subject(&pods);
        status.subresource = "status";
        let wants = |resources: &[&str]| {
            let hook = hook(json!({ "resources": resources }), json!({}));
            version(&hook, &status, None).is_some()
        };
        assert!(wants(&["pods/status"]) && wants(&["*/status"]) && wants(&["pods/*"]));
        assert!(wants(&["*/*"]));
        assert!(!wants(&["pods"]) && !wants(&["*"]) && !wants(&["pods/scale"]));
    }

    #[test]
    fn other_versions_are_the_same_object_unless_exact() {
        let pods = info(&resource::PODS);
        let wants = |policy: &str, versions: &[&str]| {
            let hook = hook(
                json!({ "apiVersions": versions }),
                json!({ "matchPolicy": policy }),
            );
            version(&hook, &subject(&pods), None)
        };
        assert_eq!(wants("Equivalent", &["v2"]), Some("v2"));
        assert_eq!(wants("Equivalent", &["v2", "v1"]), Some("v1"));
        assert_eq!(wants("Exact", &["v2"]), None);
        assert_eq!(wants("Exact", &["v1"]), Some("v1"));
    }

    #[test]
    fn selectors_look_at_namespace_and_both_objects() {
        let pods = info(&resource::PODS);
        let space = json!({"metadata": {"labels": {"team": "a"}}});
        let wants = |fields: Value| {
            version(&hook(json!({}), fields), &subject(&pods), Some(&space)).is_some()
        };
        let labels = |field: &str, labels: Value| json!({ field: { "matchLabels": labels } });
        assert!(wants(labels("namespaceSelector", json!({"team": "a"}))));
        assert!(!wants(labels("namespaceSelector", json!({"team": "b"}))));
        assert!(!wants(labels("namespaceSelector", json!({"new": "1"}))));
        assert!(wants(labels("objectSelector", json!({"new": "1"}))));
        assert!(wants(labels("objectSelector", json!({"old": "1"}))));
        assert!(!wants(labels(
            "objectSelector",
            json!({"old": "1", "new": "1"})
        )));
        assert!(!wants(labels("objectSelector", json!({"team": "a"}))));
    }

    #[test]
    fn cluster_scoped_objects_are_in_no_namespace() {
        let all = json!({"resources": ["*"]});
        let teams = json!({"namespaceSelector": {"matchLabels": {"new": "1"}}});
        let hook = hook(all, teams);
        let (nodes, namespaces) = (info(&resource::NODES), info(&resource::NAMESPACES));
        let mut node = subject(&nodes);
        node.object = Some(json!({}));
        assert!(version(&hook, &node, None).is_some());
        let mut space = subject(&namespaces);
        assert!(version(&hook, &space, None).is_some());
        space.operation = Operation::Delete;
        space.object = None;
        assert!(version(&hook, &space, None).is_none());
    }
}
