use super::super::flow::*;
use super::*;

/// A request from a client pod to a server pod.
fn request() -> Flow {
    Flow {
        uuid: "4f7a".into(),
        verdict: Verdict::Forwarded as i32,
        ip: Some(Ip {
            source: "10.244.1.10".into(),
            destination: "10.244.2.11".into(),
            ip_version: IpVersion::IPv4 as i32,
            ..Ip::default()
        }),
        l4: Some(Layer4 {
            protocol: Some(layer4::Protocol::Tcp(Tcp {
                source_port: 41_000,
                destination_port: 80,
                flags: Some(TcpFlags {
                    ack: true,
                    psh: true,
                    ..TcpFlags::default()
                }),
            })),
        }),
        source: Some(Endpoint {
            identity: 8279,
            cluster_name: "default".into(),
            namespace: "default".into(),
            labels: vec!["k8s:class=tiefighter".into(), "k8s:org=empire".into()],
            pod_name: "tiefighter".into(),
            ..Endpoint::default()
        }),
        destination: Some(Endpoint {
            identity: 27_726,
            namespace: "shop".into(),
            labels: vec![
                "k8s:app.kubernetes.io/name=web".into(),
                "k8s:replicas=3".into(),
            ],
            pod_name: "web-7848d6c4d5-5tndv".into(),
            workloads: vec![Workload {
                name: "web".into(),
                kind: "Deployment".into(),
            }],
            ..Endpoint::default()
        }),
        destination_service: Some(Service {
            name: "web".into(),
            namespace: "shop".into(),
        }),
        destination_names: vec!["www.example.com".into()],
        node_name: "kind-worker".into(),
        node_labels: vec!["kubernetes.io/os=linux".into()],
        event_type: Some(CiliumEventType {
            r#type: 129,
            sub_type: 0,
        }),
        traffic_direction: TrafficDirection::Egress as i32,
        is_reply: Some(false),
        trace_context: Some(TraceContext {
            parent: Some(TraceParent {
                trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
            }),
        }),
        interface: Some(NetworkInterface {
            index: 7,
            name: "lxc1".into(),
        }),
        l7: Some(Layer7 {
            r#type: L7FlowType::Request as i32,
            record: Some(layer7::Record::Http(Http {
                code: 0,
                method: "POST".into(),
                url: "http://web.shop/v1/a%20b?x=1".into(),
                headers: vec![HttpHeader {
                    key: "X-Request-Id".into(),
                    value: "r1".into(),
                }],
                ..Http::default()
            })),
            ..Layer7::default()
        }),
        ..Flow::default()
    }
}

fn matches(filter: FlowFilter, flow: &Flow) -> bool {
    FlowFilters::new(&[filter], &[]).unwrap().matches(flow)
}

/// Each case: what selects the request, and what is like it but does not.
fn check(cases: Vec<(FlowFilter, FlowFilter)>) {
    for (hit, miss) in cases {
        assert!(matches(hit.clone(), &request()), "should match: {hit:?}");
        assert!(
            !matches(miss.clone(), &request()),
            "should not match: {miss:?}"
        );
    }
}

macro_rules! by {
    ($field:ident: $($value:expr),*) => {
        FlowFilter { $field: vec![$($value.into()),*], ..FlowFilter::default() }
    };
}

#[test]
fn names_of_ends() {
    check(vec![
        (by!(source_pod: "tie"), by!(source_pod: "fighter")),
        (
            by!(source_pod: "default/tiefighter"),
            by!(source_pod: "shop/tiefighter"),
        ),
        (by!(source_pod: "default/"), by!(source_pod: "shop/")),
        (by!(source_pod: "/tiefighter"), by!(source_pod: "/x")),
        // Without a slash the namespace is `default`, and the server is elsewhere.
        (
            by!(destination_pod: "shop/web"),
            by!(destination_pod: "web"),
        ),
        (
            by!(destination_service: "shop/web"),
            by!(source_service: "shop/web"),
        ),
        (
            by!(source_cluster_name: "default"),
            by!(source_cluster_name: "other"),
        ),
        (
            by!(source_identity: 8279_u32),
            by!(source_identity: 27_726_u32),
        ),
        (
            by!(destination_fqdn: "*.example.com"),
            by!(destination_fqdn: "example.com"),
        ),
        (
            by!(destination_fqdn: "WWW.example.com."),
            by!(destination_fqdn: "ww.example.com"),
        ),
        (
            by!(destination_fqdn: "w*.ex*e.com"),
            by!(destination_fqdn: "w*.ex*e.org"),
        ),
    ]);
    let workload = |name: &str, kind: &str| Workload {
        name: name.into(),
        kind: kind.into(),
    };
    check(vec![
        (
            by!(destination_workload: workload("web", "")),
            by!(destination_workload: workload("we", "")),
        ),
        (
            by!(destination_workload: workload("web", "Deployment")),
            by!(destination_workload: workload("web", "DaemonSet")),
        ),
        (
            by!(destination_workload: workload("", "Deployment")),
            by!(source_workload: workload("", "Deployment")),
        ),
    ]);
}

#[test]
fn addresses_and_ports() {
    check(vec![
        (by!(source_ip: "10.244.1.10"), by!(source_ip: "10.244.1.1")),
        (
            by!(destination_ip: "10.244.2.0/24"),
            by!(destination_ip: "10.244.1.0/24"),
        ),
        (by!(destination_port: "80"), by!(destination_port: "8080")),
        (by!(source_port: "41000"), by!(source_port: "80")),
        (
            by!(ip_version: IpVersion::IPv4),
            by!(ip_version: IpVersion::IPv6),
        ),
        (by!(encrypted: false), by!(encrypted: true)),
    ]);
}

#[test]
fn labels() {
    check(vec![
        (
            by!(source_label: "org=empire"),
            by!(source_label: "org=alliance"),
        ),
        (
            by!(source_label: "k8s:org=empire"),
            by!(source_label: "reserved:org=empire"),
        ),
        (
            by!(source_label: "any:org==empire"),
            by!(source_label: "org!=empire"),
        ),
        (
            by!(source_label: "org,class"),
            by!(source_label: "org,missing"),
        ),
        (by!(source_label: "!missing"), by!(source_label: "!org")),
        (
            by!(source_label: "class in (xwing, tiefighter)"),
            by!(source_label: "class in (xwing)"),
        ),
        (
            by!(source_label: "class notin (xwing)"),
            by!(source_label: "class notin (tiefighter),org"),
        ),
        (
            by!(source_label: "missing notin (a)"),
            by!(source_label: "missing in (a)"),
        ),
        (
            by!(destination_label: "replicas>2"),
            by!(destination_label: "replicas<2"),
        ),
        (
            by!(destination_label: "k8s:app.kubernetes.io/name=web"),
            by!(destination_label: "k8s:app.kubernetes.io/name=we"),
        ),
        (
            by!(node_labels: "kubernetes.io/os=linux"),
            by!(node_labels: "kubernetes.io/os=plan9"),
        ),
    ]);
}

#[test]
fn kinds_of_events() {
    let event = |r#type, sub: Option<i32>| EventTypeFilter {
        r#type,
        match_sub_type: sub.is_some(),
        sub_type: sub.unwrap_or(0),
    };
    let flags = |syn| TcpFlags {
        ack: true,
        syn,
        ..TcpFlags::default()
    };
    let interface = |index, name: &str| NetworkInterface {
        index,
        name: name.into(),
    };
    check(vec![
        (by!(uuid: "4f7a"), by!(uuid: "4f7b")),
        (
            by!(event_type: event(129, None)),
            by!(event_type: event(4, None)),
        ),
        (
            by!(event_type: event(129, Some(0))),
            by!(event_type: event(129, Some(1))),
        ),
        (
            by!(verdict: Verdict::Forwarded),
            by!(verdict: Verdict::Dropped),
        ),
        (
            by!(traffic_direction: TrafficDirection::Egress),
            by!(traffic_direction: TrafficDirection::Ingress),
        ),
        (by!(protocol: "http"), by!(protocol: "dns")),
        (by!(protocol: "TCP"), by!(protocol: "udp")),
        (by!(tcp_flags: flags(false)), by!(tcp_flags: flags(true))),
        (by!(reply: false), by!(reply: true)),
        (
            by!(trace_id: "0af7651916cd43dd8448eb211c80319c"),
            by!(trace_id: "0af7"),
        ),
        (
            by!(interface: interface(0, "lxc1")),
            by!(interface: interface(8, "lxc1")),
        ),
        (by!(node_name: "kind-*"), by!(node_name: "kind")),
        (
            by!(node_name: "default/kind-worker"),
            by!(node_name: "other/kind-worker"),
        ),
        (by!(node_name: "default/"), by!(node_name: "other/")),
    ]);
}

#[test]
fn http() {
    let header = |value: &str| HttpHeader {
        key: "X-Request-Id".into(),
        value: value.into(),
    };
    check(vec![
        (by!(http_method: "post"), by!(http_method: "get")),
        // Paths are decoded and come without their query.
        (by!(http_path: "^/v1/a b$"), by!(http_path: "x=1")),
        (by!(http_url: "x=1$"), by!(http_url: "^/v1")),
        (
            by!(http_header: header("r1")),
            by!(http_header: header("r2")),
        ),
    ]);
    let mut response = request();
    if let Some(layer7::Record::Http(http)) = &mut response.l7.as_mut().unwrap().record {
        http.code = 503;
    }
    assert!(matches(by!(http_status_code: "503"), &response));
    assert!(matches(by!(http_status_code: "404", "5+"), &response));
    assert!(!matches(by!(http_status_code: "51+"), &response));
    assert!(
        !matches(by!(http_status_code: "5+"), &request()),
        "a request has no status"
    );
}

#[test]
fn drops_count_as_requests_and_have_reasons() {
    let mut flow = Flow {
        verdict: Verdict::Dropped as i32,
        drop_reason_desc: DropReason::PolicyDenied as i32,
        ..Flow::default()
    };
    assert!(matches(by!(reply: false), &flow));
    assert!(matches(
        by!(drop_reason_desc: DropReason::PolicyDenied),
        &flow
    ));
    flow.verdict = Verdict::Traced as i32;
    assert!(!matches(by!(reply: false), &flow));
    assert!(!matches(
        by!(drop_reason_desc: DropReason::PolicyDenied),
        &flow
    ));
}

#[test]
fn values_are_alternatives_fields_all_must_match_and_a_denial_wins() {
    let both = FlowFilter {
        http_method: vec!["POST".into()],
        ..by!(source_pod: "x", "tie")
    };
    assert!(matches(both.clone(), &request()));
    let other = FlowFilter {
        http_method: vec!["PUT".into()],
        ..both.clone()
    };
    assert!(!matches(other.clone(), &request()));
    let either = FlowFilters::new(&[other.clone(), both.clone()], &[]).unwrap();
    assert!(either.matches(&request()));
    assert!(
        !FlowFilters::new(std::slice::from_ref(&both), std::slice::from_ref(&both))
            .unwrap()
            .matches(&request())
    );
    assert!(FlowFilters::new(&[], &[other]).unwrap().matches(&request()));
    assert!(matches(FlowFilter::default(), &Flow::default()));
}

#[test]
fn what_cannot_be_honoured_is_refused_with_the_reason() {
    let cel = FlowFilter {
        experimental: Some(flow_filter::Experimental {
            cel_expression: vec!["true".into()],
        }),
        ..FlowFilter::default()
    };
    let l4_only = vec![EventTypeFilter {
        r#type: 4,
        ..EventTypeFilter::default()
    }];
    for (filter, reason) in [
        (cel, "CEL"),
        (by!(source_ip: "10.0.0"), "invalid IP address"),
        (by!(source_ip: "10.0.0.0/40"), "invalid IP prefix"),
        (by!(source_pod: ""), "name must not be empty"),
        (by!(source_port: "99999"), "invalid port"),
        (by!(protocol: "smtp"), "unknown protocol"),
        (by!(http_status_code: "6+"), "invalid status code prefix"),
        (by!(http_status_code: "50"), "invalid status code prefix"),
        (by!(http_path: "("), "invalid http path filter"),
        (by!(source_label: "a=b=c"), "invalid source label filter"),
        (by!(source_label: "a in b"), "invalid source label filter"),
        (by!(destination_fqdn: "a b"), "invalid rune"),
        (by!(node_name: "a/b/c"), "too many slashes"),
        (
            FlowFilter {
                event_type: l4_only,
                ..by!(http_method: "GET")
            },
            "'l7' events",
        ),
    ] {
        let error =
            FlowFilters::new(std::slice::from_ref(&filter), &[]).expect_err("must be refused");
        assert!(error.to_string().contains(reason), "{error} for {filter:?}");
    }
}

#[test]
fn paths_of_urls() {
    let path = |url| super::http::path_of(url);
    assert_eq!(path("http://a/b?c"), Some("/b".into()));
    assert_eq!(path("/b/%2f"), Some("/b//".into()));
    assert_eq!(path("http://a?c"), Some(String::new()));
    assert_eq!(path("nonsense"), None);
    assert_eq!(path("/%zz"), None);
}
