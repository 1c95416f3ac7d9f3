use serde_json::json;

use super::*;
use crate::api::resource::{self, ResourceId, Version};

fn info(id: &ResourceId) -> ResourceType {
    resource::built_in().find(|r| r.is(id)).expect("built in")
}

fn row(id: &ResourceId, object: &Value) -> Vec<String> {
    let table = table(
        &info(id),
        "v1",
        std::iter::once(object),
        Include::None,
        json!({}),
    );
    let cells = table["rows"][0]["cells"].as_array().expect("cells").iter();
    cells
        .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
        .collect()
}

#[test]
fn pods_say_what_is_the_matter() {
    let pod = |status: Value| json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "a"}, {"name": "b"}]}, "status": status});
    let word = |status: Value| row(&resource::PODS, &pod(status))[2].clone();
    assert_eq!(word(json!({})), "Unknown");
    assert_eq!(word(json!({"phase": "Pending"})), "Pending");
    assert_eq!(
        word(
            json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]})
        ),
        "ContainerCreating"
    );
    assert_eq!(
        word(
            json!({"phase": "Running", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}, {"state": {"running": {}}}]})
        ),
        "ExitCode:3"
    );
    let mut dying = pod(json!({"phase": "Running"}));
    dying["metadata"]["deletionTimestamp"] = json!("2024-08-12T06:00:00Z");
    assert_eq!(row(&resource::PODS, &dying)[2], "Terminating");
    let running = pod(
        json!({"phase": "Running", "podIP": "10.244.1.10", "containerStatuses": [
        {"ready": true, "restartCount": 2, "state": {"running": {}}}, {"ready": false, "restartCount": 1, "state": {"running": {}}}]}),
    );
    let cells = row(&resource::PODS, &running);
    assert_eq!(cells[1..4], ["1/2", "Running", "3"]);
    assert_eq!(cells[5..], ["10.244.1.10", "n", "<none>", "<none>"]);
}

#[test]
fn services_show_ports_and_addresses() {
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.96.1.2", "selector": {"a": "b", "c": "d"},
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}, {"port": 53, "protocol": "UDP"}]}});
    assert_eq!(
        row(&resource::SERVICES, &service),
        [
            "s",
            "NodePort",
            "10.96.1.2",
            "<none>",
            "80:30000/TCP,53/UDP",
            "<unknown>",
            "a=b,c=d"
        ]
    );
}

#[test]
fn ages_as_kubectl_writes_them() {
    for (seconds, text) in [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (301, "5m1s"),
        (4380, "73m"),
        (3 * 3600 + 60, "3h1m"),
        (9 * 3600 + 60, "9h"),
        (3 * 86_400 + 7200, "3d2h"),
        (9 * 86_400, "9d"),
        (800 * 86_400, "2y70d"),
        (-5, "<invalid>"),
    ] {
        assert_eq!(age::human(seconds), text);
    }
}

#[test]
fn custom_columns_follow_their_paths() {
    let columns = vec![
        json!({"name": "Valid", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Valid')].status"}),
        json!({"name": "Ports", "type": "string", "priority": 1, "jsonPath": ".spec.ports[*].port"}),
        json!({"name": "Odd", "type": "integer", "jsonPath": ".spec['a.b']"}),
        json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}),
    ];
    let mut info = info(&resource::PODS);
    info.custom = true;
    info.versions = vec![Version {
        name: "v2".to_owned(),
        columns,
        schema: Value::Null,
    }];
    let object = json!({"metadata": {"name": "rule1"}, "spec": {"a.b": 7, "ports": [{"port": 80}, {"port": 81}]},
        "status": {"conditions": [{"type": "Other", "status": "x"}, {"type": "Valid", "status": "True"}]}});
    let table = table(
        &info,
        "v2",
        std::iter::once(&object),
        Include::Metadata,
        json!({}),
    );
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["rule1", "True", "80,81", 7, null])
    );
    assert_eq!(table["columnDefinitions"][2]["priority"], 1);
    assert_eq!(
        print(&table, true),
        "NAME    VALID   PORTS   ODD   AGE\nrule1   True    80,81   7\n"
    );
    assert_eq!(
        print(&table, false).lines().next(),
        Some("NAME    VALID   ODD   AGE")
    );
}

#[test]
fn webhook_configurations_are_counted() {
    let two =
        json!({"metadata": {"name": "w"}, "webhooks": [{"name": "a.b.c"}, {"name": "d.b.c"}]});
    let cells = row(&resource::WEBHOOK_CONFIGURATIONS, &two);
    assert_eq!(cells[..2], ["w", "2"]);
    let shown = table(
        &info(&resource::WEBHOOK_CONFIGURATIONS),
        "v1",
        std::iter::once(&two),
        Include::None,
        json!({}),
    );
    let heading = print(&shown, true);
    let heading = heading.lines().next().expect("a heading");
    assert_eq!(
        heading.split_whitespace().collect::<Vec<_>>(),
        ["NAME", "WEBHOOKS", "AGE"]
    );
}
