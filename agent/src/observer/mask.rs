//! Leaving out what a client did not ask for.

use weft_api::hubble::flow::{Endpoint, Flow};
use weft_api::hubble::wkt::FieldMask;

/// Which fields of a flow to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mask {
    /// Top-level names; with them everything below.
    fields: Vec<String>,
    /// Fields of the two ends that are wanted one by one.
    source: Vec<String>,
    destination: Vec<String>,
}

/// What text formats print besides what they ask for: a line of theirs is wrong
/// without it.
const OWED_TO_TEXT: [&str; 12] = [
    "traffic_direction",
    "policy_match_type",
    "sock_xlate_point",
    "debug_capture_point",
    "source_names",
    "destination_names",
    "egress_allowed_by",
    "ingress_allowed_by",
    "egress_denied_by",
    "ingress_denied_by",
    "drop_reason_desc",
    "auth_type",
];

/// Text formats always ask for these together; somebody who chooses fields for
/// a program has no use for the summary of an event that he can read.
const MARKS_OF_TEXT: [&str; 4] = ["Summary", "event_type", "is_reply", "l4"];

impl Mask {
    /// No mask, or an empty one, keeps everything.
    ///
    /// # Errors
    /// A path that no flow has, as text for the client.
    pub(super) fn new(mask: Option<&FieldMask>) -> Result<Option<Self>, String> {
        let Some(mask) = mask.filter(|mask| !mask.paths.is_empty()) else {
            return Ok(None);
        };
        let mut parsed = Self {
            fields: Vec::new(),
            source: Vec::new(),
            destination: Vec::new(),
        };
        for path in &mask.paths {
            let unknown = || format!("invalid field mask: unknown path {path:?}");
            let (field, rest) = path.split_once('.').unwrap_or((path, ""));
            if !FIELDS.contains(&field) {
                return Err(unknown());
            }
            let list = match field {
                "source" if !rest.is_empty() => &mut parsed.source,
                "destination" if !rest.is_empty() => &mut parsed.destination,
                _ => {
                    parsed.fields.push(field.to_owned());
                    continue;
                }
            };
            if !END_FIELDS.contains(&rest) {
                return Err(unknown());
            }
            list.push(rest.to_owned());
        }
        let has = |field: &&str| parsed.fields.iter().any(|own| own == field);
        if MARKS_OF_TEXT.iter().all(has) {
            parsed.fields.extend(OWED_TO_TEXT.map(str::to_owned));
        }
        Ok(Some(parsed))
    }

    fn end(&self, field: &str, wanted: &[String], end: Option<&Endpoint>) -> Option<Endpoint> {
        if self.fields.iter().any(|own| own == field) {
            return end.cloned();
        }
        if wanted.is_empty() {
            return None;
        }
        end.map(|end| masked_end(end, wanted))
    }
}

macro_rules! fields {
    ($constant:ident, $function:ident, $message:ty: $($name:literal => $field:ident),* $(,)?) => {
        const $constant: &[&str] = &[$($name),*];

        /// A copy with only the wanted fields.
        fn $function(from: &$message, wanted: &[String]) -> $message {
            let mut to = <$message>::default();
            for name in wanted {
                match name.as_str() {
                    $($name => to.$field = from.$field.clone(),)*
                    _ => {}
                }
            }
            to
        }
    };
}

fields! { END_FIELDS, masked_end, Endpoint:
    "ID" => id,
    "identity" => identity,
    "cluster_name" => cluster_name,
    "namespace" => namespace,
    "labels" => labels,
    "pod_name" => pod_name,
    "workloads" => workloads,
}

fields! { FIELDS, masked, Flow:
    "time" => time,
    "uuid" => uuid,
    "emitter" => emitter,
    "verdict" => verdict,
    "drop_reason" => drop_reason,
    "auth_type" => auth_type,
    "ethernet" => ethernet,
    "IP" => ip,
    "l4" => l4,
    "tunnel" => tunnel,
    "source" => source,
    "destination" => destination,
    "Type" => r#type,
    "node_name" => node_name,
    "node_labels" => node_labels,
    "source_names" => source_names,
    "destination_names" => destination_names,
    "l7" => l7,
    "reply" => reply,
    "event_type" => event_type,
    "source_service" => source_service,
    "destination_service" => destination_service,
    "traffic_direction" => traffic_direction,
    "policy_match_type" => policy_match_type,
    "trace_observation_point" => trace_observation_point,
    "trace_reason" => trace_reason,
    "file" => file,
    "ip_trace_id" => ip_trace_id,
    "drop_reason_desc" => drop_reason_desc,
    "is_reply" => is_reply,
    "debug_capture_point" => debug_capture_point,
    "interface" => interface,
    "proxy_port" => proxy_port,
    "trace_context" => trace_context,
    "sock_xlate_point" => sock_xlate_point,
    "socket_cookie" => socket_cookie,
    "cgroup_id" => cgroup_id,
    "Summary" => summary,
    "extensions" => extensions,
    "egress_allowed_by" => egress_allowed_by,
    "ingress_allowed_by" => ingress_allowed_by,
    "egress_denied_by" => egress_denied_by,
    "ingress_denied_by" => ingress_denied_by,
    "policy_log" => policy_log,
    "aggregate" => aggregate,
}

/// The flow as the client wants it. Fields below the two ends are kept one by
/// one; of other messages all or nothing.
pub(super) fn apply(flow: &Flow, mask: Option<&Mask>) -> Flow {
    let Some(mask) = mask else {
        return flow.clone();
    };
    let mut kept = masked(flow, &mask.fields);
    kept.source = mask.end("source", &mask.source, flow.source.as_ref());
    kept.destination = mask.end("destination", &mask.destination, flow.destination.as_ref());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> Result<Option<Mask>, String> {
        let paths = paths.iter().map(ToString::to_string).collect();
        Mask::new(Some(&FieldMask { paths }))
    }

    fn flow() -> Flow {
        Flow {
            uuid: "u".into(),
            summary: "TCP".into(),
            node_name: "n".into(),
            traffic_direction: 1,
            source: Some(Endpoint {
                identity: 7,
                pod_name: "p".into(),
                labels: vec!["k8s:a=b".into()],
                ..Endpoint::default()
            }),
            ..Flow::default()
        }
    }

    #[test]
    fn a_chosen_mask_is_kept_to_the_letter() {
        let mask = mask(&["uuid", "source.pod_name"]).unwrap();
        let end = Endpoint {
            pod_name: "p".into(),
            ..Endpoint::default()
        };
        let kept = Flow {
            uuid: "u".into(),
            source: Some(end),
            ..Flow::default()
        };
        assert_eq!(apply(&flow(), mask.as_ref()), kept);
    }

    #[test]
    fn text_formats_get_what_their_lines_are_made_of() {
        let mask = mask(&["Summary", "event_type", "is_reply", "l4", "source.identity"]).unwrap();
        let kept = apply(&flow(), mask.as_ref());
        assert_eq!(kept.traffic_direction, 1);
        assert_eq!(kept.uuid, "");
        assert_eq!(
            kept.source.map(|end| (end.identity, end.labels.len())),
            Some((7, 0))
        );
    }

    #[test]
    fn no_mask_keeps_all_and_a_wrong_one_is_refused() {
        assert_eq!(mask(&[]), Ok(None));
        assert_eq!(apply(&flow(), None), flow());
        assert!(mask(&["sauce"]).unwrap_err().contains("sauce"));
        assert!(mask(&["source.pod"]).unwrap_err().contains("source.pod"));
    }
}
