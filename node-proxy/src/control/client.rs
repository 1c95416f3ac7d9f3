//! The connection to the agent: snapshots in, statuses and records out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower::service_fn;
use weft_api::node::node_control_client::NodeControlClient;
use weft_api::node::{MAX_SNAPSHOT, ModuleRequest, Snapshot, SnapshotStatus};
use weft_wasm_host::MAX_MODULE;

/// Wait before the next attempt to reach the agent. Short: a restarted agent
/// is back within a second, and dialling a Unix socket costs nothing.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

/// What of a snapshot can be put in force besides rules.
const FEATURES: &[&str] = &["filters"];

/// Longest wait for the next part of a module.
const MODULE_PATIENCE: Duration = Duration::from_secs(30);

/// What a message has besides the part of a module.
const MESSAGE_OVERHEAD: usize = 64;

/// What the agent's stream asks of the task that puts snapshots in force. It is
/// dealt with in this order.
#[derive(Debug)]
pub enum Ask {
    /// Put a snapshot in force.
    Offer(Box<Offer>),
    /// Say what an agent may take for granted, now that all that was offered
    /// before is dealt with: an offer of a stream that has broken since may
    /// still have been on its way.
    Running(oneshot::Sender<String>),
}

/// A snapshot from the agent, to be answered.
#[derive(Debug)]
pub struct Offer {
    /// What the agent wants in force.
    pub snapshot: Snapshot,
    /// Where the status goes.
    pub answer: mpsc::Sender<SnapshotStatus>,
}

/// Keeps a stream of snapshots from the agent open, for ever. The first message
/// of each says what version the proxy runs and has stored, if they are one.
pub async fn snapshots(socket: PathBuf, asks: mpsc::Sender<Ask>) {
    loop {
        match dial(&socket).await {
            Ok(channel) => {
                if let Err(error) = follow(channel, &asks).await {
                    tracing::warn!(%error, "snapshot stream ended");
                }
            }
            Err(error) => tracing::debug!(%error, "agent is not there"),
        }
        if asks.is_closed() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// What runs; `None` when nobody puts snapshots in force any more.
async fn running(asks: &mpsc::Sender<Ask>) -> Option<String> {
    let (answer, answered) = oneshot::channel();
    asks.send(Ask::Running(answer)).await.ok()?;
    answered.await.ok()
}

async fn follow(channel: Channel, asks: &mpsc::Sender<Ask>) -> Result<(), tonic::Status> {
    let Some(version) = running(asks).await else {
        return Ok(());
    };
    let (answer, statuses) = mpsc::channel(16);
    let hello = status(version, String::new());
    if answer.send(hello).await.is_err() {
        return Ok(());
    }
    let mut snapshots = NodeControlClient::new(channel)
        .max_decoding_message_size(MAX_SNAPSHOT)
        .snapshots(ReceiverStream::new(statuses))
        .await?
        .into_inner();
    while let Some(snapshot) = snapshots.message().await? {
        let offer = Offer {
            snapshot,
            answer: answer.clone(),
        };
        if asks.send(Ask::Offer(Box::new(offer))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Answers a snapshot: an empty error accepts it.
#[must_use]
pub fn status(version: String, error: String) -> SnapshotStatus {
    SnapshotStatus {
        version,
        error,
        proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
        features: FEATURES.iter().map(|&one| one.to_owned()).collect(),
    }
}

/// Streams encoded batches of records to the agent, for ever. While it is away
/// they stay in the bounded channel, whose sender counts what does not fit.
pub async fn records(socket: PathBuf, mut batches: mpsc::Receiver<Bytes>) {
    // A batch that a broken stream did not take is offered to the next one.
    let mut waiting: Option<Bytes> = None;
    loop {
        if waiting.is_none() {
            match batches.recv().await {
                Some(batch) => waiting = Some(batch),
                None => return,
            }
        }
        match dial(&socket).await {
            Ok(channel) => stream(channel, &mut waiting, &mut batches).await,
            Err(error) => tracing::debug!(%error, "agent is not there"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn stream(
    channel: Channel,
    waiting: &mut Option<Bytes>,
    batches: &mut mpsc::Receiver<Bytes>,
) {
    let (sender, outgoing) = mpsc::channel(4);
    let call = weft_api::records::send(channel, ReceiverStream::new(outgoing));
    let feed = async {
        loop {
            let Ok(place) = sender.reserve().await else {
                return;
            };
            let batch = match waiting.take() {
                Some(batch) => batch,
                None => match batches.recv().await {
                    Some(batch) => batch,
                    None => return,
                },
            };
            place.send(batch);
        }
    };
    tokio::select! {
        answer = call => if let Err(error) = answer {
            tracing::debug!(%error, "record stream ended");
        },
        () = feed => {}
    }
}

/// Asks the agent for a module, once. What comes is still to be compared with
/// the digest.
///
/// # Errors
/// Why it cannot be had now.
pub async fn module(socket: &Path, sha256: String) -> Result<Vec<u8>, String> {
    let channel = dial(socket)
        .await
        .map_err(|_error| "the agent is not there".to_owned())?;
    // However the agent cuts it: a part is a module at most.
    let mut client =
        NodeControlClient::new(channel).max_decoding_message_size(MAX_MODULE + MESSAGE_OVERHEAD);
    let said = |status: Status| match status.code() {
        Code::NotFound => format!("the agent does not have it yet: {}", status.message()),
        Code::Unavailable => "the agent has gone away".to_owned(),
        code => format!("the agent does not give it ({code}): {}", status.message()),
    };
    let late = |_elapsed| {
        let seconds = MODULE_PATIENCE.as_secs();
        format!("the agent did not send any of it for {seconds} seconds")
    };
    let asked = client.modules(ModuleRequest { sha256 });
    let answer = timeout(MODULE_PATIENCE, asked).await.map_err(late)?;
    let mut parts = answer.map_err(said)?.into_inner();
    let mut module = Vec::new();
    loop {
        let part = timeout(MODULE_PATIENCE, parts.message()).await;
        let Some(part) = part.map_err(late)?.map_err(said)? else {
            return Ok(module);
        };
        if module.len() + part.data.len() > MAX_MODULE {
            return Err(format!("it has more than {MAX_MODULE} bytes"));
        }
        module.extend_from_slice(&part.data);
    }
}

pub(crate) async fn dial(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = socket.to_owned();
    // The address is never looked at: the connector dials the socket.
    Endpoint::from_static("http://agent.invalid")
        .connect_with_connector(service_fn(move |_address: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
}
