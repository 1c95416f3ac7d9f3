//! The server behind the proxy.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::proxy::within;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nShip landed\n";

/// Takes requests, and answers them when told to; gone when dropped.
pub struct Server {
    pub address: SocketAddr,
    go: watch::Sender<()>,
    /// One for each request that arrived, and for each that was answered.
    steps: mpsc::UnboundedReceiver<()>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (go, told) = watch::channel(());
        let (step, steps) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _peer)) = listener.accept().await {
                connections.spawn(serve(stream, told.clone(), step.clone()));
            }
        });
        Self {
            address,
            go,
            steps,
            task,
        }
    }

    /// Waits until so many requests wait for their answers.
    pub async fn arrived(&mut self, requests: usize) {
        for _ in 0..requests {
            within("the server's requests", self.steps.recv()).await;
        }
    }

    /// Answers so many, which is all that wait.
    pub async fn answer(&mut self, requests: usize) {
        self.go.send_replace(());
        for _ in 0..requests {
            within("the server's answers", self.steps.recv()).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Requests have no body and come one at a time, so each read that ends like
/// a head is one.
async fn serve(
    mut stream: TcpStream,
    mut told: watch::Receiver<()>,
    step: mpsc::UnboundedSender<()>,
) {
    stream.set_nodelay(true).expect("an option");
    let mut head = Vec::new();
    while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            told.mark_unchanged();
            step.send(()).expect("the server runs");
            told.changed().await.expect("the server runs");
            stream.write_all(ANSWER).await.expect("written");
            step.send(()).expect("the server runs");
        }
    }
}
