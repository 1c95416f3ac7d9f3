//! What the API needs of whoever runs the pods: exec, logs and a way in for port-forward.

use std::io;

use axum::body::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Runs containers. The API has checked that the pod exists and has the container.
pub trait PodRuntime: Send + Sync + 'static {
    /// Starts a command inside a running container.
    fn exec(
        &self,
        target: ContainerRef,
        request: ExecRequest,
    ) -> BoxFuture<'_, Result<ExecSession, RuntimeError>>;

    /// The container's output so far, and with `follow` until the container ends.
    fn logs(
        &self,
        target: ContainerRef,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, io::Result<Bytes>>, RuntimeError>>;

    /// Dials `127.0.0.1:port` from inside the pod's network namespace.
    fn connect(
        &self,
        target: ContainerRef,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, RuntimeError>>;
}

/// One container of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid: a pod made again under the same name has another.
    pub uid: String,
    /// The container's name.
    pub container: String,
}

/// A command to run and the streams that the client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The client sends input.
    pub stdin: bool,
    /// The client wants the output.
    pub stdout: bool,
    /// The client wants the error output (never set together with `tty`).
    pub stderr: bool,
    /// Run on a terminal.
    pub tty: bool,
}

/// A running command. Dropping it means that the client has gone: the command is to be killed.
pub struct ExecSession {
    /// Shut down at the client's end of input.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Output; the terminal's, when there is one.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Error output; none on a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Where the client's window sizes go.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// The exit code (128 + signal number for a killed command), awaited after both outputs ended.
    pub exit: BoxFuture<'static, io::Result<i32>>,
}

/// A terminal's size in characters, as the client sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Which part of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Keep going until the container ends.
    pub follow: bool,
    /// Only so many lines from the end of what is there.
    pub tail: Option<u64>,
    /// Only lines written at or after this time.
    pub since: Option<jiff::Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// The log of the container's previous run.
    pub previous: bool,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
}

/// Why the runtime did not do it.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Nothing of that name runs here.
    #[error("{0}")]
    NotFound(String),
    /// The container exists and does not run (yet, or any more).
    #[error("{0}")]
    NotRunning(String),
    /// The command could not be started.
    #[error("{0}")]
    Command(String),
    /// The machine refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}
