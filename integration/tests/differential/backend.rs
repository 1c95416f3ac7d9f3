//! Servers that keep what arrives.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{Request, Response};
use tokio::net::TcpListener;

use crate::requests::{MAX_BODY, Message, headers};

type Kept = Arc<Mutex<Vec<Message>>>;

/// One server for each filter, and the service that filters ask.
pub struct Backend {
    /// Where the servers listen.
    pub ports: Vec<u16>,
    /// Where the service listens.
    pub service: u16,
    kept: Kept,
}

impl Backend {
    /// Starts them in the runtime of the test.
    pub async fn start(servers: usize) -> Self {
        let kept = Kept::default();
        let mut ports = Vec::new();
        for _server in 0..=servers {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ports.push(listener.local_addr().unwrap().port());
            let router = Router::new().fallback(answer).with_state(kept.clone());
            tokio::spawn(async { axum::serve(listener, router).await });
        }
        let service = ports.pop().unwrap();
        Self {
            ports,
            service,
            kept,
        }
    }

    /// What arrived since `forget`.
    pub fn arrived(&self) -> Vec<Message> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clone()
    }

    /// Forgets what arrived.
    pub fn forget(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clear();
    }
}

async fn answer(State(kept): State<Kept>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap();
    let said = |name: &str| Some(head.headers.get(name)?.to_str().unwrap().to_owned());
    let target = head.uri.to_string();
    let status: u16 = match said("x-want-status") {
        Some(status) => status.parse().unwrap(),
        // The service that filters ask.
        None if target.starts_with("/check/refused") => 401,
        None => 200,
    };
    let text = format!("{} {target} with {} bytes", head.method, body.len());
    kept.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Message {
            begin: format!("{} {target}", head.method),
            status: 0,
            headers: headers(&head.headers),
            body: String::from_utf8(body.into()).unwrap(),
        });
    let answer = Response::builder()
        .status(status)
        .header("content-type", "text/plain")
        .header("x-backend", "yes")
        .header("x-remove-me", "secret")
        .header("x-multi", "a")
        .header("x-multi", "b");
    let body = match target.contains("/stream") {
        true => {
            let parts = [text, " and".to_owned(), " more".to_owned()];
            Body::from_stream(tokio_stream::iter(parts.map(Ok::<_, std::io::Error>)))
        }
        false if status == 204 => Body::empty(),
        false => Body::from(text),
    };
    answer.body(body).unwrap()
}
