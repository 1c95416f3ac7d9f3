//! Servers for tests: HTTPS on loopback, and an API that has a few objects.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client::Http;
use super::dial::Dialer;
use super::fetch::{Fetcher, Sources};
use super::store::Store;
use super::turn::Turn;

/// A place with servers that one certificate vouches for.
pub struct Site {
    acceptor: TlsAcceptor,
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Site {
    pub fn new() -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a server");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ca.pem"), made.cert.pem()).expect("written");
        std::fs::create_dir(dir.path().join("files")).expect("made");
        Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            store: Store::open(dir.path().join("modules")).expect("opened"),
            dir,
        }
    }

    /// A server; it goes with the test.
    pub async fn serve(&self, router: Router) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let listener = Tls {
            listener,
            acceptor: self.acceptor.clone(),
        };
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A client that may reach the servers.
    pub fn http(&self) -> Http {
        let dialer = Dialer { private: true };
        Http::new(dialer, Some(&self.authority())).expect("a client")
    }

    /// Sources of which these objects are in the API, by their paths.
    pub fn sources(&self, objects: &[(&str, Value)]) -> Sources {
        Sources {
            http: self.http(),
            api: api(objects),
            directory: self.dir.path().join("files"),
            turn: Turn::default(),
        }
    }

    /// One that looks at these.
    pub fn fetcher(&self, objects: &[(&str, Value)]) -> Fetcher {
        Fetcher {
            sources: self.sources(objects),
            store: self.store.clone(),
            tenant: Box::default(),
        }
    }
}

/// A client of an API that has these objects.
pub fn api(objects: &[(&str, Value)]) -> Client {
    let objects: BTreeMap<String, Value> = objects
        .iter()
        .map(|(path, object)| ((*path).to_owned(), object.clone()))
        .collect();
    let service = tower::service_fn(move |request: Request<Body>| {
        let found = objects.get(request.uri().path()).cloned();
        async move {
            let (status, object) = match found {
                Some(object) => (StatusCode::OK, object),
                None => {
                    let none = json!({"kind": "Status", "code": 404, "reason": "NotFound"});
                    (StatusCode::NOT_FOUND, none)
                }
            };
            let mut response = Response::new(Body::from(object.to_string().into_bytes()));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    Client::new(service, "default")
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
