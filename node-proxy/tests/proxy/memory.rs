//! What one source can make the proxy hold.
//!
//! Each attacker opens connections, fills them with requests that cannot end,
//! and goes on until the proxy takes nothing more. Both ends belong to it: a pod
//! and the server that it calls. Without a bound the first of these attacks
//! takes 106 MiB for each connection.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_api::node::Settings;

use crate::http2::{client, connect, request};
use crate::http2_floods::frame;
use crate::support::client::Client;
use crate::support::process::Process;
use crate::support::server::{Conversation, Server};
use crate::support::world::{Rules, STRANGER, World, open};
use crate::support::{descriptors, until, within};

const MIB: u64 = 1 << 20;

/// Memory of one source, in most of these tests: less takes less time to fill.
const BOUND: u64 = 16 * MIB;

/// What is not the attacker's: those who attack nobody, and the allocator, which
/// keeps what was freed for a second, apart for each thread and class of sizes.
/// On a machine that was busy with other things 4.3 MiB were seen.
const SLACK: u64 = 6 * MIB;

/// Between the connections of an attacker who wants each to be filled before
/// the next.
const PATIENT: Duration = Duration::from_millis(4);

/// What an attacker does with one connection.
type Attack = fn(TcpStream) -> BoxFuture<'static, ()>;

/// The server of all: `/fine` is answered, `/download` never ends, `/heads` is
/// answered with a large head alone, `/crumbs` never
/// ends and comes byte by byte; of anything else the head is read and
/// nothing more.
async fn serve(mut conversation: Conversation, mut over: watch::Receiver<bool>) {
    while let Some(head) = conversation.request().await {
        if head.contains(" /fine ") {
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            conversation.send(answer).await;
        } else if head.contains(" /download ") {
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
            conversation.send(answer).await;
            let block = vec![1; 64 * 1024];
            while conversation.stream.write_all(&block).await.is_ok() {}
        } else if head.contains(" /crumbs ") {
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            conversation.send(answer).await;
            let block = b"1\r\nx\r\n".repeat(10_000);
            while conversation.stream.write_all(&block).await.is_ok() {}
        } else if head.contains(" /heads ") {
            let field = "x".repeat(5000);
            let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n".to_owned();
            for name in 0..11 {
                answer += &format!("x-{name}: {field}\r\n");
            }
            conversation.send(answer + "\r\n").await;
        } else if head.starts_with("PRI ") {
            return serve_http2(conversation, over).await;
        } else {
            let _over = over.wait_for(|over| *over).await;
            return;
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// HTTP/2 with the largest windows. Requests without a body are answered with
/// little pieces, far apart on the wire; the first with a body is the last that
/// is read.
async fn serve_http2(mut conversation: Conversation, mut over: watch::Receiver<bool>) {
    conversation.send(windows()).await;
    conversation.until("SM\r\n\r\n").await;
    let mut said = std::mem::take(&mut conversation.read);
    loop {
        while let [a, b, c, kind, flags, stream @ ..] = &*said
            && let Some(end) = stream.first_chunk::<4>()
            && said.len() >= 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize
        {
            let length = 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let stream = u32::from_be_bytes(*end);
            let (headers, last) = (*kind == 1, flags & 1 == 1);
            said.drain(..length);
            if headers && !last {
                let _over = over.wait_for(|over| *over).await;
                return;
            }
            if headers {
                let piece = [
                    frame(0, 0, stream, &[1; 300]),
                    frame(0xfa, 0, 0, &[0; 7870]),
                ];
                let answer = [frame(1, 4, stream, &[0x88]), piece.concat().repeat(10)];
                conversation.send(answer.concat()).await;
            }
        }
        let read = conversation.stream.read_buf(&mut said).await;
        if !read.is_ok_and(|read| read > 0) {
            return;
        }
    }
}

/// SETTINGS and WINDOW_UPDATE that allow everything.
fn windows() -> Vec<u8> {
    [
        frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
        frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes()),
    ]
    .concat()
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// HEADERS of a hundred requests.
fn requests(method: u8, path: &str, last: bool) -> Vec<u8> {
    let mut fields = vec![method, 0x86, 0x01, 0x01, b'a', 0x04];
    fields.push(u8::try_from(path.len()).expect("short"));
    fields.extend(path.as_bytes());
    let ids = (0..100).map(|index| 2 * index + 1);
    ids.flat_map(|id| frame(1, 0x04 | u8::from(last), id, &fields))
        .collect()
}

/// HEADERS and CONTINUATION of a request that waits, with eleven fields of 5,000
/// bytes.
fn large_head(stream: u32) -> Vec<u8> {
    let mut fields = vec![GET, 0x86, 0x01, 0x01, b'a', 0x04, 0x05];
    fields.extend(b"/wait");
    for name in b'a'..b'l' {
        fields.extend([0x00, 0x01, name, 0x7f, 0x89, 0x26]);
        fields.extend([b'x'; 5000]);
    }
    let mut parts = fields.chunks(16_000).peekable();
    let mut bytes = Vec::new();
    while let Some(part) = parts.next() {
        let end_headers = if parts.peek().is_none() { 4 } else { 0 };
        let (kind, end_stream) = if bytes.is_empty() { (1, 1) } else { (9, 0) };
        bytes.extend(frame(kind, end_headers | end_stream, stream, part));
    }
    bytes
}

/// Sends this and reads nothing.
async fn deaf(mut stream: TcpStream, bytes: Vec<u8>) {
    let _maybe_closed = stream.write_all(&bytes).await;
    std::future::pending().await
}

/// Sends this and then pieces as long as the proxy takes them, and reads.
async fn pours(stream: TcpStream, first: Vec<u8>, mut next: impl FnMut() -> Option<Vec<u8>>) {
    let (mut read, mut write) = stream.into_split();
    let reading = async {
        let mut sink = vec![0; 64 * 1024];
        while matches!(read.read(&mut sink).await, Ok(length) if length > 0) {}
    };
    let writing = async {
        let mut bytes = first;
        while write.write_all(&bytes).await.is_ok() {
            match next() {
                Some(piece) => bytes = piece,
                None => break,
            }
        }
    };
    futures_util::future::join(reading, writing).await;
}

/// A hundred uploads: as much as the window of the connection allows, in frames
/// of this size, each behind so much that is nothing.
async fn uploads(stream: TcpStream, size: usize, between: usize) {
    let first = [PREFACE, &windows(), &requests(POST, "/upload", false)].concat();
    let nothing = frame(0xfa, 0, 0, &vec![0; between]);
    let mut ids = (0..100).map(|index| 2 * index + 1).cycle();
    let mut left = (1 << 20) / size;
    pours(stream, first, || {
        left = left.checked_sub(1)?;
        Some([&*nothing, &*frame(0, 0, ids.next()?, &vec![1; size])].concat())
    })
    .await;
}

/// Attacks until nothing more happens; no other source may notice.
async fn attack(name: &str, rules: Rules, bound: u64, connections: usize, attack: Attack) {
    attack_slowly(name, rules, bound, connections, Duration::ZERO, attack).await;
}

/// The same with a pause before each connection.
async fn attack_slowly(
    name: &str,
    rules: Rules,
    bound: u64,
    connections: usize,
    pause: Duration,
    attack: Attack,
) {
    descriptors();
    let (over, told) = watch::channel(false);
    let server = Server::script(move |conversation| serve(conversation, told.clone())).await;
    let rules = Rules {
        settings: Settings {
            max_memory_per_source: Some(bound),
            ..rules.settings.clone()
        },
        ..rules
    };
    let snapshot = serde_json::to_string(&rules.snapshot(server.address)).expect("JSON");
    let process = Process::run(&snapshot, &["--workers", "2"], &[("RUST_LOG", "error")]);
    let address = process.address().await;
    let mut other = Client::connect_from(address, STRANGER.into()).await;
    assert_eq!(other.get("GET", "/fine").await.status, 200);
    let before = process.peak();
    let mut attackers = JoinSet::new();
    for _ in 0..connections {
        tokio::time::sleep(pause).await;
        attackers.spawn(async move { attack(connect(address).await).await });
    }
    let grown = settled(&process).await - before;
    eprintln!("{name}: grew by {} KiB", grown / 1024);
    for _ in 0..10 {
        assert_eq!(other.get("GET", "/fine").await.status, 200, "{name}");
        let mut another = Client::connect_from(address, STRANGER.into()).await;
        assert_eq!(another.get("GET", "/fine").await.status, 200, "{name}");
    }
    assert!(grown < bound + SLACK, "{name}: {} KiB", grown / 1024);
    drop(attackers);
    over.send_replace(true);
    forgiven(name, &process, address).await;
}

/// Waits until the proxy has not grown for a second.
async fn settled(process: &Process) -> u64 {
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    let (mut peak, mut same) = (0, 0);
    while same < 5 {
        looks.tick().await;
        let now = process.peak();
        same = if now == peak { same + 1 } else { 0 };
        peak = now;
    }
    peak
}

/// Everything is given back but for idle connections to the server, and the
/// attacker is a source like others again.
async fn forgiven(name: &str, process: &Process, address: SocketAddr) {
    const HELD: &str = "weft_proxy_largest_source_memory_bytes ";
    let mut held = u64::MAX;
    until(async || {
        let metrics = process.admin("/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(HELD));
        held = line.expect("a gauge").parse().expect("a number");
        held < 4 * MIB
    })
    .await;
    eprintln!("{name}: {} KiB are still held", held / 1024);
    let mut again = Client::connect(address).await;
    assert_eq!(again.get("GET", "/fine").await.status, 200, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_bound_holds() {
    let downloads: Attack = |stream| {
        let asked = [PREFACE, &windows(), &requests(GET, "/download", true)].concat();
        deaf(stream, asked).boxed()
    };
    let default = Settings::default().max_memory_per_source;
    assert_eq!(default, None, "the proxy's own");
    attack("downloads", open(), 64 * MIB, 60, downloads).await;
}

/// What a client takes is its own affair, however much of it there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_taken_come_as_fast_as_they_may() {
    let (_over, told) = watch::channel(false);
    let server = Server::script(move |conversation| serve(conversation, told.clone())).await;
    let rules = Rules {
        settings: Settings {
            max_memory_per_source: Some(BOUND),
            ..Default::default()
        },
        ..open()
    };
    let world = World::new(server.address, &rules).await;
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let mut client = client(world.address).await;
        clients.spawn(async move {
            // A quarter of the bound each, if none were ever written.
            for _ in 0..40 {
                let heads = request("GET", "/heads").body(()).expect("valid");
                let (answer, _body) = client.send_request(heads, true).expect("open");
                let answer = within(answer).await.expect("answered");
                assert_eq!(answer.status(), 200);
            }
        });
    }
    clients.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_that_nobody_reads() {
    let closed: Attack = |stream| {
        // A window of nothing, and requests.
        let window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
        let asked = [PREFACE, &window, &requests(GET, "/download", true)].concat();
        deaf(stream, asked).boxed()
    };
    attack("closed windows", open(), BOUND, 40, closed).await;
    let http1: Attack = |stream| {
        let asked = b"GET /download HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
        deaf(stream, asked).boxed()
    };
    attack("HTTP/1.1", open(), BOUND, 500, http1).await;
    attack_slowly("slow HTTP/1.1", open(), BOUND, 500, PATIENT, http1).await;
    let crumbs: Attack = |stream| {
        let asked = b"GET /crumbs HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
        deaf(stream, asked).boxed()
    };
    attack("crumbs", open(), BOUND, 500, crumbs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_nobody_reads() {
    attack("large frames", open(), BOUND, 40, |stream| {
        uploads(stream, 16 * 1024, 0).boxed()
    })
    .await;
    attack("small frames", open(), BOUND, 40, |stream| {
        uploads(stream, 256, 7900).boxed()
    })
    .await;
    attack("smallest frames", open(), BOUND, 40, |stream| {
        uploads(stream, 1, 8150).boxed()
    })
    .await;
    let http1: Attack = |stream| {
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1073741824\r\n\r\n";
        pours(stream, head.to_vec(), || Some(vec![1; 64 * 1024])).boxed()
    };
    attack("HTTP/1.1", open(), BOUND, 500, http1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_large_or_never_end() {
    let patient = || Rules {
        settings: Settings {
            header_timeout: Some(pbjson_types::Duration {
                seconds: 60,
                nanos: 0,
            }),
            ..Default::default()
        },
        ..open()
    };
    let large: Attack = |stream| {
        let mut streams = (0..100).map(|index| 2 * index + 1);
        let first = [PREFACE, &windows()].concat();
        pours(stream, first, move || streams.next().map(large_head)).boxed()
    };
    attack("large heads", patient(), BOUND, 40, large).await;
    // Answers that are complete and that nobody takes.
    let answers: Attack = |stream| {
        let mut asked = [PREFACE, &windows()].concat();
        let all = requests(GET, "/download", true);
        asked.extend(&all[..all.len() / 100]);
        let all = requests(GET, "/heads", true);
        asked.extend(&all[all.len() / 100..]);
        deaf(stream, asked).boxed()
    };
    attack("heads of answers", patient(), BOUND, 40, answers).await;
    let open_block: Attack = |stream| {
        let mut fields = vec![GET];
        fields.extend(vec![0x86; 800]);
        let asked = [PREFACE, &windows(), &frame(1, 0, 1, &fields)].concat();
        deaf(stream, asked).boxed()
    };
    attack("open blocks", patient(), BOUND, 500, open_block).await;
    let http1: Attack = |stream| {
        let mut head = b"GET / HTTP/1.1\r\nhost: a\r\nx: ".to_vec();
        head.extend(vec![b'x'; 58 * 1024]);
        deaf(stream, head).boxed()
    };
    attack("HTTP/1.1", patient(), BOUND, 500, http1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_http2_that_help() {
    let http2 = || Rules {
        http2: true,
        ..open()
    };
    // The server reads nothing and has windows for everything.
    attack("little messages", http2(), BOUND, 10, |stream| {
        let first = [PREFACE, &windows(), &requests(POST, "/upload", false)].concat();
        let mut ids = (0..100).map(|index| 2 * index + 1).cycle();
        pours(stream, first, move || {
            let data = frame(0, 0, ids.next()?, &[1]);
            Some([data, frame(0xfa, 0, 0, &[0; 8000])].concat())
        })
        .boxed()
    })
    .await;
    attack("large messages", http2(), BOUND, 20, |stream| {
        uploads(stream, 16 * 1024, 0).boxed()
    })
    .await;
    // The server answers in pieces that keep more than they say.
    let little: Attack = |stream| {
        let window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
        let asked = [PREFACE, &window, &requests(GET, "/little", true)].concat();
        deaf(stream, asked).boxed()
    };
    attack("little answers", http2(), BOUND, 40, little).await;
}
