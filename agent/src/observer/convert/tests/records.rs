//! Requests and responses.

use weft_api::hubble::flow::layer7;
use weft_api::node;

use super::*;
use crate::observer::testing::{request, response, rule};

#[test]
fn requests_and_responses() {
    let url = "http://deathstar.default.svc.cluster.local/v1/request-landing";
    let ends = |arrow| format!("default/tiefighter:60218 (ID:3108) {arrow} {STAR}:80 (ID:47013)");
    let mut record = request(1, "r1");
    record.trace_id = "0af7651916cd43dd8448eb211c80319c".into();
    record.rule = Some(rule());
    let flow = recorded(&record);
    assert_eq!(
        line(&flow),
        format!(
            "{} http-request FORWARDED (HTTP/1.1 POST {url})",
            ends("->")
        )
    );
    assert_eq!(flow.traffic_direction(), TrafficDirection::Egress);
    assert_eq!(flow.egress_allowed_by[0].name, "rule1");
    assert_eq!(flow.proxy_port, 15_001);
    let parent = flow.trace_context.and_then(|context| context.parent);
    assert_eq!(
        parent.map(|parent| parent.trace_id),
        Some(record.trace_id.clone())
    );
    let flow = recorded(&response(2, "r1", 200, 3));
    assert_eq!(
        line(&flow),
        format!(
            "{} http-response FORWARDED (HTTP/1.1 200 3ms (POST {url}))",
            ends("<-")
        )
    );
    assert_eq!(
        flow.traffic_direction(),
        TrafficDirection::Egress,
        "the observation point's"
    );
    let l7 = flow.l7.unwrap();
    assert_eq!(l7.latency_ns, 3_999_999);
    let Some(layer7::Record::Http(http)) = l7.record else {
        panic!("HTTP")
    };
    assert_eq!(
        (http.headers[0].key.as_str(), http.headers[0].value.as_str()),
        ("X-Request-Id", "r1")
    );
}

#[test]
fn a_denied_request_says_who_denied_it() {
    let mut record = request(1, "r1");
    record.verdict = node::Verdict::Dropped.into();
    record.direction = node::Direction::Ingress.into();
    record.rule = Some(rule());
    let flow = recorded(&record);
    assert!(line(&flow).contains("http-request DROPPED (HTTP/1.1 POST"));
    assert_eq!(
        (flow.drop_reason, flow.drop_reason_desc()),
        (133, Name::PolicyDenied)
    );
    assert_eq!(flow.ingress_denied_by[0].name, "rule1");
    record.rule = None;
    assert!(
        recorded(&record).ingress_denied_by.is_empty(),
        "not a pod of this node"
    );
    record.direction = node::Direction::Egress.into();
    let flow = recorded(&record);
    assert_eq!(
        flow.egress_denied_by.len(),
        1,
        "the policy that could have allowed it, once"
    );
    assert_eq!(flow.egress_denied_by[0].name, "rule1");
    record.reason = "not http".into();
    record.http = None;
    let flow = recorded(&record);
    assert_eq!((flow.summary.as_str(), flow.drop_reason), ("not http", 0));
    assert!(flow.egress_denied_by.is_empty(), "no policy's doing");
}

#[test]
fn a_request_that_a_filter_denied_names_it() {
    let mut record = request(1, "r1");
    record.verdict = node::Verdict::Dropped.into();
    record.direction = node::Direction::Ingress.into();
    record.rule = Some(rule());
    record.filter = "WeftFilter default/jwt: no token".into();
    let flow = recorded(&record);
    assert!(line(&flow).contains(": WeftFilter default/jwt: no token)"));
    assert_eq!(flow.drop_reason, 0, "policy allowed it");
    let [by] = &flow.ingress_denied_by[..] else {
        panic!("one filter: {:?}", flow.ingress_denied_by)
    };
    assert_eq!(
        (&*by.kind, &*by.namespace, &*by.name),
        ("WeftFilter", "default", "jwt")
    );
    record.filter = "WeftClusterFilter guard".into();
    let flow = recorded(&record);
    let by = &flow.ingress_denied_by[0];
    assert_eq!(
        (&*by.kind, &*by.namespace, &*by.name),
        ("WeftClusterFilter", "", "guard")
    );
}
