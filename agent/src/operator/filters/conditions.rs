//! What the status of a filter says: pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use weft_api::k8s::filter::{
    Attachment, Filter, FilterKind, FilterStatus, NodeFilter, NodeStatus, Subject,
};
use weft_api::k8s::{Condition, FieldErrors};

/// Most nodes that are listed.
const MOST_NODES: usize = 32;
/// Most nodes that a message names, and most bytes of one.
const NAMED: usize = 3;
const LONGEST: usize = 4096;
/// The condition of a filter that is not called for a while.
const QUARANTINED: &str = "Quarantined";

/// A condition of a status.
pub(super) fn of<'s>(status: &'s FilterStatus, kind: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|one| one.kind == kind)
}

/// The status to write; none when the object has it already. Where it is not known
/// yet what nodes say, that part stays as it is.
pub(super) fn changed(
    before: &FilterStatus,
    generation: Option<i64>,
    verdict: &Result<Filter, FieldErrors>,
    nodes: Option<Vec<(String, NodeFilter)>>,
    now: Timestamp,
) -> Option<FilterStatus> {
    let mut status = before.clone();
    put(&mut status, accepted(verdict, generation), now);
    if let Some(nodes) = nodes {
        let seen = nodes.iter().map(|(_, said)| said.observed_generation).min();
        let seen = seen.or(generation);
        for mut condition in of_nodes(&nodes, verdict.as_ref().ok()) {
            condition.observed_generation = seen;
            put(&mut status, condition, now);
        }
        quarantined(&mut status, &nodes, seen, now);
        status.nodes = listed(nodes);
    }
    (status != *before).then_some(status)
}

/// Puts a condition in the place of the one before it, whose time stays where it
/// says the same.
fn put(status: &mut FilterStatus, mut condition: Condition, now: Timestamp) {
    let place = status
        .conditions
        .iter_mut()
        .find(|one| one.kind == condition.kind);
    match place {
        Some(before) if before.same_as(&condition) => {}
        Some(before) => {
            let same = before.status == condition.status;
            let since = before.last_transition_time.clone().filter(|_| same);
            condition.last_transition_time = Some(since.unwrap_or(Time(now)));
            *before = condition;
        }
        None => {
            condition.last_transition_time = Some(Time(now));
            status.conditions.push(condition);
        }
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: String) -> Condition {
    let mut message = message;
    if message.len() > LONGEST {
        message.truncate(message.floor_char_boundary(LONGEST));
        message.push_str("...");
    }
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        ..Condition::default()
    }
}

fn accepted(verdict: &Result<Filter, FieldErrors>, generation: Option<i64>) -> Condition {
    const KIND: &str = FilterStatus::ACCEPTED;
    let condition = match verdict {
        Ok(filter) => {
            let remark = filter.remark.unwrap_or("what it says can be honoured");
            condition(KIND, "True", "Accepted", remark.to_owned())
        }
        Err(errors) => condition(KIND, "False", "Invalid", errors.to_string()),
    };
    Condition {
        observed_generation: generation,
        ..condition
    }
}

fn of_nodes(nodes: &[(String, NodeFilter)], accepted: Option<&Filter>) -> [Condition; 2] {
    let (loaded, configured) = (FilterStatus::LOADED, FilterStatus::CONFIGURED);
    if nodes.is_empty() {
        let (reason, message) = match accepted {
            Some(filter) => ("NoNodes", nobody(filter)),
            None => ("NotAccepted", "the object is refused".to_owned()),
        };
        return [loaded, configured]
            .map(|kind| condition(kind, "Unknown", reason, message.clone()));
    }
    let without = |said: &NodeFilter| !said.loaded;
    let refuses = |said: &NodeFilter| said.loaded && !said.configured;
    let all = format!("on {} {}", nodes.len(), plural(nodes.len()));
    let loads = match told(nodes, without) {
        Some(message) => condition(loaded, "False", "NotLoaded", message),
        None => condition(loaded, "True", "Loaded", all.clone()),
    };
    let configures = match (told(nodes, refuses), told(nodes, without)) {
        (Some(message), _) => condition(configured, "False", "ConfigurationRefused", message),
        (None, Some(_)) => {
            let message = "it is not loaded everywhere".to_owned();
            condition(configured, "Unknown", "NotLoaded", message)
        }
        (None, None) => condition(configured, "True", "Configured", all),
    };
    [loads, configures]
}

/// Says which pods are missing.
fn nobody(filter: &Filter) -> String {
    let is_service = |one: &Attachment| matches!(one.subject, Subject::Service { .. });
    let pod = match filter.key.kind {
        _ if filter.attachments.iter().any(is_service) => {
            "behind a Service that the filter names".to_owned()
        }
        FilterKind::WeftFilter => format!(
            "of namespace {} with labels that the filter selects",
            filter.key.namespace
        ),
        FilterKind::WeftClusterFilter | FilterKind::WasmPlugin => {
            "with labels that the filter selects".to_owned()
        }
    };
    format!("no node says yet that it has a pod {pod}")
}

/// Says it while nodes say it, and that it is over when they did.
fn quarantined(
    status: &mut FilterStatus,
    nodes: &[(String, NodeFilter)],
    generation: Option<i64>,
    now: Timestamp,
) {
    let is = |said: &NodeFilter| said.quarantined_until.is_some();
    let told = told(nodes, is);
    if told.is_none() && of(status, QUARANTINED).is_none() {
        return;
    }
    let condition = match told {
        Some(message) => condition(QUARANTINED, "True", "CpuTimeUsedUp", message),
        None => condition(QUARANTINED, "False", "Served", String::new()),
    };
    let condition = Condition {
        observed_generation: generation,
        ..condition
    };
    put(status, condition, now);
}

/// The first nodes of which it is true, with what they say; none where there is
/// none.
fn told(nodes: &[(String, NodeFilter)], is: impl Fn(&NodeFilter) -> bool) -> Option<String> {
    let all: Vec<_> = nodes.iter().filter(|(_, said)| is(said)).collect();
    if all.is_empty() {
        return None;
    }
    let named = all.iter().take(NAMED).map(|(node, said)| {
        let until = said.quarantined_until.as_ref();
        match (&*said.error, until) {
            ("", Some(until)) => format!("{node}: until {}", until.0),
            ("", None) => node.clone(),
            (error, _) => format!("{node}: {error}"),
        }
    });
    let named = named.collect::<Vec<_>>().join("; ");
    Some(match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more {}", plural(more)),
    })
}

fn plural(count: usize) -> &'static str {
    match count {
        1 => "node",
        _ => "nodes",
    }
}

/// Those with a trouble first, then by name.
fn listed(mut nodes: Vec<(String, NodeFilter)>) -> Vec<NodeStatus> {
    let sound =
        |said: &NodeFilter| said.loaded && said.configured && said.quarantined_until.is_none();
    nodes.sort_by(|(left, of_left), (right, of_right)| {
        (sound(of_left), left).cmp(&(sound(of_right), right))
    });
    let nodes = nodes.into_iter().take(MOST_NODES);
    let nodes = nodes.map(|(name, said)| NodeStatus {
        name,
        loaded: said.loaded,
        configured: said.configured,
        digest: said.digest,
        error: said.error,
        quarantined_until: said.quarantined_until,
    });
    nodes.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_api::k8s::filter::read;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn verdict(phase: &str) -> Result<Filter, FieldErrors> {
        let spec = json!({"selector": {}, "phase": phase, "module": {"url": "file://a"}});
        let object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec});
        read(FilterKind::WeftFilter, &object)
    }

    fn good() -> Result<Filter, FieldErrors> {
        verdict("upstream")
    }

    fn said(loaded: bool, configured: bool, error: &str) -> NodeFilter {
        NodeFilter {
            loaded,
            configured,
            error: error.to_owned(),
            observed_generation: 1,
            ..NodeFilter::default()
        }
    }

    fn nodes(list: &[(&str, NodeFilter)]) -> Option<Vec<(String, NodeFilter)>> {
        let nodes = list
            .iter()
            .map(|(name, said)| ((*name).to_owned(), said.clone()));
        Some(nodes.collect())
    }

    /// Type, status, reason and message of the conditions.
    fn words(status: &FilterStatus) -> Vec<[&str; 4]> {
        let conditions = status.conditions.iter();
        let words = conditions.map(|one| [&*one.kind, &one.status, &one.reason, &one.message]);
        words.collect()
    }

    #[test]
    fn a_status_is_written_once_and_turns_with_what_nodes_say() {
        let none = FilterStatus::default();
        let first = changed(&none, Some(1), &good(), nodes(&[]), at(1)).expect("a status");
        let waiting = "no node says yet that it has a pod of namespace b with labels that the \
                       filter selects";
        assert_eq!(
            words(&first),
            [
                [
                    "Accepted",
                    "True",
                    "Accepted",
                    "what it says can be honoured"
                ],
                ["Loaded", "Unknown", "NoNodes", waiting],
                ["Configured", "Unknown", "NoNodes", waiting],
            ]
        );
        assert_eq!(changed(&first, Some(1), &good(), nodes(&[]), at(2)), None);
        assert_eq!(changed(&first, Some(1), &good(), None, at(2)), None);

        let both = nodes(&[
            ("one", said(true, true, "")),
            ("two", said(false, false, "oci://a: gone")),
        ]);
        let half = changed(&first, Some(1), &good(), both, at(3)).expect("a status");
        assert_eq!(
            words(&half)[1..],
            [
                ["Loaded", "False", "NotLoaded", "two: oci://a: gone"],
                [
                    "Configured",
                    "Unknown",
                    "NotLoaded",
                    "it is not loaded everywhere"
                ],
            ]
        );
        let names: Vec<_> = half.nodes.iter().map(|node| &*node.name).collect();
        assert_eq!(names, ["two", "one"]);
        let since = |status: &FilterStatus, kind| {
            let condition = of(status, kind).expect("there");
            condition.last_transition_time.clone()
        };
        assert_eq!(since(&half, "Accepted"), Some(Time(at(1))));
        assert_eq!(since(&half, "Loaded"), Some(Time(at(3))));

        let all = nodes(&[
            ("one", said(true, true, "")),
            ("two", said(true, false, "config.keys: is required")),
        ]);
        let refused = changed(&half, Some(1), &good(), all, at(4)).expect("a status");
        assert_eq!(
            words(&refused)[1..],
            [
                ["Loaded", "True", "Loaded", "on 2 nodes"],
                [
                    "Configured",
                    "False",
                    "ConfigurationRefused",
                    "two: config.keys: is required"
                ],
            ]
        );
        let one = nodes(&[("one", said(true, true, ""))]);
        let sound = changed(&refused, Some(1), &good(), one, at(5)).expect("a status");
        assert_eq!(
            words(&sound)[2],
            ["Configured", "True", "Configured", "on 1 node"]
        );
    }

    #[test]
    fn who_meets_nothing_is_told_which_pods_are_missing() {
        for (kind, spec, missing) in [
            (
                FilterKind::WeftFilter,
                json!({"targetRef": {"kind": "Service", "name": "a"}, "module": {"url": "file://a"}}),
                "a pod behind a Service that the filter names",
            ),
            (
                FilterKind::WeftClusterFilter,
                json!({"selector": {}, "module": {"url": "file://a"}}),
                "a pod with labels that the filter selects",
            ),
        ] {
            let object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec});
            let none = FilterStatus::default();
            let status = changed(&none, Some(1), &read(kind, &object), nodes(&[]), at(1));
            let message = format!("no node says yet that it has {missing}");
            assert_eq!(words(&status.expect("a status"))[1][3], message);
        }
    }

    #[test]
    fn a_refused_object_says_why_and_nodes_speak_of_the_version_before() {
        let none = FilterStatus::default();
        let bad = verdict("later");
        let refused = changed(&none, Some(2), &bad, nodes(&[]), at(1)).expect("a status");
        let [_, status, reason, message] = words(&refused)[0];
        assert_eq!((status, reason), ("False", "Invalid"));
        assert!(message.starts_with("spec.phase: "), "{message}");
        assert_eq!(words(&refused)[1][1..3], ["Unknown", "NotAccepted"]);
        let held = nodes(&[("one", said(false, false, "spec.phase: wrong"))]);
        let held = changed(&refused, Some(2), &bad, held, at(2)).expect("a status");
        let generation = |kind| of(&held, kind).and_then(|one| one.observed_generation);
        assert_eq!(
            (generation("Accepted"), generation("Loaded")),
            (Some(2), Some(1))
        );
    }

    #[test]
    fn of_many_nodes_a_few_are_named_and_those_with_a_trouble_listed() {
        let list: Vec<_> = (0..100)
            .map(|number| {
                let bad = number >= 40;
                (
                    format!("n{number:02}"),
                    said(!bad, !bad, if bad { "gone" } else { "" }),
                )
            })
            .collect();
        let none = FilterStatus::default();
        let status = changed(&none, Some(1), &good(), Some(list), at(1)).expect("a status");
        let message = "n40: gone; n41: gone; n42: gone; and 57 more nodes";
        assert_eq!(words(&status)[1][3], message);
        assert_eq!(status.nodes.len(), MOST_NODES);
        assert!(status.nodes.iter().all(|node| node.error == "gone"));
    }

    #[test]
    fn a_quarantine_is_told_and_its_end_too_and_others_conditions_stay() {
        let foreign = Condition {
            kind: "Reconciled".to_owned(),
            status: "True".to_owned(),
            ..Condition::default()
        };
        let before = FilterStatus {
            conditions: vec![foreign.clone()],
            ..FilterStatus::default()
        };
        let mut slow = said(true, true, "");
        slow.quarantined_until = Some(Time(at(60)));
        let held = nodes(&[("one", slow), ("two", said(true, true, ""))]);
        let held = changed(&before, Some(1), &good(), held, at(1)).expect("a status");
        assert_eq!(held.conditions[0], foreign);
        let quarantined = "one: until 1970-01-01T00:01:00Z";
        assert_eq!(
            words(&held)[4],
            ["Quarantined", "True", "CpuTimeUsedUp", quarantined]
        );
        assert_eq!(held.nodes[0].name, "one");
        let over = nodes(&[("one", said(true, true, ""))]);
        let over = changed(&held, Some(1), &good(), over, at(61)).expect("a status");
        assert_eq!(words(&over)[4], ["Quarantined", "False", "Served", ""]);
    }
}
