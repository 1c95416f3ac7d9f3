use std::net::Ipv4Addr;

use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use weft_api::hubble::flow::{FlowFilter, flow_filter};
use weft_api::hubble::observer::get_flows_response::ResponseTypes;
use weft_api::hubble::observer::observer_client::ObserverClient;
use weft_api::hubble::observer::{
    GetAgentEventsRequest, GetFlowsRequest, GetNamespacesRequest, GetNodesRequest,
    ServerStatusRequest, ServerStatusResponse,
};
use weft_api::hubble::peer::NotifyRequest;
use weft_api::hubble::peer::peer_client::PeerClient;
use weft_api::hubble::wkt::{FieldMask, Timestamp};

use super::testing::{TestNode, ask, flow, request, response, seconds, view, within};
use super::*;

/// A node that saw requests at seconds 1 to 6, and the response of the fourth.
async fn node() -> TestNode {
    let node = TestNode::start("kind-worker", 64).await;
    let mut records: Vec<_> = (1..=6)
        .map(|second| request(second, &format!("r{second}")))
        .collect();
    // Later than it happened, as a slow response is.
    records.push(response(4, "r4", 200, 1));
    node.record(records).await;
    node
}

fn last(number: u64) -> GetFlowsRequest {
    GetFlowsRequest {
        number,
        ..GetFlowsRequest::default()
    }
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

#[tokio::test]
async fn questions_about_the_past() {
    let node = node().await;
    let mut client = node.client().await;
    let requests_only = FlowFilter {
        http_status_code: vec!["200".into()],
        ..FlowFilter::default()
    };
    let all = GetFlowsRequest::default();
    let cases = [
        (all.clone(), vec![1, 2, 3, 4, 4, 5, 6]),
        (last(3), vec![4, 5, 6]),
        (last(100), vec![1, 2, 3, 4, 4, 5, 6]),
        (
            GetFlowsRequest {
                first: true,
                ..last(2)
            },
            vec![1, 2],
        ),
        (
            GetFlowsRequest {
                since: at(5),
                ..all.clone()
            },
            vec![5, 6],
        ),
        (
            GetFlowsRequest {
                since: at(5),
                ..last(1)
            },
            vec![5],
        ),
        (
            GetFlowsRequest {
                until: at(2),
                ..all.clone()
            },
            vec![1, 2],
        ),
        (
            GetFlowsRequest {
                until: at(3),
                ..last(1)
            },
            vec![3],
        ),
        (
            GetFlowsRequest {
                since: at(2),
                until: at(3),
                ..all.clone()
            },
            vec![2, 3],
        ),
        // The number counts what the filters leave.
        (
            GetFlowsRequest {
                blacklist: vec![requests_only.clone()],
                ..last(3)
            },
            vec![4, 5, 6],
        ),
        (
            GetFlowsRequest {
                whitelist: vec![requests_only],
                ..last(3)
            },
            vec![4],
        ),
    ];
    for (question, expected) in cases {
        let answer = ask(&mut client, question.clone()).await;
        assert_eq!(seconds(&answer), expected, "{question:?}");
        assert!(
            answer
                .iter()
                .all(|response| response.node_name == "kind-worker")
        );
    }
    node.stop().await;
}

#[tokio::test]
async fn following_starts_now_or_some_flows_ago() {
    let node = node().await;
    let mut client = node.client().await;
    let follow = |request: GetFlowsRequest| GetFlowsRequest {
        follow: true,
        ..request
    };
    let mut from_now = client
        .get_flows(follow(last(0)))
        .await
        .unwrap()
        .into_inner();
    let mut rewound = client
        .get_flows(follow(last(2)))
        .await
        .unwrap()
        .into_inner();
    let since = GetFlowsRequest {
        since: at(6),
        ..last(1)
    };
    let mut since = client.get_flows(follow(since)).await.unwrap().into_inner();
    node.record(vec![request(7, "r7"), request(8, "r8")]).await;
    for (stream, expected) in [
        (&mut from_now, &[7, 8][..]),
        // The two that arrived last, by time.
        (&mut rewound, &[4, 6, 7, 8]),
        (&mut since, &[6, 7, 8]),
    ] {
        for second in expected {
            let response = within(stream.message()).await.unwrap().expect("more");
            assert_eq!(seconds(&[response]), [*second]);
        }
    }
    node.stop().await;
    assert!(
        within(from_now.message()).await.unwrap().is_none(),
        "ends with the server"
    );
}

#[tokio::test]
async fn contradictions_are_refused() {
    let node = TestNode::start("kind-worker", 8).await;
    let mut client = node.client().await;
    let first_and_follow = GetFlowsRequest {
        first: true,
        follow: true,
        ..last(1)
    };
    let refusal = client.get_flows(first_and_follow).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    let cel = FlowFilter {
        experimental: Some(flow_filter::Experimental {
            cel_expression: vec!["true".into()],
        }),
        ..FlowFilter::default()
    };
    let refusal = client
        .get_flows(GetFlowsRequest {
            whitelist: vec![cel],
            ..last(1)
        })
        .await
        .unwrap_err();
    assert_eq!(
        refusal.code(),
        Code::Unknown,
        "clients print its bare message"
    );
    assert!(refusal.message().contains("CEL"), "{refusal}");
    let mask = FieldMask {
        paths: vec!["nonsense".into()],
    };
    let refusal = client
        .get_flows(GetFlowsRequest {
            field_mask: Some(mask),
            ..last(1)
        })
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn masks_leave_out_what_was_not_asked_for() {
    let node = node().await;
    let mut client = node.client().await;
    let mask = FieldMask {
        paths: vec!["time".into(), "source.pod_name".into()],
    };
    let answer = ask(
        &mut client,
        GetFlowsRequest {
            field_mask: Some(mask),
            first: true,
            ..last(1)
        },
    )
    .await;
    let flow = flow(&answer[0]);
    assert_eq!(
        flow.source
            .as_ref()
            .map(|end| (end.pod_name.as_str(), end.identity)),
        Some(("tiefighter", 0))
    );
    assert_eq!(
        (flow.summary.as_str(), flow.destination.is_none()),
        ("", true)
    );
}

#[tokio::test]
async fn losses_pass_every_filter() {
    let node = TestNode::start("kind-worker", 8).await;
    let mut client = node.client().await;
    let nothing = FlowFilter {
        source_pod: vec!["nobody".into()],
        ..FlowFilter::default()
    };
    let question = GetFlowsRequest {
        whitelist: vec![nothing],
        follow: true,
        ..last(0)
    };
    let mut stream = client.get_flows(question).await.unwrap().into_inner();
    let lost = EventBatch {
        events: Vec::new(),
        lost: 9,
    };
    node.record(vec![request(1, "r1")]).await;
    node.events.send(lost).await.unwrap();
    let response = within(stream.message()).await.unwrap().unwrap();
    let Some(ResponseTypes::LostEvents(lost)) = response.response_types else {
        panic!("losses, not {response:?}")
    };
    assert_eq!(lost.num_events_lost, 9);
}

#[tokio::test]
async fn the_ring_keeps_the_newest_and_counts_all() {
    let node = TestNode::start("kind-worker", 4).await;
    node.record((1..=10).map(|second| request(second, "r")).collect())
        .await;
    let mut client = node.client().await;
    assert_eq!(seconds(&ask(&mut client, last(0)).await), [7, 8, 9, 10]);
    let status = client
        .server_status(ServerStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.num_flows, status.max_flows, status.seen_flows),
        (4, 4, 10)
    );
    assert!(status.uptime_ns > 0 && status.version.starts_with("weft v"));
}

#[tokio::test]
async fn a_slow_reader_hears_how_much_it_missed() {
    let ring = Arc::new(Ring::new(4));
    let question = GetFlowsRequest {
        follow: true,
        ..last(0)
    };
    let mut reader = query::Query::new(ring.clone(), &question, "n".into()).unwrap();
    for second in 0..10 {
        let time = at(second);
        ring.push(Seen::Flow(Box::new(weft_api::hubble::flow::Flow {
            time,
            ..Default::default()
        })));
    }
    ring.publish();
    let Some(ResponseTypes::LostEvents(lost)) = within(reader.next()).await.unwrap().response_types
    else {
        panic!("losses")
    };
    assert_eq!(lost.num_events_lost, 6);
    assert_eq!(seconds(&[within(reader.next()).await.unwrap()]), [6]);
}

#[tokio::test]
async fn about_the_node_itself() {
    let node = node().await;
    let mut client = node.client().await;
    let nodes = client
        .get_nodes(GetNodesRequest {})
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert_eq!(
        (nodes[0].name.as_str(), nodes[0].address.as_str()),
        ("kind-worker", "172.18.0.2:4244")
    );
    let answer = client
        .get_namespaces(GetNamespacesRequest {})
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = answer
        .namespaces
        .iter()
        .map(|n| (n.cluster.as_str(), n.namespace.as_str()))
        .collect();
    assert_eq!(names, [("default", "default")]);
    let mut health = HealthClient::new(node.channel().await);
    let service = "hubble.server.Observer".to_owned();
    let health = health
        .check(HealthCheckRequest { service })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn agent_events_are_silent_and_stay_open_for_followers() {
    let node = node().await;
    let mut client = node.client().await;
    let mut past = client
        .get_agent_events(GetAgentEventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(within(past.message()).await.unwrap().is_none());
    let follow = GetAgentEventsRequest {
        follow: true,
        ..GetAgentEventsRequest::default()
    };
    let mut following = client.get_agent_events(follow).await.unwrap().into_inner();
    node.stop().await;
    assert!(
        within(following.message()).await.unwrap().is_none(),
        "ends only with the server"
    );
}

#[tokio::test]
async fn peers_are_announced() {
    let node = node().await;
    let mut client = PeerClient::new(node.channel().await);
    let mut stream = client.notify(NotifyRequest {}).await.unwrap().into_inner();
    let peer = within(stream.message()).await.unwrap().unwrap();
    assert_eq!(
        (peer.name.as_str(), peer.address.as_str()),
        ("kind-worker", "172.18.0.2:4244")
    );
}

/// Asks over TCP from this address.
async fn ask_from(source: Ipv4Addr, server: SocketAddr) -> Result<ServerStatusResponse, ()> {
    let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
    let endpoint = endpoint.local_address(Some(source.into()));
    let channel = within(endpoint.connect()).await.map_err(drop)?;
    let mut client = ObserverClient::new(channel);
    let answer = within(client.server_status(ServerStatusRequest {})).await;
    answer.map(tonic::Response::into_inner).map_err(drop)
}

#[tokio::test]
async fn over_tcp_pods_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let handle = ViewHandle::default();
    let mut pods_on_loopback = view("kind-worker");
    pods_on_loopback.pod_ranges = vec!["127.5.0.0/24".parse().unwrap()];
    handle.store(pods_on_loopback);
    let metrics = Metrics::new();
    let observer = Observer::new(handle, 16, metrics.clone());
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listeners = server::Listeners {
        unix: crate::socket::listen(&dir.path().join("hubble.sock")).unwrap(),
        tcp: vec![tcp],
        masquerading: 61_000..=65_535,
    };
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    tokio::spawn(async move { server::serve(&observer, listeners, stop).await });

    assert!(ask_from(Ipv4Addr::LOCALHOST, address).await.is_ok());
    let refused = ask_from(Ipv4Addr::new(127, 5, 0, 10), address).await;
    assert_eq!(refused, Err(()));
    let counted = metrics.render().unwrap();
    assert!(
        counted.contains("refused_peers_total{reason=\"pod\"} "),
        "{counted}"
    );
}

#[tokio::test]
async fn only_so_many_may_follow_at_once() {
    let node = node().await;
    let mut client = node.client().await;
    let follow = || GetFlowsRequest {
        follow: true,
        ..last(0)
    };
    let mut streams = Vec::new();
    for _ in 0..FOLLOWERS {
        streams.push(client.get_flows(follow()).await.unwrap());
    }
    let refused = client.get_flows(follow()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(!ask(&mut client, last(2)).await.is_empty(), "the past");
    streams.pop();
    within(async { while client.get_flows(follow()).await.is_err() {} }).await;
}
