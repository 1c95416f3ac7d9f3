//! The observer's API over all nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, future, stream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use weft_api::hubble::observer::observer_client::ObserverClient;
use weft_api::hubble::observer::observer_server::Observer;
use weft_api::hubble::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
    GetNodesRequest, GetNodesResponse, Namespace, Node, ServerStatusRequest, ServerStatusResponse,
    Tls,
};
use weft_api::hubble::relay::NodeState;

use super::flows::Session;
use super::peers::{Peer, Peers};
use crate::metrics::Metrics;
use crate::observer::{Answers, Followers, VERSION, check_request, holding, silence};

/// How long a node may take to answer about itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Clients that may follow at once: each holds a stream to every node open, and
/// a node has room for two relays.
const FOLLOWERS: usize = 64;
/// Unavailable nodes that a status names; the others are only counted.
const NAMED_NODES: usize = 10;

/// Puts clients' questions to all nodes.
#[derive(Clone, Debug)]
pub(super) struct RelayService {
    peers: Peers,
    followers: Followers,
    stop: CancellationToken,
}

impl RelayService {
    pub(super) fn new(peers: Peers, stop: CancellationToken) -> Self {
        Self {
            peers,
            followers: Followers::new(FOLLOWERS, Metrics::new()),
            stop,
        }
    }

    /// Asks every node at once.
    async fn ask<T, F>(
        &self,
        question: impl Fn(ObserverClient<Channel>) -> F,
    ) -> Vec<(Peer, Result<T, Status>)>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let peers = self.peers.now();
        let answers = peers.values().map(|peer| {
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, question(peer.client()));
            async move {
                let late = |_| Err(Status::deadline_exceeded("no answer"));
                let answer = answer.await.unwrap_or_else(late);
                (peer.clone(), answer.map(Response::into_inner))
            }
        });
        future::join_all(answers).await
    }

    async fn statuses(&self) -> Vec<(Peer, Result<ServerStatusResponse, Status>)> {
        self.ask(|mut node| async move { node.server_status(ServerStatusRequest {}).await })
            .await
    }
}

#[tonic::async_trait]
impl Observer for RelayService {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        // Here already, so that a wrong question gets its answer even while no
        // node is there.
        check_request(request.get_ref())?;
        let place = self.followers.take_if(request.get_ref().follow)?;
        let session = Session::begin(request.into_inner(), &self.peers).await?;
        let answers = stream::unfold(session, |mut session| async {
            session.next().await.map(|response| (Ok(response), session))
        });
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(holding(answers.take_until(stop), place)))
    }

    async fn get_agent_events(
        &self,
        request: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        let follow = request.get_ref().follow;
        let place = self.followers.take_if(follow)?;
        let answers = silence(follow, self.stop.clone());
        Ok(Response::new(holding(answers, place)))
    }

    async fn get_debug_events(
        &self,
        request: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        let follow = request.get_ref().follow;
        let place = self.followers.take_if(follow)?;
        let answers = silence(follow, self.stop.clone());
        Ok(Response::new(holding(answers, place)))
    }

    async fn get_nodes(
        &self,
        _: Request<GetNodesRequest>,
    ) -> Result<Response<GetNodesResponse>, Status> {
        let statuses = self.statuses().await;
        let nodes = statuses.into_iter().map(|(peer, answer)| {
            let state = if answer.is_ok() {
                NodeState::NodeConnected
            } else {
                NodeState::NodeUnavailable
            };
            let status = answer.unwrap_or_default();
            Node {
                name: peer.name.to_string(),
                version: status.version,
                address: peer.address.to_string(),
                state: state.into(),
                tls: Some(Tls::default()),
                uptime_ns: status.uptime_ns,
                num_flows: status.num_flows,
                max_flows: status.max_flows,
                seen_flows: status.seen_flows,
            }
        });
        Ok(Response::new(GetNodesResponse {
            nodes: nodes.collect(),
        }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let answers = self
            .ask(|mut node| async move { node.get_namespaces(GetNamespacesRequest {}).await })
            .await;
        let answers = answers.into_iter().filter_map(|(_, answer)| answer.ok());
        let all: BTreeSet<(String, String)> = answers
            .flat_map(|answer| answer.namespaces)
            .map(|namespace| (namespace.cluster, namespace.namespace))
            .collect();
        let namespace = |(cluster, namespace)| Namespace { cluster, namespace };
        Ok(Response::new(GetNamespacesResponse {
            namespaces: all.into_iter().map(namespace).collect(),
        }))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        Ok(Response::new(total(self.statuses().await)))
    }
}

/// Sums; the uptime is that of the node that is up longest, since a sum would
/// mean nothing.
fn total(statuses: Vec<(Peer, Result<ServerStatusResponse, Status>)>) -> ServerStatusResponse {
    let mut total = ServerStatusResponse {
        version: VERSION.to_owned(),
        ..ServerStatusResponse::default()
    };
    let (mut connected, mut unavailable) = (0, 0);
    for (peer, answer) in statuses {
        let Ok(status) = answer else {
            unavailable += 1;
            if total.unavailable_nodes.len() < NAMED_NODES {
                total.unavailable_nodes.push(peer.name.to_string());
            }
            continue;
        };
        connected += 1;
        total.num_flows += status.num_flows;
        total.max_flows += status.max_flows;
        total.seen_flows += status.seen_flows;
        total.flows_rate += status.flows_rate;
        total.uptime_ns = total.uptime_ns.max(status.uptime_ns);
    }
    total.num_connected_nodes = Some(connected);
    total.num_unavailable_nodes = Some(unavailable);
    total
}
