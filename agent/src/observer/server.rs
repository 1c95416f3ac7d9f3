//! The observer's gRPC services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt as _, future, stream};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
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

use super::admission::{Followers, admitted, holding};
use super::query::Query;
use super::{FOLLOWERS, Observer};
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
struct ObserverService {
    observer: Observer,
    followers: Followers,
    stop: CancellationToken,
}

/// Where the observer listens.
pub(super) struct Listeners {
    /// For root on this node.
    pub unix: UnixListener,
    /// For other nodes; pods are refused.
    pub tcp: Vec<TcpListener>,
    /// Ports behind which a node's address stands for one of its pods.
    pub masquerading: RangeInclusive<u16>,
}

/// Serves on every listener until `stop` is cancelled.
pub(super) async fn serve(
    observer: &Observer,
    listeners: Listeners,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let on_unix = Server::builder()
        .add_routes(services(observer, &stop).await)
        .serve_with_incoming_shutdown(
            UnixListenerStream::new(listeners.unix),
            stop.clone().cancelled_owned(),
        );
    // Places of their own: who comes over the network takes none from root.
    let routes = services(observer, &stop).await;
    let on_tcp = listeners.tcp.into_iter().map(|listener| {
        let (view, metrics) = (observer.view.clone(), observer.metrics.clone());
        let connections = admitted(listener, view, listeners.masquerading.clone(), metrics);
        Server::builder()
            .add_routes(routes.clone())
            .serve_with_incoming_shutdown(Box::pin(connections), stop.clone().cancelled_owned())
    });
    tokio::try_join!(on_unix, future::try_join_all(on_tcp)).map(|_| ())
}

/// Everything that one kind of listener serves.
async fn services(observer: &Observer, stop: &CancellationToken) -> Routes {
    let followers = Followers::new(FOLLOWERS, observer.metrics.clone());
    let peers = PeerService {
        view: observer.view.clone(),
        followers: followers.clone(),
        stop: stop.clone(),
    };
    let service = ObserverService {
        observer: observer.clone(),
        followers,
        stop: stop.clone(),
    };
    routes(ObserverServer::new(service))
        .await
        .add_service(PeerServer::new(peers))
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
        let place = self.followers.take_if(request.get_ref().follow)?;
        let answers = stream::unfold(query, |mut query| async {
            query.next().await.map(|response| (Ok(response), query))
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
    followers: Followers,
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
        let place = self.followers.take()?;
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
        let answers = changes.flatten().take_until(stop);
        Ok(Response::new(holding(answers, Some(place))))
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
