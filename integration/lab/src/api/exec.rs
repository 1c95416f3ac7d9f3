//! `kubectl exec` over WebSocket: `v5.channel.k8s.io`, and `v4` for clients that cannot
//! close their input. The first byte of every message is its channel.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use futures_util::stream::{SplitStream, StreamExt};
use futures_util::{SinkExt, future};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::logs;
use super::request::Query;
use super::runtime::{
    ContainerRef, ExecRequest, ExecSession, PodRuntime, RuntimeError, TerminalSize,
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// `[255, n]`: channel n has ended (v5 only).
const CLOSE: u8 = 255;
/// How long to wait for the client's side of the closing handshake.
const GOODBYE: Duration = Duration::from_secs(2);

type Input = Option<Box<dyn AsyncWrite + Send + Unpin>>;

/// The command of a request's query.
pub(super) fn request(query: &Query) -> ExecRequest {
    let tty = query.flag("tty");
    ExecRequest {
        command: query.all("command"),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr") && !tty,
        tty,
    }
}

/// Accepts the WebSocket, and then starts the command and ties it to that.
pub(super) fn serve(
    upgrade: WebSocketUpgrade,
    runtime: Arc<dyn PodRuntime>,
    target: ContainerRef,
    request: ExecRequest,
) -> Response {
    upgrade
        .protocols(["v5.channel.k8s.io", "v4.channel.k8s.io"])
        .on_upgrade(move |socket| async move {
            match runtime.exec(target, request.clone()).await {
                Ok(session) => run(socket, request, session).await,
                Err(error) => refuse(socket, &error).await,
            }
        })
}

async fn refuse(mut socket: WebSocket, error: &RuntimeError) {
    let status = logs::refusal(error).to_status();
    // A client that has gone already does not need to know.
    let _ = socket
        .send(frame(STATUS, status.to_string().as_bytes()))
        .await;
    let _ = socket.send(goodbye()).await;
    let (_, mut stream) = socket.split();
    drain(&mut stream).await;
}

/// Waits for the client's side of the closing handshake.
async fn drain(stream: &mut SplitStream<WebSocket>) {
    let farewell = async { while let Some(Ok(_)) = stream.next().await {} };
    // Too late to matter: the status has been sent.
    let _ = tokio::time::timeout(GOODBYE, farewell).await;
}

async fn run(socket: WebSocket, request: ExecRequest, session: ExecSession) {
    let (mut sink, mut stream) = socket.split();
    // Bounded: a client that does not read holds the command back.
    let (send, mut receive) = mpsc::channel::<Message>(16);
    let ExecSession {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = session;
    let outputs = async move {
        future::join(
            pump(stdout, STDOUT, send.clone()),
            pump(stderr, STDERR, send.clone()),
        )
        .await;
        let status = status(&request, exit.await);
        let last = [frame(STATUS, status.to_string().as_bytes()), goodbye()];
        for message in last {
            if send.send(message).await.is_err() {
                break;
            }
        }
    };
    let writer = async {
        while let Some(message) = receive.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    };
    // Whichever side ends first, the rest is dropped, and with it the command.
    tokio::select! {
        _ = future::join(outputs, writer) => {}
        () = read_client(&mut stream, stdin, resize) => return,
    }
    drain(&mut stream).await;
}

fn frame(channel: u8, payload: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(payload.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(payload);
    Message::Binary(Bytes::from(bytes))
}

/// kubectl takes any other code for a broken connection.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame {
        code: close_code::NORMAL,
        reason: "".into(),
    }))
}

async fn pump(
    output: Option<Box<dyn AsyncRead + Send + Unpin>>,
    channel: u8,
    to: mpsc::Sender<Message>,
) {
    let Some(mut output) = output else { return };
    let mut buffer = vec![0; 32 * 1024];
    // A terminal's end is an error (EIO) on Linux: either way there is no more.
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        if to.send(frame(channel, &buffer[..length])).await.is_err() {
            return;
        }
    }
}

/// Feeds the command until the client goes away.
async fn read_client(
    stream: &mut SplitStream<WebSocket>,
    mut stdin: Input,
    resize: Option<mpsc::Sender<TerminalSize>>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        match bytes.split_first() {
            Some((&STDIN, data)) => {
                if let Some(writer) = &mut stdin {
                    let written = writer.write_all(data).await;
                    // A command that closed its input goes on without.
                    if written.is_err() || writer.flush().await.is_err() {
                        stdin = None;
                    }
                }
            }
            Some((&RESIZE, data)) => {
                if let (Some(resize), Ok(size)) = (&resize, serde_json::from_slice(data)) {
                    // A full queue means a newer size is on its way already.
                    let _ = resize.try_send(size);
                }
            }
            Some((&CLOSE, [STDIN])) => {
                if let Some(mut writer) = stdin.take() {
                    let _ = writer.shutdown().await;
                }
            }
            _ => {}
        }
    }
}

/// The last word: how the command ended.
fn status(request: &ExecRequest, exit: std::io::Result<i32>) -> Value {
    match exit {
        Ok(0) => json!({ "metadata": {}, "status": "Success" }),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!(
                "command terminated with non-zero exit code: error executing command {:?}, exit code {code}",
                request.command
            ),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Err(error) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("the command's end is unknown: {error}"),
        }),
    }
}
