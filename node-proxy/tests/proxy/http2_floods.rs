//! Frames that cost the proxy more than their sender.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http2::{client, connect, request};
use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::within;
use crate::support::world::{Rules, World, impatient, open, rule};

/// A frame: length, type, flags, stream.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

async fn raw(proxy: SocketAddr) -> TcpStream {
    let mut stream = connect(proxy).await;
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(frame(4, 0, 0, &[]));
    stream.write_all(&hello).await.expect("sent");
    stream
}

/// Whether the proxy closes while these bytes are sent again and again.
async fn floods(proxy: SocketAddr, first: &[u8], again: &[u8]) {
    let stream = raw(proxy).await;
    let (mut read, mut write) = stream.into_split();
    let first = first.to_vec();
    let again = again.repeat(64);
    let writer = async {
        if write.write_all(&first).await.is_err() {
            return;
        }
        // 64 MiB at most: far more than any limit.
        for _ in 0..(64 * 1024 * 1024 / again.len()) {
            if write.write_all(&again).await.is_err() {
                return;
            }
        }
        panic!("the proxy took the whole flood");
    };
    let reader = async {
        let mut sink = vec![0; 64 * 1024];
        while matches!(read.read(&mut sink).await, Ok(length) if length > 0) {}
    };
    within(async {
        tokio::select! {
            () = writer => {}
            () = reader => {}
        }
    })
    .await;
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut stream = raw(world.address).await;
    // GET / of `a`, and at once: never mind.
    let fields = [0x82, 0x84, 0x86, 0x41, 0x01, b'a'];
    let resets: Vec<u8> = (0..2000_u32)
        .flat_map(|index| {
            let id = 2 * index + 1;
            let mut both = frame(1, 0x05, id, &fields);
            both.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
            both
        })
        .collect();
    let _maybe_closed = stream.write_all(&resets).await;
    let mut said = Vec::new();
    let _maybe_reset = within(stream.read_to_end(&mut said)).await;
    assert!(goaway(&said).contains(&ENHANCE_YOUR_CALM), "{said:?}");
    let mut next = Client::connect(world.address).await;
    assert_eq!(next.get("GET", "/next").await.status, 200);
}

/// Error code of RFC 9113, section 7.
const ENHANCE_YOUR_CALM: u32 = 11;

/// The codes of all GOAWAY frames in these bytes.
fn goaway(bytes: &[u8]) -> Vec<u32> {
    let codes = frames(bytes, 7).into_iter().filter_map(|one| one.get(4..8));
    codes
        .map(|code| u32::from_be_bytes(code.try_into().expect("four bytes")))
        .collect()
}

#[tokio::test]
async fn a_flood_of_continuations_is_cut() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    // HEADERS without END_HEADERS, then CONTINUATION for ever.
    let headers = frame(1, 0, 1, &[0x82]);
    let field = [0x00, 0x01, b'a', 0x7f, 0x80, 0x01];
    let mut payload = field.to_vec();
    payload.extend(vec![b'x'; 255]);
    let continuation = frame(9, 0, 1, &payload);
    floods(world.address, &headers, &continuation).await;
    let mut next = Client::connect(world.address).await;
    assert_eq!(next.get("GET", "/").await.status, 200);
}

/// The payloads of all frames of this type in these bytes.
fn frames(mut bytes: &[u8], wanted: u8) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let [a, b, c, kind, _flags, _i, _j, _k, _l, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(payload) = rest.get(..length) else {
            break;
        };
        if *kind == wanted {
            found.push(payload);
        }
        bytes = &rest[length..];
    }
    found
}

#[tokio::test]
async fn resets_that_the_proxy_is_made_to_send_end_the_connection() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut stream = raw(world.address).await;
    let fields = [0x82, 0x84, 0x86, 0x41, 0x01, b'a'];
    // A window that grows too large is an error of its stream: the proxy has
    // to reset it, and the client counts as one that has reset none.
    let made: Vec<u8> = (0..2000_u32)
        .flat_map(|index| {
            let id = 2 * index + 1;
            let mut both = frame(1, 0x05, id, &fields);
            both.extend(frame(8, 0, id, &0x7fff_ffff_u32.to_be_bytes()));
            both
        })
        .collect();
    let _maybe_closed = stream.write_all(&made).await;
    let mut said = Vec::new();
    let _maybe_reset = within(stream.read_to_end(&mut said)).await;
    assert!(goaway(&said).contains(&ENHANCE_YOUR_CALM), "{said:?}");
    let mut next = Client::connect(world.address).await;
    assert_eq!(next.get("GET", "/next").await.status, 200);
}

/// Status of the one response that is read, or none when the stream or the
/// connection was reset.
async fn status(proxy: SocketAddr, request: http::request::Builder) -> Option<u16> {
    let mut client = client(proxy).await;
    let request = request.body(()).expect("valid");
    let (response, _stream) = client.send_request(request, true).expect("sent");
    let response = within(response).await.ok()?;
    Some(response.status().as_u16())
}

#[tokio::test]
async fn headers_that_grow_when_they_are_unpacked_are_counted_unpacked() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    // One field of 4,000 bytes that enters the table, and then its number, of
    // one byte, again and again: 4 KB on the wire, 4 MB behind it.
    let mut fields = vec![0x82, 0x84, 0x86, 0x41, 0x01, b'a'];
    fields.extend([0x40, 0x01, b'x', 0x7f, 0xa1, 0x1e]);
    fields.extend(vec![b'y'; 4000]);
    // `:authority` took number 63, the field is 62.
    fields.extend(vec![0xbe; 1000]);
    let mut stream = raw(world.address).await;
    stream
        .write_all(&frame(1, 0x05, 1, &fields))
        .await
        .expect("sent");
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    // A response with HEADERS and 431, or a reset of stream or connection.
    within(async {
        while frames(&said, 1).is_empty() && frames(&said, 3).is_empty() && goaway(&said).is_empty()
        {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => said.extend_from_slice(&buffer[..length]),
            }
        }
    })
    .await;
    server.assert_nothing_arrived().await;

    // Small ones are counted one by one.
    let crumbs = |count: usize| {
        (0..count).fold(request("GET", "/"), |request, index| {
            request.header("cookie", format!("c{index}=1"))
        })
    };
    assert_eq!(status(world.address, crumbs(200)).await, Some(431));
    server.assert_nothing_arrived().await;
    assert_eq!(status(world.address, crumbs(3)).await, Some(200));
    // And arrive as the one line that they are of.
    let head = server.next().await;
    assert!(head.contains("cookie: c0=1; c1=1; c2=1\r\n"), "{head}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_does_not_hold_what_was_cut() {
    let (told, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::script(move |mut conversation| {
        let told = told.clone();
        async move {
            conversation.request().await;
            conversation
                .send("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
                .await;
            let block = vec![0; 64 * 1024];
            while conversation.stream.write_all(&block).await.is_ok() {}
            let _gone = told.send(());
        }
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let stream = connect(world.address).await;
    let mut builder = h2::client::Builder::new();
    let (mut client, connection) =
        within(builder.initial_window_size(0).handshake::<_, Bytes>(stream))
            .await
            .expect("handshake");
    let connection = tokio::spawn(connection);
    let get = request("GET", "/").body(()).expect("valid");
    let (response, _stream) = client.send_request(get, true).expect("sent");
    let response = within(response).await.expect("a head");
    assert_eq!(response.status().as_u16(), 200);
    let revoked = Rules {
        ingress: Some(vec![rule("GET", "/other")]),
        ..Default::default()
    };
    world.apply(&revoked.version("2")).await;
    // Nobody reads, and nobody waits for ever either.
    within(closed.recv()).await.expect("the server was let go");
    let _ended = within(connection).await.expect("no panic");
}

#[tokio::test]
async fn a_client_that_never_takes_its_answer_is_let_go() {
    let server = Server::landing().await;
    let rules = Rules {
        settings: impatient(),
        ..open()
    };
    let world = World::new(server.address, &rules).await;
    let mut stream = connect(world.address).await;
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE: less than the answer has.
    hello.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 5]));
    hello.extend(frame(1, 0x05, 1, &[0x82, 0x84, 0x86, 0x41, 0x01, b'a']));
    stream.write_all(&hello).await.expect("sent");
    let mut said = Vec::new();
    let _maybe_reset = within(stream.read_to_end(&mut said)).await;
    assert_eq!(frames(&said, 1).len(), 1, "a head");
    assert_eq!(frames(&said, 0).concat(), b"Ship ");
}
