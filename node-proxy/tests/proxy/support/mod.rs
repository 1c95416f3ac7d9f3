//! A small world: a pod `tiefighter` at 127.0.0.2 that reaches a pod
//! `deathstar` at 127.0.0.3 through the proxy.

pub mod agent;
pub mod client;
pub mod guests;
pub mod modules;
pub mod otlp;
pub mod process;
pub mod server;
pub mod wat;
pub mod world;

use std::future::Future;
use std::time::Duration;

/// Longest wait for anything that must happen. Generous: a loaded machine is
/// slow, and a test that fails only then is worth nothing.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Between two looks at something that nobody announces.
const AGAIN: Duration = Duration::from_millis(2);

/// Waits until something holds, of which nobody tells.
pub async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        let mut looks = tokio::time::interval(AGAIN);
        while !holds().await {
            looks.tick().await;
        }
    };
    within(looking).await;
}

/// Waits for something that must happen.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("it did not happen within the deadline")
}

/// Lets this process have all the descriptors that it may: in some tests both
/// ends of thousands of connections are in it.
pub fn descriptors() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("raised");
}
