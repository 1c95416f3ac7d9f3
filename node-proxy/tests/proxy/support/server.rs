//! Servers behind the proxy.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::within;
use super::world::DEATHSTAR;

/// A server; gone when dropped.
pub struct Server {
    pub address: SocketAddr,
    /// The heads of requests that arrived.
    pub seen: Mutex<mpsc::UnboundedReceiver<String>>,
    /// Who has connected.
    peers: Arc<std::sync::Mutex<Vec<IpAddr>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Serves each connection with this script.
    pub async fn script<F, S>(script: S) -> Self
    where
        S: Fn(Conversation) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::script_at(DEATHSTAR, script).await
    }

    async fn script_at<F, S>(ip: Ipv4Addr, script: S) -> Self
    where
        S: Fn(Conversation) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((ip, 0)).await.expect("server");
        let address = listener.local_addr().expect("address");
        let (told, seen) = mpsc::unbounded_channel();
        let script = Arc::new(script);
        let peers = Arc::new(std::sync::Mutex::new(Vec::new()));
        let known = Arc::clone(&peers);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, peer)) = listener.accept().await else {
                    return;
                };
                known.lock().expect("no panic").push(peer.ip());
                let conversation = Conversation {
                    stream,
                    peer,
                    told: told.clone(),
                    read: Vec::new(),
                };
                let script = Arc::clone(&script);
                tokio::spawn(async move { script(conversation).await });
            }
        });
        Self {
            address,
            seen: Mutex::new(seen),
            peers,
            task,
        }
    }

    /// Answers every request with `Ship landed`.
    pub async fn landing() -> Self {
        Self::landing_at(DEATHSTAR).await
    }

    /// The same at this address.
    pub async fn landing_at(ip: Ipv4Addr) -> Self {
        Self::answering_at(
            ip,
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\
             date: Mon, 12 Aug 2024 06:35:45 GMT\r\nserver: deathstar\r\n\r\nShip landed\n",
        )
        .await
    }

    /// Answers every request without a body with these bytes.
    pub async fn answering(answer: &'static str) -> Self {
        Self::answering_at(DEATHSTAR, answer).await
    }

    async fn answering_at(ip: Ipv4Addr, answer: &'static str) -> Self {
        Self::script_at(ip, move |mut conversation| async move {
            while conversation.request().await.is_some() {
                conversation.send(answer).await;
            }
        })
        .await
    }

    /// Addresses of those that have connected.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.peers.lock().expect("no panic").clone()
    }

    /// The head of the next request that arrives.
    pub async fn next(&self) -> String {
        let mut seen = self.seen.lock().await;
        within(seen.recv()).await.expect("a request")
    }

    /// Asserts that no request has arrived that was not asked for.
    pub async fn assert_nothing_arrived(&self) {
        let seen = self.seen.lock().await.try_recv();
        assert!(seen.is_err(), "arrived at the server: {seen:?}");
    }
}

/// One connection of a server.
pub struct Conversation {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    told: mpsc::UnboundedSender<String>,
    pub read: Vec<u8>,
}

impl Conversation {
    /// The next request's head; `None` when the proxy closed.
    pub async fn request(&mut self) -> Option<String> {
        let head = self.until("\r\n\r\n").await?;
        let _gone = self.told.send(head.clone());
        Some(head)
    }

    /// The body of the next request; none when the proxy closed.
    pub async fn request_with_body(&mut self) -> Option<String> {
        let head = self.request().await?.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if let Some(length) = length {
            let length: usize = length.parse().expect("a length");
            while self.read.len() < length {
                if self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                    return None;
                }
            }
            let rest = self.read.split_off(length);
            let body = std::mem::replace(&mut self.read, rest);
            return Some(String::from_utf8_lossy(&body).into_owned());
        }
        if !head.contains("transfer-encoding: chunked") {
            return Some(String::new());
        }
        let mut body = String::new();
        loop {
            let size = self.until("\r\n").await?;
            let size = usize::from_str_radix(size.trim(), 16).expect("a size");
            let chunk = self.until("\r\n").await?;
            if size == 0 {
                return Some(body);
            }
            body.push_str(&chunk[..size]);
        }
    }

    /// Reads until this text has come.
    pub async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self
                .read
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let rest = self.read.split_off(at + end.len());
                let text = std::mem::replace(&mut self.read, rest);
                return Some(String::from_utf8_lossy(&text).into_owned());
            }
            if self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The proxy may have closed: then the test looks elsewhere.
        let _gone = self.stream.write_all(bytes.as_ref()).await;
    }
}
