//! Clients that send many requests together.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::proxy::within;

const ASK: &[u8] =
    b"POST /v1/request-landing HTTP/1.1\r\nhost: deathstar\r\ncontent-length: 0\r\n\r\n";

/// Sends requests in waves.
pub trait Clients {
    /// Sends one request on every stream. They have left when this returns.
    async fn send(&mut self);

    /// Reads the answers to all of them.
    async fn receive(&mut self);
}

async fn connect(proxy: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(proxy).await.expect("connected");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// HTTP/1.1 connections.
pub struct Http1(Vec<TcpStream>);

impl Http1 {
    pub async fn connect(proxy: SocketAddr, connections: usize) -> Self {
        let mut streams = Vec::new();
        for _ in 0..connections {
            streams.push(connect(proxy).await);
        }
        Self(streams)
    }
}

impl Clients for Http1 {
    async fn send(&mut self) {
        for stream in &mut self.0 {
            stream.write_all(ASK).await.expect("sent");
        }
    }

    async fn receive(&mut self) {
        let mut read = Vec::new();
        for stream in &mut self.0 {
            read.clear();
            while !read.ends_with(b"Ship landed\n") {
                let more = within("an answer", stream.read_buf(&mut read)).await;
                assert!(more.expect("an answer") > 0, "closed");
            }
            assert!(read.starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
    }
}

/// HTTP/2 connections. Frames are made by hand: a client library decides for
/// itself when it writes, and this one must write all at once.
pub struct Http2 {
    connections: Vec<TcpStream>,
    streams: u32,
    next: u32,
}

/// Frames (RFC 9113, section 6) and flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x88;

impl Http2 {
    pub async fn connect(proxy: SocketAddr, connections: usize, streams: u32) -> Self {
        let mut clients = Self {
            connections: Vec::new(),
            streams,
            next: 1,
        };
        let hello = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &*frame(SETTINGS, 0, 0, &[]),
        ]
        .concat();
        for _ in 0..connections {
            let mut stream = connect(proxy).await;
            stream.write_all(&hello).await.expect("sent");
            loop {
                let (kind, flags, _payload) = read_frame(&mut stream).await;
                if kind == SETTINGS && flags & ACK == 0 {
                    break;
                }
            }
            let thanks = frame(SETTINGS, ACK, 0, &[]);
            stream.write_all(&thanks).await.expect("sent");
            clients.connections.push(stream);
        }
        clients
    }
}

impl Clients for Http2 {
    async fn send(&mut self) {
        let mut wave = Vec::new();
        for _ in 0..self.streams {
            wave.extend(frame(HEADERS, END_STREAM | END_HEADERS, self.next, &ask()));
            self.next += 2;
        }
        for connection in &mut self.connections {
            connection.write_all(&wave).await.expect("sent");
        }
    }

    async fn receive(&mut self) {
        for connection in &mut self.connections {
            let mut left = self.streams;
            let mut content = 0;
            while left > 0 {
                let (kind, flags, payload) = read_frame(connection).await;
                match kind {
                    HEADERS => assert_eq!(payload.first(), Some(&STATUS_200)),
                    DATA => content += payload.len(),
                    kind => assert_ne!(kind, GOAWAY),
                }
                if kind <= HEADERS && flags & END_STREAM != 0 {
                    left -= 1;
                }
            }
            assert_eq!(content, 12 * self.streams as usize);
        }
    }
}

/// The fields of a request: POST and http from HPACK's static table, path and
/// authority by their names' places there.
fn ask() -> Vec<u8> {
    let mut fields = vec![0x83, 0x86];
    for (name, value) in [(0x04, "/v1/request-landing"), (0x01, "deathstar")] {
        fields.extend([name, u8::try_from(value.len()).expect("short")]);
        fields.extend(value.as_bytes());
    }
    fields
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length.get(1..).expect("four bytes").to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

async fn read_frame(stream: &mut TcpStream) -> (u8, u8, Vec<u8>) {
    let reading = async {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.expect("a frame");
        (head[3], head[4], payload)
    };
    within("a frame", reading).await
}
