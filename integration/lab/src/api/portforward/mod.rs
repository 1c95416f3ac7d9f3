//! `kubectl port-forward`: SPDY/3.1 inside a WebSocket, as kubectl speaks it from 1.31 on.
//! For every connection to its local port kubectl opens two streams, one for a possible
//! error and one for the bytes.

mod headers;
mod spdy;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures_util::SinkExt;
use futures_util::future;
use futures_util::stream::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::bytes::{Bytes, BytesMut};

use self::headers::{HeaderReader, HeaderWriter};
use self::spdy::Frame;
use super::runtime::{ContainerRef, PodRuntime};

/// Accepts the WebSocket and forwards connections until it closes.
pub(super) fn serve(
    upgrade: WebSocketUpgrade,
    runtime: Arc<dyn PodRuntime>,
    target: ContainerRef,
) -> Response {
    upgrade
        .protocols(["SPDY/3.1+portforward.k8s.io"])
        .on_upgrade(move |socket| run(socket, runtime, target))
}

async fn run(socket: WebSocket, runtime: Arc<dyn PodRuntime>, target: ContainerRef) {
    let (mut sink, mut stream) = socket.split();
    // Bounded: a client that does not read holds the pod back.
    let (send, mut receive) = mpsc::channel::<Bytes>(16);
    let writer = async {
        while let Some(frame) = receive.recv().await {
            if sink.send(Message::Binary(frame)).await.is_err() {
                return;
            }
        }
    };
    let reader = async {
        let mut tunnel = Tunnel::new(runtime, target, send);
        let mut buffer = BytesMut::new();
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(bytes) = message {
                buffer.extend_from_slice(&bytes);
            }
            if let Err(error) = tunnel.read(&mut buffer).await {
                tracing::debug!(%error, "port-forward ended");
                return;
            }
        }
    };
    future::join(reader, writer).await;
}

/// All forwarded connections of one client; dropping it ends them.
struct Tunnel {
    runtime: Arc<dyn PodRuntime>,
    target: ContainerRef,
    send: mpsc::Sender<Bytes>,
    reader: HeaderReader,
    writer: HeaderWriter,
    /// Error streams that wait for their data stream, by request.
    waiting: HashMap<String, u32>,
    /// Where the bytes of data streams go.
    open: HashMap<u32, mpsc::Sender<Bytes>>,
    connections: JoinSet<()>,
}

/// The tunnel cannot go on.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error(transparent)]
    Spdy(#[from] spdy::SpdyError),
    #[error("the client has gone")]
    Gone,
}

impl Tunnel {
    fn new(runtime: Arc<dyn PodRuntime>, target: ContainerRef, send: mpsc::Sender<Bytes>) -> Self {
        Self {
            runtime,
            target,
            send,
            reader: HeaderReader::new(),
            writer: HeaderWriter::default(),
            waiting: HashMap::new(),
            open: HashMap::new(),
            connections: JoinSet::new(),
        }
    }

    async fn read(&mut self, buffer: &mut BytesMut) -> Result<(), TunnelError> {
        while let Some(frame) = spdy::next(buffer, &mut self.reader)? {
            match frame {
                Frame::Open { id, headers, fin } => self.open(id, &headers, fin).await?,
                Frame::Data { id, payload, fin } => {
                    if let Some(pod) = self.open.get(&id) {
                        // A pod that has closed its side does not want the rest.
                        let _ = pod.send(payload).await;
                    }
                    if fin {
                        self.open.remove(&id);
                    }
                }
                Frame::Reset { id } => {
                    self.open.remove(&id);
                }
                Frame::Ping { id } => self.send(spdy::pong(id)).await?,
                Frame::GoAway => return Err(TunnelError::Gone),
                Frame::Other => {}
            }
            // Reap what has ended, so that a long session does not pile it up.
            while self.connections.try_join_next().is_some() {}
        }
        Ok(())
    }

    async fn send(&self, frame: Bytes) -> Result<(), TunnelError> {
        self.send.send(frame).await.map_err(|_| TunnelError::Gone)
    }

    async fn open(
        &mut self,
        id: u32,
        headers: &[(String, String)],
        fin: bool,
    ) -> Result<(), TunnelError> {
        let header = |name: &str| {
            let found = headers.iter().find(|(n, _)| n == name);
            found.map_or("", |(_, value)| value.as_str())
        };
        let request = header("requestid").to_owned();
        match (header("streamtype"), header("port").parse::<u16>()) {
            ("error", Ok(_)) => {
                self.waiting.insert(request, id);
            }
            ("data", Ok(port)) if self.waiting.contains_key(&request) => {
                let errors = self.waiting.remove(&request).unwrap_or_default();
                let (to_pod, from_client) = mpsc::channel(16);
                if !fin {
                    self.open.insert(id, to_pod);
                }
                let connection = Connection {
                    data: id,
                    errors,
                    send: self.send.clone(),
                };
                let (runtime, target) = (self.runtime.clone(), self.target.clone());
                self.connections.spawn(async move {
                    match runtime.connect(target, port).await {
                        Ok(pod) => connection.forward(pod, from_client).await,
                        Err(error) => connection.fail(port, &error.to_string()).await,
                    }
                });
            }
            _ => return self.send(spdy::refuse(id)).await,
        }
        let accepted = spdy::accept(id, &mut self.writer);
        self.send(accepted).await
    }
}

/// One forwarded connection's streams.
struct Connection {
    data: u32,
    errors: u32,
    send: mpsc::Sender<Bytes>,
}

impl Connection {
    async fn forward(self, mut pod: TcpStream, mut from_client: mpsc::Receiver<Bytes>) {
        let (mut read, mut write) = pod.split();
        let up = async {
            while let Some(bytes) = from_client.recv().await {
                write.write_all(&bytes).await?;
            }
            write.shutdown().await
        };
        let down = async {
            let mut buffer = vec![0; 32 * 1024];
            loop {
                let length = read.read(&mut buffer).await?;
                let frame = spdy::data(self.data, &buffer[..length], length == 0);
                if self.send.send(frame).await.is_err() || length == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        // Either side may close first and still get what the other has to say.
        let (_, received) = future::join(up, down).await;
        let ending = match received {
            Ok(()) => Bytes::new(),
            Err(error) => Bytes::from(error.to_string()),
        };
        // The client has gone: nobody is left to tell.
        let _ = self.send.send(spdy::data(self.errors, &ending, true)).await;
    }

    async fn fail(self, port: u16, why: &str) {
        let message = format!("an error occurred forwarding to port {port}: {why}");
        let frames = [
            spdy::data(self.errors, message.as_bytes(), true),
            spdy::data(self.data, &[], true),
        ];
        for frame in frames {
            let _ = self.send.send(frame).await;
        }
    }
}
