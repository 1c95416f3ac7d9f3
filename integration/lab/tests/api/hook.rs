//! A webhook: HTTPS on loopback, which answers as a test says and keeps what it was asked.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

/// The name of the Service that its certificate is for, beside loopback.
pub const SERVICE: &str = "judge";

/// What a webhook answers.
pub enum Reply {
    /// `allowed: true`, with warnings.
    Allow(&'static [&'static str]),
    /// `allowed: false`, with this status (null for none).
    Deny(Value),
    /// A body that is no review.
    Body(StatusCode, String),
    /// A review with another uid.
    Stranger,
    /// Nothing, ever.
    Never,
}

/// A running webhook; it ends with the value.
pub struct Hook {
    /// Its port on loopback.
    pub port: u16,
    /// The authorities that vouch for it, as a `caBundle`.
    pub bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Judge = Arc<dyn Fn(&Value) -> Reply + Send + Sync>;

impl Hook {
    /// Starts one that answers each `request` of a review so.
    pub async fn start(judge: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Self {
        let names = vec!["127.0.0.1".to_owned(), format!("{SERVICE}.default.svc")];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a server");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let listener = Tls {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, judge): (_, Judge) = (asked.clone(), Arc::new(judge));
        let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: Bytes| {
            let (log, judge) = (log.clone(), judge.clone());
            async move {
                let review: Value = serde_json::from_slice(&body).expect("a review");
                assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
                assert_eq!(review["kind"], "AdmissionReview");
                let mut request = review["request"].clone();
                let reply = answer(&request, judge(&request));
                request["uri"] = json!(uri.to_string());
                request["host"] = json!(headers["host"].to_str().expect("text"));
                log.lock().expect("whole").push(request);
                reply.await
            }
        });
        let task = tokio::spawn(async move {
            axum::serve(listener, router)
                .await
                .expect("the webhook goes on");
        });
        Self {
            port,
            bundle: STANDARD.encode(made.cert.pem()),
            asked,
            task,
        }
    }

    /// A `clientConfig` that leads to it.
    pub fn client(&self) -> Value {
        let url = format!("https://127.0.0.1:{}/judge", self.port);
        json!({ "url": url, "caBundle": self.bundle })
    }

    /// The requests that it was asked about since the last call.
    pub fn asked(&self) -> Vec<Value> {
        std::mem::take(&mut *self.asked.lock().expect("whole"))
    }
}

fn answer(request: &Value, reply: Reply) -> impl Future<Output = Response> + use<> {
    let uid = request["uid"].clone();
    let review = |response: Value| {
        let review = json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response });
        Some((StatusCode::OK, review.to_string()))
    };
    let reply = match reply {
        Reply::Allow(warnings) => {
            review(json!({ "uid": uid, "allowed": true, "warnings": warnings }))
        }
        Reply::Deny(Value::Null) => review(json!({ "uid": uid, "allowed": false })),
        Reply::Deny(status) => review(
            json!({ "uid": uid, "allowed": false, "status": status, "warnings": ["no good"] }),
        ),
        Reply::Body(status, body) => Some((status, body)),
        Reply::Stranger => review(json!({ "uid": "somebody", "allowed": true })),
        Reply::Never => None,
    };
    async move {
        match reply {
            Some(reply) => reply.into_response(),
            None => std::future::pending().await,
        }
    }
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let accepted = Listener::accept(&mut self.listener).await;
            // One that does not trust us goes away again.
            if let Ok(stream) = self.acceptor.accept(accepted.0).await {
                return (stream, accepted.1);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
