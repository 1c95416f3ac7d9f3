//! How often a worker of the node proxy enters the kernel for a request.
//! Counted, not timed: a read, a write or a wake-up too many shows at once, on
//! any machine.
//!
//! Four calls are what forwarding one HTTP/1.1 request takes (read and write,
//! towards each side). HTTP/2 shares the two of the client's side among the
//! requests that come together. Waiting for events is shared by all that are
//! in flight, so how many come together must not depend on how busy the
//! machine is: the proxy is stopped while the clients send, and again while
//! the server answers.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod clients;
mod proxy;
mod server;
mod trace;

use self::clients::{Clients, Http1, Http2};
use self::proxy::Proxy;
use self::server::Server;
use self::trace::Trace;

/// Connections.
const CONNECTIONS: usize = 32;
/// Requests at once on each HTTP/2 connection.
const STREAMS: u32 = 8;

/// Waves of requests before counting: connections, buffers, caches.
const WARM_UP: u32 = 5;
/// Waves that are counted.
const WAVES: u32 = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http1_request_takes_at_most_4_2_system_calls() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address).await;
    let clients = Http1::connect(proxy.address, CONNECTIONS).await;
    assert_calls(proxy, server, clients, CONNECTIONS, 4.2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_request_takes_at_most_2_4_system_calls() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address).await;
    let clients = Http2::connect(proxy.address, CONNECTIONS, STREAMS).await;
    assert_calls(proxy, server, clients, CONNECTIONS * STREAMS as usize, 2.4).await;
}

async fn assert_calls<C: Clients>(
    proxy: Proxy,
    mut server: Server,
    mut clients: C,
    requests: usize,
    most: f64,
) {
    let mut wave = async || {
        let stopped = proxy.stop().await;
        clients.send().await;
        drop(stopped);
        server.arrived(requests).await;
        let stopped = proxy.stop().await;
        server.answer(requests).await;
        drop(stopped);
        clients.receive().await;
    };
    for _ in 0..WARM_UP {
        wave().await;
    }
    let trace = Trace::of(proxy.worker()).await;
    for _ in 0..WAVES {
        wave().await;
    }
    let counted = trace.finish().await;
    let calls = f64::from(counted.calls) / f64::from(WAVES) / requests as f64;
    println!("{calls:.3} calls per request:\n{}", counted.table);
    assert!(
        calls <= most,
        "{calls:.3} calls per request:\n{}",
        counted.table
    );
}
