use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use weft_api::hubble::observer::get_flows_response::ResponseTypes;
use weft_api::hubble::observer::observer_client::ObserverClient;
use weft_api::hubble::observer::{
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNodesRequest, ServerStatusRequest,
};
use weft_api::hubble::relay::NodeState;
use weft_api::hubble::wkt::Timestamp;

use super::*;
use crate::observer::testing::{TestNode, ask, request, response, seconds, within};
use peers::Peer;

/// A relay over these peers on a port of its own.
struct TestRelay {
    peers: Peers,
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl TestRelay {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let (peers, stop) = (Peers::default(), CancellationToken::new());
        let server = serve(listener, peers.clone(), stop.clone());
        let server = tokio::spawn(async move { server.await.expect("the relay serves") });
        Self {
            peers,
            address,
            stop,
            server,
        }
    }

    fn add(&self, name: &str, address: &str) {
        self.peers
            .put(Peer::new(name, address).expect("an address"));
    }

    async fn client(&self) -> ObserverClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("a URI");
        ObserverClient::new(within(endpoint.connect()).await.expect("the relay listens"))
    }

    async fn stop(self) {
        self.stop.cancel();
        within(self.server).await.expect("the relay ends");
    }
}

/// States of nodes among the responses.
fn states(responses: &[GetFlowsResponse]) -> Vec<(NodeState, Vec<String>)> {
    let statuses = responses
        .iter()
        .filter_map(|response| match &response.response_types {
            Some(ResponseTypes::NodeStatus(status)) => {
                Some((status.state_change(), status.node_names.clone()))
            }
            _ => None,
        });
    statuses.collect()
}

/// Two nodes: one saw the request leave, the other saw it arrive.
async fn two_nodes(relay: &TestRelay) -> (TestNode, TestNode) {
    let one = TestNode::start("kind-worker", 64).await;
    let two = TestNode::start("kind-worker2", 64).await;
    one.record(vec![
        request(1, "r"),
        request(4, "r"),
        response(5, "r", 200, 1),
    ])
    .await;
    two.record(vec![request(2, "r"), request(3, "r"), request(6, "r")])
        .await;
    relay.add("kind-worker", &one.address());
    relay.add("kind-worker2", &two.address());
    (one, two)
}

#[tokio::test]
async fn the_past_of_two_nodes_is_merged_by_time() {
    let relay = TestRelay::start().await;
    let (_one, _two) = two_nodes(&relay).await;
    let mut client = relay.client().await;
    let began = Instant::now();
    let answer = ask(&mut client, GetFlowsRequest::default()).await;
    assert_eq!(seconds(&answer), [1, 2, 3, 4, 5, 6]);
    // Far below the patience with nodes that do not finish.
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "ends when the last node does"
    );
    let both = vec!["kind-worker".to_owned(), "kind-worker2".to_owned()];
    assert_eq!(states(&answer), [(NodeState::NodeConnected, both)]);
    let nodes: Vec<&str> = answer[1..]
        .iter()
        .map(|response| response.node_name.as_str())
        .collect();
    assert_eq!(nodes[..3], ["kind-worker", "kind-worker2", "kind-worker2"]);
    // A number is each node's.
    let last = GetFlowsRequest {
        number: 1,
        ..GetFlowsRequest::default()
    };
    assert_eq!(seconds(&ask(&mut client, last).await), [5, 6]);
    relay.stop().await;
}

#[tokio::test]
async fn a_dead_node_is_named_and_holds_up_nobody() {
    let relay = TestRelay::start().await;
    let (_one, two) = two_nodes(&relay).await;
    two.stop().await;
    relay.add("kind-worker3", "unix:///nonexistent/hubble.sock");
    let mut client = relay.client().await;
    let answer = ask(&mut client, GetFlowsRequest::default()).await;
    assert_eq!(seconds(&answer), [1, 4, 5]);
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = [
        (NodeState::NodeConnected, names(&["kind-worker"])),
        (
            NodeState::NodeUnavailable,
            names(&["kind-worker2", "kind-worker3"]),
        ),
    ];
    assert_eq!(states(&answer), expected);
    let status = client
        .server_status(ServerStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.num_connected_nodes, status.num_unavailable_nodes),
        (Some(1), Some(2))
    );
    assert_eq!(status.unavailable_nodes, ["kind-worker2", "kind-worker3"]);
    relay.stop().await;
}

#[tokio::test]
async fn status_nodes_and_namespaces_of_all() {
    let relay = TestRelay::start().await;
    let (_one, _two) = two_nodes(&relay).await;
    let mut client = relay.client().await;
    let status = client
        .server_status(ServerStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.num_flows, status.max_flows, status.seen_flows),
        (6, 128, 6)
    );
    assert_eq!(
        (status.num_connected_nodes, status.num_unavailable_nodes),
        (Some(2), Some(0))
    );
    let nodes = client
        .get_nodes(GetNodesRequest {})
        .await
        .unwrap()
        .into_inner()
        .nodes;
    let summary: Vec<_> = nodes
        .iter()
        .map(|node| (node.name.as_str(), node.state(), node.num_flows))
        .collect();
    let connected = NodeState::NodeConnected;
    assert_eq!(
        summary,
        [
            ("kind-worker", connected, 3),
            ("kind-worker2", connected, 3)
        ]
    );
    let answer = client
        .get_namespaces(GetNamespacesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.namespaces.len(), 1, "each once: {answer:?}");
    relay.stop().await;
}

#[tokio::test]
async fn a_wrong_question_is_answered_even_without_nodes() {
    let relay = TestRelay::start().await;
    let mut client = relay.client().await;
    let wrong = GetFlowsRequest {
        first: true,
        follow: true,
        ..GetFlowsRequest::default()
    };
    assert_eq!(
        client.get_flows(wrong).await.unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
    assert!(
        ask(&mut client, GetFlowsRequest::default())
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn followers_get_flows_of_nodes_that_come_later_and_hear_of_those_that_go() {
    let relay = TestRelay::start().await;
    let one = TestNode::start("kind-worker", 64).await;
    relay.add("kind-worker", &one.address());
    let mut client = relay.client().await;
    let follow = GetFlowsRequest {
        follow: true,
        ..GetFlowsRequest::default()
    };
    let mut stream = within(client.get_flows(follow)).await.unwrap().into_inner();
    let mut next = async || within(stream.message()).await.unwrap().expect("a response");
    assert_eq!(states(&[next().await])[0].0, NodeState::NodeConnected);
    let now = Timestamp::from(std::time::SystemTime::now()).seconds;
    one.record(vec![request(now + 1, "r")]).await;
    assert_eq!(seconds(&[next().await]), [now + 1]);
    // What this node saw before the question stays unseen.
    let two = TestNode::start("kind-worker2", 64).await;
    two.record(vec![request(now - 100, "r")]).await;
    relay.add("kind-worker2", &two.address());
    let joined = states(&[next().await]);
    assert_eq!(
        joined,
        [(NodeState::NodeConnected, vec!["kind-worker2".to_owned()])]
    );
    two.record(vec![request(now + 2, "r")]).await;
    assert_eq!(seconds(&[next().await]), [now + 2]);
    one.stop().await;
    let left = states(&[next().await]);
    assert_eq!(
        left,
        [(NodeState::NodeUnavailable, vec!["kind-worker".to_owned()])]
    );
    relay.peers.retain(|name| name != "kind-worker2");
    let gone = states(&[next().await]);
    assert_eq!(
        gone,
        [(NodeState::NodeGone, vec!["kind-worker2".to_owned()])]
    );
}
