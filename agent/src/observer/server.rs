//! The observer's gRPC services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use weft_api::hubble::observer::observer_server::{Observer as ObserverApi, ObserverServer};
use weft_api::hubble::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
    GetNodesRequest, GetNodesResponse, Node, ServerStatusRequest, ServerStatusResponse, Tls,
};
use weft_api::hubble::peer::peer_server::{Peer as PeerApi, PeerServer};
use weft_api::hubble::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest};
use weft_api::hubble::relay::NodeState;

use super::Observer;
use super::query::Query;
use crate::view::ViewHandle;

/// Name under which clients ask for our health.
pub(crate) const HEALTH_SERVICE: &str = "hubble.server.Observer";
/// What clients show as the server's version.
pub(crate) const VERSION: &str = concat!("weft v", env!("CARGO_PKG_VERSION"));
/// Port that peers serve on.
const PEER_PORT: u16 = 4244;
/// How often followers of peers hear of changes.
const PEER_INTERVAL: Duration = Duration::from_secs(5);

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers questions about this node's flows.
#[derive(Clone)]
pub(super) struct ObserverService {
    observer: Observer,
    stop: CancellationToken,
}

impl ObserverService {
    pub(super) fn new(observer: &Observer, stop: CancellationToken) -> Self {
        Self {
            observer: observer.clone(),
            stop,
        }
    }
}

/// Serves on both listeners until `stop` is cancelled.
pub(super) async fn serve(
    service: ObserverService,
    unix: UnixListener,
    tcp: Option<TcpListener>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let peers = PeerService {
        view: service.observer.view.clone(),
        stop: stop.clone(),
    };
    let routes = routes(ObserverServer::new(service))
        .await
        .add_service(PeerServer::new(peers));
    let on_unix = Server::builder()
        .add_routes(routes.clone())
        .serve_with_incoming_shutdown(
            UnixListenerStream::new(unix),
            stop.clone().cancelled_owned(),
        );
    let on_tcp = async {
        let Some(tcp) = tcp else { return Ok(()) };
        Server::builder()
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpListenerStream::new(tcp), stop.cancelled_owned())
            .await
    };
    tokio::try_join!(on_unix, on_tcp).map(|_| ())
}

/// The observer's service beside the health service that speaks for it.
pub(crate) async fn routes<S: ObserverApi>(service: ObserverServer<S>) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    let serving = tonic_health::ServingStatus::Serving;
    reporter.set_service_status(HEALTH_SERVICE, serving).await;
    Routes::new(health).add_service(service)
}

/// A stream that has nothing to say; it ends at once, or never for followers.
pub(crate) fn silence<T: Send + 'static>(follow: bool, stop: CancellationToken) -> Answers<T> {
    if follow {
        Box::pin(stream::pending().take_until(stop.cancelled_owned()))
    } else {
        Box::pin(stream::empty())
    }
}

#[tonic::async_trait]
impl ObserverApi for ObserverService {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let node = self.observer.view.load().node.name.clone();
        let query = Query::new(self.observer.ring.clone(), request.get_ref(), node)?;
        let answers = stream::unfold(query, |mut query| async {
            query.next().await.map(|response| (Ok(response), query))
        });
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(Box::pin(answers.take_until(stop))))
    }

    async fn get_agent_events(
        &self,
        request: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Ok(Response::new(silence(
            request.get_ref().follow,
            self.stop.clone(),
        )))
    }

    async fn get_debug_events(
        &self,
        request: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Ok(Response::new(silence(
            request.get_ref().follow,
            self.stop.clone(),
        )))
    }

    async fn get_nodes(
        &self,
        _: Request<GetNodesRequest>,
    ) -> Result<Response<GetNodesResponse>, Status> {
        let view = self.observer.view.load();
        let status = self.status();
        let node = Node {
            name: view.node.name.clone(),
            version: status.version,
            address: format!("{}:{PEER_PORT}", view.node.ip),
            state: NodeState::NodeConnected.into(),
            tls: Some(Tls::default()),
            uptime_ns: status.uptime_ns,
            num_flows: status.num_flows,
            max_flows: status.max_flows,
            seen_flows: status.seen_flows,
        };
        Ok(Response::new(GetNodesResponse { nodes: vec![node] }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let namespaces = self.observer.namespaces.list();
        Ok(Response::new(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        Ok(Response::new(self.status()))
    }
}

impl ObserverService {
    fn status(&self) -> ServerStatusResponse {
        let ring = &self.observer.ring;
        let uptime = ring.started.elapsed().as_nanos();
        ServerStatusResponse {
            num_flows: ring.len(),
            max_flows: ring.capacity(),
            seen_flows: ring.seen(),
            uptime_ns: u64::try_from(uptime).unwrap_or(u64::MAX),
            version: VERSION.to_owned(),
            flows_rate: ring.rate(SystemTime::now().into()),
            ..ServerStatusResponse::default()
        }
    }
}

/// Tells relays which nodes there are.
struct PeerService {
    view: ViewHandle,
    stop: CancellationToken,
}

type Peers = BTreeMap<String, IpAddr>;

#[tonic::async_trait]
impl PeerApi for PeerService {
    type NotifyStream = Answers<ChangeNotification>;

    async fn notify(
        &self,
        _: Request<NotifyRequest>,
    ) -> Result<Response<Self::NotifyStream>, Status> {
        let ticks = tokio::time::interval(PEER_INTERVAL);
        let state = (self.view.clone(), Peers::new(), ticks);
        let changes = stream::unfold(state, |(view, known, mut ticks)| async move {
            ticks.tick().await;
            let now: Peers = view.load().nodes().collect();
            let changes = peer_changes(&known, &now);
            Some((
                stream::iter(changes.into_iter().map(Ok)),
                (view, now, ticks),
            ))
        });
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(Box::pin(changes.flatten().take_until(stop))))
    }
}

fn peer_changes(known: &Peers, now: &Peers) -> Vec<ChangeNotification> {
    let change = |name: &String, ip: &IpAddr, kind: ChangeNotificationType| ChangeNotification {
        name: name.clone(),
        address: format!("{ip}:{PEER_PORT}"),
        r#type: kind.into(),
        tls: None,
    };
    let gone = known.iter().filter(|(name, _)| !now.contains_key(*name));
    let gone = gone.map(|(name, ip)| change(name, ip, ChangeNotificationType::PeerDeleted));
    let new = now.iter().filter_map(|(name, ip)| match known.get(name) {
        None => Some(change(name, ip, ChangeNotificationType::PeerAdded)),
        Some(old) if old != ip => Some(change(name, ip, ChangeNotificationType::PeerUpdated)),
        Some(_) => None,
    });
    gone.chain(new).collect()
}
