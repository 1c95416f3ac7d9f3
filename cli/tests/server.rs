//! The command against a server: what it asks for, and what it makes of the
//! answers.
#![expect(
    clippy::expect_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use weft_api::hubble::observer::observer_server::{Observer, ObserverServer};
use weft_api::hubble::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
    GetNodesRequest, GetNodesResponse, Namespace, Node, ServerStatusRequest, ServerStatusResponse,
};

const DEADLINE: Duration = Duration::from_secs(30);

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers with the recorded flows, and remembers what it was asked.
#[derive(Clone, Default)]
struct Recorded {
    asked: Arc<Mutex<Vec<GetFlowsRequest>>>,
}

fn flows() -> Vec<GetFlowsResponse> {
    let text = include_str!("fixtures/flows.jsonl");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a flow"))
        .collect()
}

#[tonic::async_trait]
impl Observer for Recorded {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        if request
            .whitelist
            .iter()
            .any(|filter| !filter.dns_query.is_empty() || !filter.source_ip.is_empty())
        {
            return Err(Status::unknown("the bare message"));
        }
        let follow = request.follow;
        self.asked.lock().expect("not poisoned").push(request);
        let past = stream::iter(flows().into_iter().map(Ok));
        if follow {
            return Ok(Response::new(Box::pin(past.chain(stream::pending()))));
        }
        Ok(Response::new(Box::pin(past)))
    }

    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_nodes(
        &self,
        _: Request<GetNodesRequest>,
    ) -> Result<Response<GetNodesResponse>, Status> {
        let node = |name: &str| Node {
            name: name.into(),
            ..Node::default()
        };
        Ok(Response::new(GetNodesResponse {
            nodes: vec![node("b"), node("a")],
        }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let namespaces = vec![Namespace {
            cluster: "default".into(),
            namespace: "shop".into(),
        }];
        Ok(Response::new(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        Ok(Response::new(ServerStatusResponse {
            num_flows: 5,
            max_flows: 10,
            flows_rate: 2.5,
            ..ServerStatusResponse::default()
        }))
    }
}

/// Serves until the test ends; its runtime ends the task.
async fn serve() -> (SocketAddr, Recorded) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let recorded = Recorded::default();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status(
            "hubble.server.Observer",
            tonic_health::ServingStatus::Serving,
        )
        .await;
    let server = tonic::transport::Server::builder()
        .add_service(ObserverServer::new(recorded.clone()))
        .add_service(health)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (address, recorded)
}

fn weft(server: SocketAddr, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command
        .args(args)
        .env("HUBBLE_SERVER", server.to_string())
        .env_remove("WEFT_SERVER")
        .kill_on_drop(true);
    command
}

/// Exit code, standard output, standard error.
async fn run(server: SocketAddr, args: &[&str]) -> (Option<i32>, String, String) {
    let output = tokio::time::timeout(DEADLINE, weft(server, args).output());
    let output = output.await.expect("in time").expect("weft runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test]
async fn prints_what_the_server_sends_and_asks_for_the_last_twenty() {
    let (server, recorded) = serve().await;
    let (code, out, err) = run(server, &["observe", "--print-node-name"]).await;
    assert_eq!(
        (code, out.as_str()),
        (Some(0), include_str!("expected/compact.txt"))
    );
    assert!(err.contains("6 nodes are unavailable"), "{err}");
    let asked = recorded.asked.lock().expect("not poisoned");
    assert_eq!((asked[0].number, asked[0].follow), (20, false));
    let mask = asked[0].field_mask.clone().expect("a mask");
    assert!(mask.paths.contains(&"policy_match_type".to_owned()));
}

#[tokio::test]
async fn a_follower_shows_each_flow_when_it_comes() {
    let (server, _) = serve().await;
    let mut child = weft(server, &["observe", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("weft runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let reading = async {
        // The stream stays open: these lines must come without its end.
        for _ in 0..10 {
            assert!(lines.next_line().await.expect("readable").is_some());
        }
    };
    tokio::time::timeout(DEADLINE, reading)
        .await
        .expect("in time");
    child.kill().await.expect("killed");
}

#[tokio::test]
async fn errors_read_as_with_the_stock_client() {
    let (server, _) = serve().await;
    let (code, _, err) = run(server, &["observe", "--from-ip", "10.0.0.1"]).await;
    assert_eq!((code, err.as_str()), (Some(1), "the bare message\n"));
    let nobody = "unix:///nonexistent/hubble.sock";
    let (code, _, err) = run(server, &["observe", "--server", nobody]).await;
    assert_eq!(code, Some(1));
    let expected = format!("failed to connect to '{nobody}': ");
    assert!(err.starts_with(&expected), "{err}");
}

#[tokio::test]
async fn status_and_lists() {
    let (server, _) = serve().await;
    let (code, out, _) = run(server, &["status"]).await;
    let expected = format!(
        "Healthcheck (via {server}): Ok\nCurrent/Max Flows: 5/10 (50.00%)\nFlows/s: 2.50\n"
    );
    assert_eq!((code, out), (Some(0), expected));
    let (_, out, _) = run(server, &["list", "nodes"]).await;
    let names: Vec<&str> = out
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names, ["NAME", "a", "b"]);
    let (_, out, _) = run(server, &["list", "namespaces", "-o", "wide"]).await;
    assert_eq!(out, "NAMESPACE   CLUSTER\nshop        default\n");
    let (_, out, _) = run(server, &["list", "namespaces", "-o", "json"]).await;
    assert_eq!(
        out,
        "[\n  {\n    \"cluster\": \"default\",\n    \"namespace\": \"shop\"\n  }\n]\n"
    );
}
