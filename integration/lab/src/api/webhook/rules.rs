//! Which webhooks a request concerns. Pure.

use serde_json::Value;

use super::{Operation, Subject};
use crate::api::object;
use crate::api::resource::NAMESPACES;
use crate::api::selector::LabelSelector;

/// Whether a webhook wants to judge the subject. `namespace` is the subject's.
pub(super) fn concern(hook: &Value, subject: &Subject<'_>, namespace: Option<&Value>) -> bool {
    let mut rules = object::list(hook, "/rules").iter();
    of_namespace(hook, subject, namespace)
        && of_object(hook, subject)
        && rules.any(|rule| matches(rule, subject))
}

fn matches(rule: &Value, subject: &Subject<'_>) -> bool {
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
        && listed("/apiVersions", subject.version)
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
    use crate::api::resource::{self, ResourceId, ResourceType};

    fn info(id: &ResourceId) -> ResourceType {
        resource::built_in().find(|r| r.is(id)).expect("built in")
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
            "namespaceSelector": {}, "objectSelector": {},
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
        let wants = |rule: Value| concern(&hook(rule, json!({})), &subject(&pods), None);
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
            json!({"apiVersions": ["v2"]}),
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
            concern(&hook, &status, None)
        };
        assert!(wants(&["pods/status"]) && wants(&["*/status"]) && wants(&["pods/*"]));
        assert!(wants(&["*/*"]));
        assert!(!wants(&["pods"]) && !wants(&["*"]) && !wants(&["pods/log"]));
    }

    #[test]
    fn selectors_look_at_namespace_and_both_objects() {
        let pods = info(&resource::PODS);
        let space = json!({"metadata": {"labels": {"team": "a"}}});
        let wants =
            |fields: Value| concern(&hook(json!({}), fields), &subject(&pods), Some(&space));
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
        assert!(concern(&hook, &node, None));
        let mut space = subject(&namespaces);
        assert!(concern(&hook, &space, None));
        space.operation = Operation::Delete;
        space.object = None;
        assert!(!concern(&hook, &space, None));
    }
}
