//! A client of HTTP/1.1 that sends exactly what it is told to.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::within;
use super::world::TIEFIGHTER;

/// A connection to the proxy.
pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

/// A response as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header; names compare without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Client {
    /// Connects as the tiefighter.
    pub async fn connect(proxy: SocketAddr) -> Self {
        Self::connect_from(proxy, TIEFIGHTER.into()).await
    }

    pub async fn connect_from(proxy: SocketAddr, source: IpAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("socket");
        socket.bind(SocketAddr::new(source, 0)).expect("bind");
        let stream = within(socket.connect(proxy)).await.expect("connected");
        stream.set_nodelay(true).expect("nodelay");
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref()))
            .await
            .expect("sent");
    }

    /// Sends a request without a body and reads its response.
    pub async fn get(&mut self, method: &str, path: &str) -> Answer {
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: deathstar\r\n\r\n"
        ))
        .await;
        self.answer().await
    }

    /// Reads until this text has come; returns everything up to its end.
    pub async fn read_until(&mut self, end: &str) -> String {
        loop {
            let found = self
                .read
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let rest = self.read.split_off(at + end.len());
                let text = std::mem::replace(&mut self.read, rest);
                return String::from_utf8_lossy(&text).into_owned();
            }
            assert!(
                self.fill().await > 0,
                "closed while waiting for {end:?}, got {:?}",
                String::from_utf8_lossy(&self.read)
            );
        }
    }

    async fn fill(&mut self) -> usize {
        within(self.stream.read_buf(&mut self.read))
            .await
            .expect("readable")
    }

    /// Reads one response with a `content-length` or in chunks.
    pub async fn answer(&mut self) -> Answer {
        let head = self.read_until("\r\n\r\n").await;
        let mut answer = Answer {
            status: head
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse().ok())
                .expect("a status"),
            head,
            body: String::new(),
        };
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().expect("a length");
            while self.read.len() < length {
                assert!(self.fill().await > 0, "closed inside of a body");
            }
            let rest = self.read.split_off(length);
            let body = std::mem::replace(&mut self.read, rest);
            answer.body = String::from_utf8_lossy(&body).into_owned();
        } else if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = self.read_until("0\r\n\r\n").await;
        }
        answer
    }

    /// Reads until the proxy closes; returns what came.
    pub async fn closed(&mut self) -> String {
        loop {
            match within(self.stream.read_buf(&mut self.read)).await {
                Ok(0) | Err(_) => break,
                Ok(_more) => {}
            }
        }
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }
}
