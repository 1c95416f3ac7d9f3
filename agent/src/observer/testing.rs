//! A node with known pods, and its observer as a real server.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use weft_api::hubble::flow::Flow;
use weft_api::hubble::observer::get_flows_response::ResponseTypes;
use weft_api::hubble::observer::observer_client::ObserverClient;
use weft_api::hubble::observer::{GetFlowsRequest, GetFlowsResponse};
use weft_api::node::{
    Direction, Header, Http, Peer, Record, RecordBatch, RecordKind, RuleRef, Verdict,
};

use weft_core::model::EndpointId;
use weft_core::policy::{PeerRule, PeerSet, PortPolicy};

use super::{EventBatch, ObserverConfig, ObserverInputs, run};
use crate::metrics::Metrics;
use crate::view::{AddressInfo, HttpPolicies, NodeInfo, ServiceInfo, View, ViewHandle, Workload};

/// Nothing in these tests takes longer unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks at something that nobody announces.
const AGAIN: Duration = Duration::from_millis(2);

pub(crate) const XWING: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
pub(crate) const TIEFIGHTER: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 11);
pub(crate) const DEATHSTAR: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 10);
pub(crate) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 4, 4);
pub(crate) const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
/// Number of the rule of policy `rule1`.
pub(crate) const RULE: u32 = 77;

pub(crate) fn rule() -> RuleRef {
    RuleRef {
        kind: "CiliumNetworkPolicy".into(),
        namespace: "default".into(),
        name: "rule1".into(),
        rule: "ingress[0].toPorts[0]".into(),
    }
}

/// The same as policies have it.
fn core_rule() -> weft_core::policy::RuleRef {
    let own = rule();
    weft_core::policy::RuleRef {
        kind: own.kind.into(),
        namespace: own.namespace.into(),
        name: own.name.into(),
        rule: own.rule.into(),
    }
}

/// The view of `name`: two ships of its own and a deathstar elsewhere.
pub(crate) fn view(name: &str) -> View {
    let mut view = View {
        node: NodeInfo {
            name: name.into(),
            ip: NODE,
            cluster: "default".into(),
            labels: vec![format!("kubernetes.io/hostname={name}")],
        },
        revision: 3,
        ..View::default()
    };
    let pod = |ip, identity, endpoint_id, name: &str, org: &str, workload: Option<&str>| {
        let class = name.split('-').next().unwrap_or(name);
        let labels = [
            format!("k8s:app.kubernetes.io/name={class}"),
            format!("k8s:class={class}"),
            format!("k8s:org={org}"),
        ];
        let workload = workload.map(|name| Workload {
            name: name.into(),
            kind: "Deployment".into(),
        });
        AddressInfo {
            ip,
            identity,
            endpoint_id,
            namespace: "default".into(),
            pod: name.into(),
            labels: labels.into(),
            workloads: workload.into_iter().collect(),
            node: String::new(),
        }
    };
    let node = AddressInfo {
        ip: NODE,
        identity: 1,
        endpoint_id: 0,
        namespace: String::new(),
        pod: String::new(),
        labels: ["reserved:host".to_owned()].into(),
        workloads: Vec::new(),
        node: name.into(),
    };
    view.addresses = [
        pod(XWING, 20_417, 301, "xwing", "alliance", None),
        pod(TIEFIGHTER, 3_108, 212, "tiefighter", "empire", None),
        pod(
            DEATHSTAR,
            47_013,
            0,
            "deathstar-7d9c5f6b4-t8xzp",
            "empire",
            Some("deathstar"),
        ),
        node,
    ]
    .into_iter()
    .map(|info| (info.ip, info))
    .collect();
    view.nodes.insert(name.into(), NODE);
    let labels = |text: &str| [text.to_owned()].into();
    view.identities = HashMap::from([(1, labels("reserved:host")), (2, labels("reserved:world"))]);
    let deathstar = ServiceInfo {
        namespace: "default".into(),
        name: "deathstar".into(),
    };
    view.services = HashMap::from([((SERVICE, 80, 6), deathstar)]);
    view.rules = HashMap::from([(RULE, core_rule())]);
    view.http = HttpPolicies::of(&[landing_policy()]);
    view
}

/// Two rules of `rule1` for what the tiefighter may ask of anybody.
fn landing_policy() -> PortPolicy {
    let rule = PeerRule {
        peers: PeerSet::Any,
        deny: false,
        http: [].into(),
        rule: Some(core_rule()),
    };
    PortPolicy {
        endpoint: EndpointId(212),
        direction: weft_core::model::Direction::Egress,
        first: 80,
        last: 80,
        rules: [rule.clone(), rule].into(),
    }
}

/// A landing request of the tiefighter at this second, seen on its way out.
pub(crate) fn request(second: i64, id: &str) -> Record {
    let peer = |ip: Ipv4Addr, port, identity| Peer {
        ip: ip.to_string(),
        port,
        identity,
        endpoint_id: 0,
    };
    Record {
        time: Some(pbjson_types::Timestamp {
            seconds: second,
            nanos: 0,
        }),
        kind: RecordKind::Request.into(),
        direction: Direction::Egress.into(),
        verdict: Verdict::Forwarded.into(),
        source: Some(peer(TIEFIGHTER, 60_218, 3_108)),
        destination: Some(peer(DEATHSTAR, 80, 47_013)),
        http: Some(Http {
            code: 0,
            method: "POST".into(),
            url: "http://deathstar.default.svc.cluster.local/v1/request-landing".into(),
            protocol: "HTTP/1.1".into(),
            headers: vec![Header {
                key: "X-Request-Id".into(),
                value: id.into(),
            }],
        }),
        request_id: id.into(),
        proxy_port: 15_001,
        ..Record::default()
    }
}

/// The answer to [`request`] after so many milliseconds.
pub(crate) fn response(second: i64, id: &str, code: u32, milliseconds: u64) -> Record {
    let mut record = request(second, id);
    record.kind = RecordKind::Response.into();
    std::mem::swap(&mut record.source, &mut record.destination);
    record.latency_ns = milliseconds * 1_000_000 + 999_999;
    if let Some(http) = &mut record.http {
        http.code = code;
    }
    record
}

/// A node's observer, serving on a Unix socket until it is dropped.
pub(crate) struct TestNode {
    pub events: mpsc::Sender<EventBatch>,
    pub records: mpsc::Sender<RecordBatch>,
    pub socket: PathBuf,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
    _dir: TempDir,
}

impl TestNode {
    pub(crate) async fn start(name: &str, capacity: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("hubble.sock");
        let handle = ViewHandle::default();
        handle.store(view(name));
        let (events, events_in) = mpsc::channel(16);
        let (records, records_in) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let config = ObserverConfig {
            socket: socket.clone(),
            listen: vec![],
            masquerading: 61_000..=65_535,
            capacity,
        };
        let inputs = ObserverInputs {
            view: handle,
            events: events_in,
            records: records_in,
            metrics: Metrics::new(),
        };
        let server = run(config, inputs, stop.clone());
        let server = tokio::spawn(async move { server.await.expect("the observer serves") });
        let node = Self {
            events,
            records,
            socket,
            stop,
            server: Some(server),
            _dir: dir,
        };
        node.listening().await;
        node
    }

    /// Until the socket is there: it appears by a rename, complete.
    async fn listening(&self) {
        let appeared = async {
            let mut looks = tokio::time::interval(AGAIN);
            while !self.socket.exists() {
                looks.tick().await;
            }
        };
        within(appeared).await;
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.address()).expect("an address");
        endpoint.connect().await.expect("the observer listens")
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub(crate) async fn client(&self) -> ObserverClient<Channel> {
        ObserverClient::new(self.channel().await)
    }

    /// Records these and waits until they can be asked for.
    pub(crate) async fn record(&self, records: Vec<Record>) {
        let number = self.seen().await + records.len() as u64;
        let batch = RecordBatch { records, lost: 0 };
        self.records
            .send(batch)
            .await
            .expect("the observer takes records");
        within(async { while self.seen().await < number {} }).await;
    }

    async fn seen(&self) -> u64 {
        let mut client = self.client().await;
        let status = client.server_status(weft_api::hubble::observer::ServerStatusRequest {});
        status.await.expect("a status").into_inner().seen_flows
    }

    /// Ends the server and waits until it is gone.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            within(server).await.expect("the observer ends");
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("in time")
}

/// Every response to a question about the past.
pub(crate) async fn ask(
    client: &mut ObserverClient<Channel>,
    request: GetFlowsRequest,
) -> Vec<GetFlowsResponse> {
    let mut stream = within(client.get_flows(request))
        .await
        .expect("an answer")
        .into_inner();
    let mut responses = Vec::new();
    while let Some(response) = within(stream.message()).await.expect("a response") {
        responses.push(response);
    }
    responses
}

/// The flow of a response.
pub(crate) fn flow(response: &GetFlowsResponse) -> &Flow {
    match &response.response_types {
        Some(ResponseTypes::Flow(flow)) => flow,
        other => panic!("a flow, not {other:?}"),
    }
}

/// Seconds of the flows' times, in the order of the responses.
pub(crate) fn seconds(responses: &[GetFlowsResponse]) -> Vec<i64> {
    let flows = responses
        .iter()
        .filter_map(|response| match &response.response_types {
            Some(ResponseTypes::Flow(flow)) => flow.time,
            _ => None,
        });
    flows.map(|time| time.seconds).collect()
}
