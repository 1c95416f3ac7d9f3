//! A small HTTP client: the lab's API on loopback, admin sockets of its parts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Server {
    /// A port of 127.0.0.1.
    Loopback(u16),
    /// A Unix socket.
    Socket(PathBuf),
}

impl Server {
    /// A server behind a Unix socket.
    pub fn socket(path: &Path) -> Self {
        Self::Socket(path.to_path_buf())
    }

    /// Sends one request on a connection of its own; the answer's body streams.
    ///
    /// # Errors
    /// When the server cannot be reached or breaks off.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        match self {
            Self::Loopback(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))
                    .await
                    .with_context(|| format!("cannot reach 127.0.0.1:{port}"))?;
                exchange(stream, request).await
            }
            Self::Socket(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .with_context(|| format!("cannot reach {}", path.display()))?;
                exchange(stream, request).await
            }
        }
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// When the server cannot be reached or breaks off.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::HOST, "localhost");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let response = self.send(request.body(Full::new(body.into()))?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, body))
    }

    /// `GET path`, giving up after a time.
    ///
    /// # Errors
    /// As [`Self::call`], and when the time is over.
    pub async fn get(&self, path: &str, most: Duration) -> anyhow::Result<(StatusCode, Bytes)> {
        let call = self.call(Method::GET, path, &[], Bytes::new());
        tokio::time::timeout(most, call)
            .await
            .with_context(|| format!("no answer to GET {path} within {most:?}"))?
    }
}

/// `GET path` on a connection; the status of the answer.
///
/// # Errors
/// When the server breaks off.
pub async fn get<S>(stream: S, path: &str) -> anyhow::Result<StatusCode>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get(path).header(header::HOST, "localhost");
    let response = exchange(stream, request.body(Full::default())?).await?;
    Ok(response.status())
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, driver) = handshake(TokioIo::new(stream)).await?;
    // Ends with the body, or with the server.
    tokio::spawn(driver.with_upgrades());
    Ok(sender.send_request(request).await?)
}
