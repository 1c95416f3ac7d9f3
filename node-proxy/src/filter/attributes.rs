//! What filters are told of an exchange besides its messages. Made when one
//! asks.

use http::Version;
use weft_core::model::{EndpointId, LabelSource, NAMESPACE_LABEL};
use weft_wasm_host::exchange as host;

use super::exchange::Known;
use crate::identity::{Direction, End};
use crate::pipeline::trace::hex;
use crate::telemetry::exchange::Decisions;
use crate::telemetry::record;

/// What a filter of this direction is told.
pub(super) fn of(
    known: &Known,
    direction: Direction,
    decisions: &Decisions,
    version: Option<Version>,
) -> host::Attributes {
    let decision = match direction {
        Direction::Egress => decisions.egress.as_ref(),
        Direction::Ingress => decisions.ingress.as_ref(),
    };
    let verdict = match decision {
        None => "",
        Some(decision) if decision.allowed => "forwarded",
        Some(_denied) => "dropped",
    };
    let rule = decision.and_then(|decision| decision.rule.as_deref());
    host::Attributes {
        request_id: known.request_id.as_str().to_owned(),
        trace_id: known.trace.as_ref().map(trace_id).unwrap_or_default(),
        direction: match direction {
            Direction::Egress => host::Direction::Egress,
            Direction::Ingress => host::Direction::Ingress,
        },
        source: peer(known, &known.ends.source),
        destination: peer(known, &known.ends.destination),
        verdict: verdict.to_owned(),
        rule: rule.map(ToString::to_string).unwrap_or_default(),
        route: String::new(),
        http_version: version.map(record::protocol).unwrap_or_default().to_owned(),
    }
}

fn trace_id(trace: &crate::pipeline::trace::Trace) -> String {
    let mut text = [0; 32];
    hex(&trace.trace_id, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn peer(known: &Known, end: &End) -> host::Peer {
    let snapshot = &known.config.snapshot;
    let labels = snapshot.identity_labels(end.identity);
    let namespace = labels.and_then(|labels| labels.get(LabelSource::K8s, NAMESPACE_LABEL));
    let pod = end
        .endpoint
        .and_then(|id| snapshot.endpoint(EndpointId(id)));
    host::Peer {
        address: end.address.ip().to_string(),
        port: end.address.port(),
        identity: end.identity.0,
        namespace: pod.map_or_else(
            || {
                namespace
                    .map(|label| label.value().to_owned())
                    .unwrap_or_default()
            },
            |pod| pod.namespace.to_string(),
        ),
        pod: pod.map(|pod| pod.pod.to_string()).unwrap_or_default(),
        labels: labels.map_or_else(Vec::new, |labels| {
            let labels = labels.iter();
            let pairs = labels.map(|label| (label.key().to_owned(), label.value().to_owned()));
            pairs.collect()
        }),
    }
}
