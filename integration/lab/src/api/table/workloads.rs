//! Rows of pods and of what makes pods.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Names, age};
use crate::api::object;
use crate::api::selector::LabelSelector;

pub(super) const POD: Names = &[
    ("Ready", false),
    ("Status", false),
    ("Restarts", false),
    ("Age", false),
    ("IP", true),
    ("Node", true),
    ("Nominated Node", true),
    ("Readiness Gates", true),
];
pub(super) const DEPLOYMENT: Names = &[
    ("Ready", false),
    ("Up-to-date", false),
    ("Available", false),
    ("Age", false),
    ("Containers", true),
    ("Images", true),
    ("Selector", true),
];
pub(super) const REPLICA_SET: Names = &[
    ("Desired", false),
    ("Current", false),
    ("Ready", false),
    ("Age", false),
    ("Containers", true),
    ("Images", true),
    ("Selector", true),
];
pub(super) const DAEMON_SET: Names = &[
    ("Desired", false),
    ("Current", false),
    ("Ready", false),
    ("Up-to-date", false),
    ("Available", false),
    ("Node Selector", false),
    ("Age", false),
    ("Containers", true),
    ("Images", true),
    ("Selector", true),
];

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

pub(super) fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let statuses = object::list(pod, "/status/containerStatuses");
    let ready = statuses.iter().filter(|s| s["ready"] == true).count();
    let total = object::list(pod, "/spec/containers").len();
    vec![
        json!(format!("{ready}/{total}")),
        json!(pod_status(pod)),
        json!(restarts(statuses, now)),
        json!(age::of(pod, now)),
        json!(or_none(object::text(pod, "/status/podIP"))),
        json!(or_none(object::text(pod, "/spec/nodeName"))),
        json!(or_none(object::text(pod, "/status/nominatedNodeName"))),
        json!(readiness_gates(pod)),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = object::list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let passed = |g: &&Value| object::has_condition(pod, object::text(g, "/conditionType"));
    format!("{}/{}", gates.iter().filter(passed).count(), gates.len())
}

fn restarts(statuses: &[Value], now: Timestamp) -> String {
    let count: i64 = statuses
        .iter()
        .map(|s| object::number(s, "/restartCount"))
        .sum();
    let last = statuses
        .iter()
        .map(|s| &s["lastState"]["terminated"]["finishedAt"])
        .filter(|t| t.is_string())
        .max_by_key(|t| t.as_str().map(str::to_owned));
    match last {
        Some(time) if count > 0 => format!("{count} ({} ago)", age::since(time, now)),
        _ => count.to_string(),
    }
}

/// One word for the state of a pod: the phase, unless its containers have more to say.
fn pod_status(pod: &Value) -> String {
    let mut reason = match object::text(pod, "/status/reason") {
        "" => match object::text(pod, "/status/phase") {
            "" => "Unknown",
            phase => phase,
        },
        reason => reason,
    }
    .to_owned();
    let gated = object::list(pod, "/status/conditions")
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated");
    if gated {
        "SchedulingGated".clone_into(&mut reason);
    }
    if let Some(first) = initializing(pod) {
        reason = first;
    } else {
        let mut running = false;
        let statuses = object::list(pod, "/status/containerStatuses");
        for status in statuses.iter().rev() {
            match container_reason(status) {
                Some(why) => reason = why,
                None => {
                    let runs = !status["state"]["running"].is_null();
                    running |= runs && status["ready"] == true;
                }
            }
        }
        if reason == "Completed" && running {
            let ready = object::has_condition(pod, "Ready");
            (if ready { "Running" } else { "NotReady" }).clone_into(&mut reason);
        }
    }
    if object::is_deleting(pod) {
        let lost = object::text(pod, "/status/reason") == "NodeLost";
        let done = matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed");
        if lost {
            "Unknown".clone_into(&mut reason);
        } else if !done {
            "Terminating".clone_into(&mut reason);
        }
    }
    reason
}

fn container_reason(status: &Value) -> Option<String> {
    let state = &status["state"];
    let waiting = object::text(&state["waiting"], "/reason");
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    let terminated = &state["terminated"];
    terminated.as_object()?;
    Some(match object::text(terminated, "/reason") {
        "" => match object::number(terminated, "/signal") {
            0 => format!("ExitCode:{}", object::number(terminated, "/exitCode")),
            signal => format!("Signal:{signal}"),
        },
        reason => reason.to_owned(),
    })
}

fn initializing(pod: &Value) -> Option<String> {
    let statuses = object::list(pod, "/status/initContainerStatuses");
    let total = object::list(pod, "/spec/initContainers").len();
    statuses.iter().enumerate().find_map(|(i, status)| {
        let terminated = &status["state"]["terminated"];
        if terminated.is_object() && object::number(terminated, "/exitCode") == 0 {
            return None;
        }
        Some(match container_reason(status) {
            Some(why) if why != "PodInitializing" => format!("Init:{why}"),
            _ => format!("Init:{i}/{total}"),
        })
    })
}

pub(super) fn deployment(deployment: &Value, now: Timestamp) -> Vec<Value> {
    let of = |pointer: &str| object::number(deployment, pointer);
    let mut cells = vec![
        json!(format!(
            "{}/{}",
            of("/status/readyReplicas"),
            of("/spec/replicas")
        )),
        json!(of("/status/updatedReplicas")),
        json!(of("/status/availableReplicas")),
        json!(age::of(deployment, now)),
    ];
    cells.extend(template(deployment));
    cells
}

pub(super) fn replica_set(set: &Value, now: Timestamp) -> Vec<Value> {
    let of = |pointer: &str| json!(object::number(set, pointer));
    let mut cells = vec![
        of("/spec/replicas"),
        of("/status/replicas"),
        of("/status/readyReplicas"),
        json!(age::of(set, now)),
    ];
    cells.extend(template(set));
    cells
}

pub(super) fn daemon_set(set: &Value, now: Timestamp) -> Vec<Value> {
    let of = |field: &str| json!(object::number(set, &format!("/status/{field}")));
    let nodes = set.pointer("/spec/template/spec/nodeSelector");
    let nodes = nodes.and_then(Value::as_object).filter(|m| !m.is_empty());
    let mut cells = vec![
        of("desiredNumberScheduled"),
        of("currentNumberScheduled"),
        of("numberReady"),
        of("updatedNumberScheduled"),
        of("numberAvailable"),
        json!(nodes.map_or_else(|| "<none>".to_owned(), labels)),
        json!(age::of(set, now)),
    ];
    cells.extend(template(set));
    cells
}

/// `a=b,c=d`.
pub(super) fn labels(map: &Map<String, Value>) -> String {
    let pairs = map
        .iter()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
    pairs.collect::<Vec<_>>().join(",")
}

fn template(workload: &Value) -> [Value; 3] {
    let containers = object::list(workload, "/spec/template/spec/containers");
    let all = |field: &str| {
        let texts = containers.iter().map(|c| object::text(c, field));
        texts.collect::<Vec<_>>().join(",")
    };
    let selector = LabelSelector::from_object(&workload["spec"]["selector"]).unwrap_or_default();
    [
        json!(all("/name")),
        json!(all("/image")),
        json!(selector.to_string()),
    ]
}
