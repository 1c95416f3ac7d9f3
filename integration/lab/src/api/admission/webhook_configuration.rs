//! Defaults of webhook configurations, and what may be in them.

use serde_json::{Map, Value, json};

use super::defaults::default;
use super::validate::{Causes, port_number};
use crate::api::selector::LabelSelector;
use crate::api::webhook::{Place, authorities};
use crate::api::{names, object};

/// Fills in what Kubernetes fills in.
pub(super) fn fill(configuration: &mut Value) {
    for hook in maps(&mut configuration["webhooks"]) {
        default(hook, "failurePolicy", json!("Fail"));
        default(hook, "matchPolicy", json!("Equivalent"));
        default(hook, "namespaceSelector", json!({}));
        default(hook, "objectSelector", json!({}));
        default(hook, "timeoutSeconds", json!(10));
        let client = hook.get_mut("clientConfig");
        let service = client.and_then(|client| client.get_mut("service"));
        if let Some(service) = service.and_then(Value::as_object_mut) {
            default(service, "port", json!(443));
        }
        let Some(rules) = hook.get_mut("rules") else {
            continue;
        };
        for rule in maps(rules) {
            default(rule, "scope", json!("*"));
        }
    }
}

fn maps(list: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let items = list.as_array_mut().into_iter().flatten();
    items.filter_map(Value::as_object_mut)
}

/// Judges a configuration with its defaults.
pub(super) fn check(configuration: &Value, causes: &mut Causes) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, hook) in object::list(configuration, "/webhooks").iter().enumerate() {
        let path = format!("webhooks[{i}]");
        let name = object::text(hook, "/name");
        if seen.contains(&name) {
            let message = format!("Duplicate value: {name:?}");
            causes.push((format!("{path}.name"), message));
        }
        seen.push(name);
        webhook(hook, &path, causes);
    }
}

fn webhook(hook: &Value, path: &str, causes: &mut Causes) {
    let mut complain = |field: &str, message: String| {
        causes.push((format!("{path}.{field}"), message));
    };
    let name = object::text(hook, "/name");
    if name.is_empty() {
        complain("name", "Required value".to_owned());
    } else if !names::is_subdomain(name) || name.split('.').count() < 3 {
        let message = format!(
            "Invalid value: {name:?}: should be a domain with at least three segments separated by dots"
        );
        complain("name", message);
    }
    let versions = object::list(hook, "/admissionReviewVersions");
    if versions.is_empty() {
        let message = "Required value: must specify one of v1";
        complain("admissionReviewVersions", message.to_owned());
    } else if !versions.contains(&json!("v1")) {
        let message = format!(
            "Invalid value: {}: must include at least one of v1",
            hook["admissionReviewVersions"]
        );
        complain("admissionReviewVersions", message);
    }
    for (field, choices) in [
        ("sideEffects", ["None", "NoneOnDryRun"]),
        ("failurePolicy", ["Fail", "Ignore"]),
        ("matchPolicy", ["Equivalent", "Exact"]),
    ] {
        if let Some(message) = unsupported(&hook[field], &choices) {
            complain(field, message);
        }
    }
    let seconds = &hook["timeoutSeconds"];
    if !seconds.as_i64().is_some_and(|s| (1..=30).contains(&s)) {
        let message =
            format!("Invalid value: {seconds}: the timeout value must be between 1 and 30 seconds");
        complain("timeoutSeconds", message);
    }
    if !object::list(hook, "/matchConditions").is_empty() {
        let message = "Forbidden: this API evaluates no CEL: leave matchConditions out and let the webhook itself allow what it is not about";
        complain("matchConditions", message.to_owned());
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if LabelSelector::from_object(&hook[field]).is_none() {
            let message = "Invalid value: the operators of matchExpressions are In, NotIn, Exists and DoesNotExist";
            complain(field, message.to_owned());
        }
    }
    client(
        &hook["clientConfig"],
        &format!("{path}.clientConfig"),
        causes,
    );
    for (i, rule) in object::list(hook, "/rules").iter().enumerate() {
        check_rule(rule, &format!("{path}.rules[{i}]"), causes);
    }
}

fn unsupported(value: &Value, choices: &[&str]) -> Option<String> {
    let text = value.as_str().unwrap_or_default();
    let choices_text: Vec<String> = choices.iter().map(|c| format!("{c:?}")).collect();
    let choices_text = choices_text.join(", ");
    match text {
        _ if choices.contains(&text) => None,
        "" => Some(format!(
            "Required value: must specify one of {choices_text}"
        )),
        _ => Some(format!(
            "Unsupported value: {text:?}: supported values: {choices_text}"
        )),
    }
}

fn client(client: &Value, path: &str, causes: &mut Causes) {
    let service = &client["service"];
    if client["url"].is_null() == service.is_null() {
        let message = "Required value: exactly one of url or service is required";
        causes.push((path.to_owned(), message.to_owned()));
        return;
    }
    if let Err((field, problem)) = Place::of(client) {
        let value = client.pointer(&format!("/{}", field.replace('.', "/")));
        let message = match value.and_then(Value::as_str) {
            None | Some("") => "Required value".to_owned(),
            Some(value) => format!("Invalid value: {value:?}: {problem}"),
        };
        causes.push((format!("{path}.{field}"), message));
    }
    if !service.is_null() {
        port_number(&service["port"], &format!("{path}.service.port"), causes);
    }
    // One that has no authorities yet may get them later.
    let bundle = object::text(client, "/caBundle");
    if !bundle.is_empty()
        && let Err(problem) = authorities(bundle)
    {
        let message = format!("Invalid value: unable to load root certificates: {problem}");
        causes.push((format!("{path}.caBundle"), message));
    }
}

fn check_rule(rule: &Value, path: &str, causes: &mut Causes) {
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        let values = object::list(rule, &format!("/{field}"));
        let path = format!("{path}.{field}");
        if values.is_empty() {
            causes.push((path.clone(), "Required value".to_owned()));
        }
        for (i, value) in values.iter().enumerate() {
            // The core group is called "".
            if value == "" && field != "apiGroups" {
                causes.push((format!("{path}[{i}]"), "Required value".to_owned()));
            }
        }
        let alone = if field == "resources" { "*/*" } else { "*" };
        if values.len() > 1 && values.iter().any(|v| v == alone) {
            let message = format!(
                "Invalid value: {}: if '{alone}' is present, must not specify others",
                rule[field]
            );
            causes.push((path, message));
        }
    }
    for (i, resource) in object::list(rule, "/resources").iter().enumerate() {
        if resource.as_str().is_some_and(|r| r.ends_with("/scale")) {
            let message = "Forbidden: this API asks no webhook about scales: leave them out";
            causes.push((format!("{path}.resources[{i}]"), message.to_owned()));
        }
    }
    for (i, operation) in object::list(rule, "/operations").iter().enumerate() {
        let choices = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        if let Some(message) = unsupported(operation, &choices) {
            causes.push((format!("{path}.operations[{i}]"), message));
        }
    }
    if let Some(message) = unsupported(&rule["scope"], &["*", "Cluster", "Namespaced"]) {
        causes.push((format!("{path}.scope"), message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::patch::merge;
    use crate::api::resource::WEBHOOK_CONFIGURATIONS;
    use crate::api::status::ApiError;
    use crate::api::store::Store;

    fn hook() -> Value {
        json!({
            "name": "a.b.c", "admissionReviewVersions": ["v1beta1", "v1"], "sideEffects": "None",
            "clientConfig": { "service": { "name": "n", "namespace": "s" } },
            "rules": [{
                "operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
            }],
        })
    }

    fn create(hooks: &[Value]) -> Result<Value, ApiError> {
        let configuration = json!({ "metadata": { "name": "w" }, "webhooks": hooks });
        let made = Store::new().create_object(&WEBHOOK_CONFIGURATIONS, "", configuration);
        made.map(|made| Value::clone(&made))
    }

    /// The refusal of a webhook that differs in this.
    fn refused(difference: &Value) -> Vec<(String, String)> {
        let mut hook = hook();
        merge(&mut hook, difference);
        let error = create(&[hook]).expect_err(&difference.to_string());
        assert_eq!(error.code, 422, "{error}");
        let causes = object::list(&error.details, "/causes").iter();
        let text = |cause: &Value, field: &str| object::text(cause, field).to_owned();
        causes
            .map(|c| (text(c, "/field"), text(c, "/message")))
            .collect()
    }

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let made = create(&[hook()]).expect("fine");
        assert_eq!(made["metadata"]["generation"], 1);
        let mut expected = hook();
        let added = json!({
            "failurePolicy": "Fail", "matchPolicy": "Equivalent", "timeoutSeconds": 10,
            "namespaceSelector": {}, "objectSelector": {},
            "clientConfig": { "service": { "port": 443 } },
        });
        merge(&mut expected, &added);
        expected["rules"][0]["scope"] = json!("*");
        assert_eq!(made["webhooks"], json!([expected]));
    }

    #[test]
    fn mistakes_are_named() {
        for (difference, field) in [
            (json!({ "name": "a.b" }), "name"),
            (json!({ "name": "A.b.c" }), "name"),
            (
                json!({ "admissionReviewVersions": ["v1beta1"] }),
                "admissionReviewVersions",
            ),
            (
                json!({ "admissionReviewVersions": [] }),
                "admissionReviewVersions",
            ),
            (json!({ "sideEffects": "Some" }), "sideEffects"),
            (json!({ "failurePolicy": "Perhaps" }), "failurePolicy"),
            (json!({ "matchPolicy": "Perhaps" }), "matchPolicy"),
            (json!({ "timeoutSeconds": 0 }), "timeoutSeconds"),
            (json!({ "timeoutSeconds": 31 }), "timeoutSeconds"),
            (
                json!({ "matchConditions": [{ "name": "n", "expression": "true" }] }),
                "matchConditions",
            ),
            (
                json!({ "objectSelector": { "matchExpressions": [{ "key": "k", "operator": "Is" }] } }),
                "objectSelector",
            ),
            (
                json!({ "clientConfig": { "url": "https://a/" } }),
                "clientConfig",
            ),
            (
                json!({ "clientConfig": { "service": null } }),
                "clientConfig",
            ),
            (
                json!({ "clientConfig": { "service": null, "url": "http://a/" } }),
                "clientConfig.url",
            ),
            (
                json!({ "clientConfig": { "service": { "port": 70_000 } } }),
                "clientConfig.service.port",
            ),
            (
                json!({ "clientConfig": { "service": { "path": "p" } } }),
                "clientConfig.service.path",
            ),
            (
                json!({ "clientConfig": { "caBundle": "bm8gUEVN" } }),
                "clientConfig.caBundle",
            ),
        ] {
            let causes = refused(&difference);
            assert_eq!(causes.len(), 1, "{causes:?}");
            assert_eq!(causes[0].0, format!("webhooks[0].{field}"));
        }
        let twice = create(&[hook(), hook()]).expect_err("twice");
        assert!(
            twice
                .message
                .ends_with("webhooks[1].name: Duplicate value: \"a.b.c\""),
            "{twice}"
        );
    }

    #[test]
    fn rules_are_whole_and_without_contradiction() {
        for (difference, field) in [
            (json!({ "operations": [] }), "operations"),
            (json!({ "operations": ["READ"] }), "operations[0]"),
            (json!({ "operations": ["*", "CREATE"] }), "operations"),
            (json!({ "apiGroups": [] }), "apiGroups"),
            (json!({ "apiGroups": ["*", ""] }), "apiGroups"),
            (json!({ "apiVersions": [""] }), "apiVersions[0]"),
            (json!({ "resources": ["pods", "*/*"] }), "resources"),
            (json!({ "resources": ["pods", "*/scale"] }), "resources[1]"),
            (json!({ "scope": "All" }), "scope"),
        ] {
            let mut rules = hook()["rules"].clone();
            merge(&mut rules[0], &difference);
            let causes = refused(&json!({ "rules": rules }));
            assert_eq!(causes.len(), 1, "{causes:?}");
            assert_eq!(causes[0].0, format!("webhooks[0].rules[0].{field}"));
        }
    }
}
