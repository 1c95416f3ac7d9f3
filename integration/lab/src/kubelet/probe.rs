//! Following whether a container serves.

use std::path::Path;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::sleep;

use crate::client::Server;

/// How often to ask a process that is not ready yet.
const EAGER: Duration = Duration::from_millis(20);
/// How often to ask one that is.
const CALM: Duration = Duration::from_millis(500);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A container's readiness, to be awaited.
pub(super) enum Probe {
    /// Ready from the start.
    Started,
    /// Ready once it says so.
    Notified(UnixDatagram),
    /// Ready while it says so.
    Healthy(Server),
    /// Ready while a port of its network takes connections and, with a path,
    /// answers well.
    Serves {
        netns: Option<String>,
        port: u16,
        path: Option<String>,
    },
}

impl Probe {
    /// Probes `GET /healthz` on a socket.
    pub fn healthy(socket: &Path) -> Self {
        Self::Healthy(Server::socket(socket))
    }

    /// Waits until the container serves.
    pub async fn until_ready(&mut self) {
        match self {
            Self::Started => {}
            Self::Notified(socket) => {
                let mut message = [0; 64];
                loop {
                    match socket.recv(&mut message).await {
                        Ok(n) if message[..n].starts_with(b"READY=1") => return,
                        Ok(_) => {}
                        // The socket is ours; without it nothing can be said.
                        Err(_) => std::future::pending().await,
                    }
                }
            }
            Self::Healthy(server) => {
                while !is_healthy(server).await {
                    sleep(EAGER).await;
                }
            }
            Self::Serves { netns, port, path } => {
                while !serves(netns.clone(), *port, path.as_deref()).await {
                    sleep(EAGER).await;
                }
            }
        }
    }

    /// Waits until it does not serve any more; for most that is never.
    pub async fn until_unready(&mut self) {
        match self {
            Self::Started | Self::Notified(_) => std::future::pending().await,
            Self::Healthy(server) => {
                while is_healthy(server).await {
                    sleep(CALM).await;
                }
            }
            Self::Serves { netns, port, path } => {
                while serves(netns.clone(), *port, path.as_deref()).await {
                    sleep(CALM).await;
                }
            }
        }
    }
}

async fn serves(netns: Option<String>, port: u16, path: Option<&str>) -> bool {
    let asked = async {
        let stream = super::dial(netns, port).await?;
        match path {
            None => anyhow::Ok(true),
            Some(path) => Ok(crate::client::get(stream, path).await?.is_success()),
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer.is_ok_and(|answer| answer.unwrap_or(false))
}

async fn is_healthy(server: &Server) -> bool {
    let answer = server.get("/healthz", PATIENCE).await;
    answer.is_ok_and(|(status, _)| status.is_success())
}
