//! Connections into pods.

use anyhow::bail;

use crate::net::NetNs;

/// Dials a port of 127.0.0.1 inside a network namespace, or of the machine.
///
/// # Errors
/// When the namespace is gone or nobody listens.
pub async fn dial(netns: Option<String>, port: u16) -> anyhow::Result<tokio::net::TcpStream> {
    let Some(netns) = netns else {
        return Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await?);
    };
    let stream = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let ns = NetNs::open(&netns)?;
        let stream = ns.run(|| std::net::TcpStream::connect(("127.0.0.1", port)))??;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    match stream.await? {
        Ok(stream) => Ok(tokio::net::TcpStream::from_std(stream)?),
        Err(error) => bail!("port {port}: {error:#}"),
    }
}
