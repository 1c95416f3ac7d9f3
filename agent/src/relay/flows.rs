//! One client's question about flows, put to every node.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures_util::{FutureExt as _, StreamExt as _, future, stream};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status, Streaming};
use weft_api::hubble::observer::get_flows_response::ResponseTypes;
use weft_api::hubble::observer::{GetFlowsRequest, GetFlowsResponse};
use weft_api::hubble::relay::{NodeState, NodeStatusEvent};
use weft_api::hubble::wkt::Timestamp;

use super::merge::Merge;
use super::peers::{Peer, PeerMap, Peers};

/// Name under which the relay speaks of nodes.
const RELAY: &str = "weft-relay";
/// How long a node may take to begin its answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How often nodes that are away are tried again while a client follows.
const RETRY: Duration = Duration::from_secs(2);
/// How long a follower's flow waits for older ones of other nodes.
const HOLD_FOLLOWING: Duration = Duration::from_millis(100);
/// The same for a question about the past, which nodes answer at once.
const HOLD_PAST: Duration = Duration::from_secs(2);
/// A node that has begun but not ended its answer after this long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a node's stream brings.
enum FromNode {
    Response(Arc<str>, Box<GetFlowsResponse>),
    End(Arc<str>, Option<Status>),
}

type Dialled = (Arc<str>, Result<Streaming<GetFlowsResponse>, Status>);

/// A node as this session knows it.
enum State {
    Dialling,
    /// Its stream ends when the guard is dropped.
    Connected(#[expect(dead_code, reason = "held for its drop")] DropGuard),
    Away,
}

struct NodeSession {
    state: State,
    /// Time of its newest flow, from where a new connection goes on.
    newest: Option<Timestamp>,
}

/// A question that is being answered.
pub(super) struct Session {
    request: GetFlowsRequest,
    began: Timestamp,
    peers: watch::Receiver<PeerMap>,
    nodes: HashMap<Arc<str>, NodeSession>,
    dialling: FuturesUnordered<BoxFuture<'static, Dialled>>,
    streams: SelectAll<BoxStream<'static, FromNode>>,
    merge: Merge,
    notices: VecDeque<GetFlowsResponse>,
    retry: Interval,
    give_up: Instant,
}

impl Session {
    /// Asks every node that there is, and waits until each has begun to answer
    /// or failed to.
    ///
    /// # Errors
    /// A node's refusal of the question itself; a node that is away is only
    /// reported in the stream.
    pub(super) async fn begin(request: GetFlowsRequest, peers: &Peers) -> Result<Self, Status> {
        let mut retry = tokio::time::interval_at(Instant::now() + RETRY, RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let hold = if request.follow {
            HOLD_FOLLOWING
        } else {
            HOLD_PAST
        };
        let mut peers = peers.follow();
        let now = peers.borrow_and_update().clone();
        let mut session = Self {
            began: SystemTime::now().into(),
            peers,
            nodes: HashMap::new(),
            dialling: FuturesUnordered::new(),
            streams: SelectAll::new(),
            merge: Merge::new(hold),
            notices: VecDeque::new(),
            retry,
            give_up: Instant::now() + PATIENCE,
            request,
        };
        let dials = now
            .values()
            .map(|peer| dial(peer.clone(), session.request.clone()));
        let (mut connected, mut away) = (Vec::new(), Vec::new());
        for (name, answer) in future::join_all(dials).await {
            let list = match answer {
                Err(status) if is_refusal(&status) => return Err(status),
                Err(_) => &mut away,
                Ok(_) => &mut connected,
            };
            list.push(name.to_string());
            session.dialled(name, answer);
        }
        session.notices.clear();
        session.notice(NodeState::NodeConnected, connected, "");
        session.notice(NodeState::NodeUnavailable, away, "");
        Ok(session)
    }

    /// The next response, or the end.
    pub(super) async fn next(&mut self) -> Option<GetFlowsResponse> {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Some(notice);
            }
            if let Some(response) = self.merge.pop(Instant::now()) {
                return Some(response);
            }
            let follow = self.request.follow;
            let due = self.merge.deadline();
            if !follow && self.streams.is_empty() && due.is_none() {
                return None;
            }
            tokio::select! {
                // The end of the last stream is no item, but news all the same.
                item = self.streams.next(), if !self.streams.is_empty() => {
                    item.into_iter().for_each(|item| self.absorb(item));
                }
                dialled = self.dialling.next(), if !self.dialling.is_empty() => {
                    dialled.into_iter().for_each(|(name, answer)| self.dialled(name, answer));
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                () = tokio::time::sleep_until(self.give_up), if !follow => self.give_up(),
                _ = self.retry.tick(), if follow => self.dial_again(),
                changed = self.peers.changed(), if follow => {
                    // Without peers to come the retries are still worthwhile.
                    if changed.is_ok() {
                        self.dial_again();
                    }
                }
            }
        }
    }

    fn absorb(&mut self, item: FromNode) {
        match item {
            FromNode::Response(name, response) => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    node.newest = node.newest.max(response.time);
                }
                self.merge.push(name, *response);
            }
            FromNode::End(name, status) => {
                let Some(node) = self.nodes.get_mut(&name) else {
                    return;
                };
                if !matches!(node.state, State::Connected(_)) {
                    return;
                }
                node.state = State::Away;
                self.merge.ended(&name);
                let reason = status.map(|status| status.message().to_owned());
                if self.request.follow || reason.is_some() {
                    let reason = reason.unwrap_or_default();
                    self.notice(NodeState::NodeUnavailable, vec![name.to_string()], &reason);
                }
            }
        }
    }

    fn dialled(&mut self, name: Arc<str>, answer: Result<Streaming<GetFlowsResponse>, Status>) {
        let node = self.nodes.entry(name.clone()).or_insert(NodeSession {
            state: State::Away,
            newest: None,
        });
        let Ok(stream) = answer else {
            node.state = State::Away;
            return;
        };
        let stop = CancellationToken::new();
        node.state = State::Connected(stop.clone().drop_guard());
        self.merge.connected(name.clone());
        self.notice(NodeState::NodeConnected, vec![name.to_string()], "");
        let end = FromNode::End(name.clone(), None);
        let responses = stream
            .take_until(stop.cancelled_owned())
            .map(move |item| match item {
                Ok(response) => FromNode::Response(name.clone(), Box::new(response)),
                Err(status) => FromNode::End(name.clone(), Some(status)),
            });
        self.streams
            .push(responses.chain(stream::iter([end])).boxed());
    }

    /// Tries nodes that are new or away, and lets go of those that are gone.
    fn dial_again(&mut self) {
        let peers = self.peers.borrow_and_update().clone();
        let gone: Vec<Arc<str>> = self
            .nodes
            .keys()
            .filter(|name| !peers.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.nodes.remove(&name);
            self.merge.ended(&name);
            self.notice(NodeState::NodeGone, vec![name.to_string()], "");
        }
        for (name, peer) in peers.iter() {
            let known = self.nodes.get(name);
            if known.is_some_and(|node| !matches!(node.state, State::Away)) {
                continue;
            }
            let newest = known.and_then(|node| node.newest);
            let request = self.going_on(newest);
            let state = State::Dialling;
            self.nodes
                .insert(name.clone(), NodeSession { state, newest });
            self.dialling.push(dial(peer.clone(), request).boxed());
        }
    }

    /// The question to a node that comes later or comes back: only what this
    /// client has not yet seen.
    fn going_on(&self, newest: Option<Timestamp>) -> GetFlowsRequest {
        let after = |time: Timestamp| Timestamp::from_unix_nanos(time.unix_nanos() + 1);
        GetFlowsRequest {
            number: 0,
            since: Some(newest.map_or(self.began, after)),
            ..self.request.clone()
        }
    }

    /// Ends an answer that some node does not finish.
    fn give_up(&mut self) {
        self.streams.clear();
        let connected = self
            .nodes
            .iter()
            .filter(|(_, node)| matches!(node.state, State::Connected(_)));
        let mut names: Vec<String> = connected.map(|(name, _)| name.to_string()).collect();
        names.sort();
        for name in &names {
            self.merge.ended(name);
        }
        self.nodes.clear();
        self.notice(NodeState::NodeError, names, "did not finish its answer");
        self.give_up = Instant::now() + PATIENCE;
    }

    fn notice(&mut self, state: NodeState, node_names: Vec<String>, message: &str) {
        if node_names.is_empty() {
            return;
        }
        let status = NodeStatusEvent {
            state_change: state.into(),
            node_names,
            message: message.to_owned(),
        };
        self.notices.push_back(GetFlowsResponse {
            response_types: Some(ResponseTypes::NodeStatus(status)),
            node_name: RELAY.to_owned(),
            time: Some(SystemTime::now().into()),
        });
    }
}

async fn dial(peer: Peer, request: GetFlowsRequest) -> Dialled {
    let mut client = peer.client();
    let answer = tokio::time::timeout(DIAL_TIMEOUT, client.get_flows(request)).await;
    let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
    (peer.name, answer.map(tonic::Response::into_inner))
}

/// Whether the question is wrong, rather than the node away.
fn is_refusal(status: &Status) -> bool {
    // A broken transport has a source and, with some versions, this code too.
    let transport = std::error::Error::source(status).is_some();
    !transport
        && matches!(
            status.code(),
            Code::InvalidArgument | Code::Unknown | Code::Unimplemented
        )
}
