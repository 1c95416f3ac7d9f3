//! What tests send: requests, responses, and answers to fetches.

use std::time::Duration;

use crate::sys::host::nothing_known;
use crate::sys::types::{self, FetchRequest, Header};
use crate::{Attributes, FetchError, Label, Peer};

pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn pair(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> (Vec<u8>, Vec<u8>) {
    (name.as_ref().to_ascii_lowercase(), value.as_ref().to_vec())
}

/// A request that a test sends.
#[derive(Debug, Clone)]
#[must_use = "send it with TestHost::send"]
pub struct TestRequest {
    pub(super) attributes: Attributes,
    pub(super) message: Message,
}

/// A response that a test sends.
#[derive(Debug, Clone)]
#[must_use = "send it with TestExchange::respond"]
pub struct TestResponse {
    pub(super) status: u16,
    pub(super) message: Message,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Message {
    pub(super) headers: Pairs,
    pub(super) parts: Vec<Vec<u8>>,
    pub(super) trailers: Option<Pairs>,
}

macro_rules! message {
    ($type:ident) => {
        impl $type {
            /// With one more header.
            pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
                self.message.headers.push(pair(name, value));
                self
            }

            /// With one more part of its body.
            pub fn body(mut self, part: impl Into<Vec<u8>>) -> Self {
                self.message.parts.push(part.into());
                self
            }

            /// With one more trailer.
            pub fn trailer(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
                let trailers = self.message.trailers.get_or_insert_default();
                trailers.push(pair(name, value));
                self
            }
        }
    };
}

message!(TestRequest);
message!(TestResponse);

impl TestRequest {
    /// Of this method, to this path and query.
    pub fn new(method: &str, path: &str) -> Self {
        let peer = |address: &str, port| Peer {
            address: address.to_owned(),
            port,
            namespace: "default".to_owned(),
            ..nothing_known().source
        };
        Self {
            attributes: Attributes {
                request_id: "00000000-0000-4000-8000-000000000001".to_owned(),
                source: peer("10.0.0.1", 40_000),
                destination: peer("10.0.0.2", 80),
                method: method.to_owned(),
                path: path.to_owned(),
                scheme: "http".to_owned(),
                authority: "service.test".to_owned(),
                http_version: "HTTP/1.1".to_owned(),
                ..nothing_known()
            },
            message: Message::default(),
        }
    }

    /// A GET.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A POST.
    pub fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    /// To this host.
    pub fn authority(mut self, authority: &str) -> Self {
        self.attributes.authority = authority.to_owned();
        self
    }

    /// From this pod of this namespace, with this identity and these labels.
    pub fn from(
        mut self,
        namespace: &str,
        pod: &str,
        identity: u32,
        labels: &[(&str, &str)],
    ) -> Self {
        let source = &mut self.attributes.source;
        source.namespace = namespace.to_owned();
        source.pod = pod.to_owned();
        source.identity = identity;
        source.labels = labels
            .iter()
            .map(|(key, value)| Label {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        self
    }

    /// With attributes changed in any way.
    pub fn attributes(mut self, change: impl FnOnce(&mut Attributes)) -> Self {
        change(&mut self.attributes);
        self
    }
}

impl TestResponse {
    /// Of this status.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            message: Message::default(),
        }
    }
}

/// A fetch as the service would see it.
#[derive(Debug, Clone, PartialEq)]
pub struct TestFetch {
    /// `name.namespace:port`.
    pub service: String,
    /// Its method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Its body.
    pub body: Vec<u8>,
    /// Over HTTP/2.
    pub http2: bool,
    /// After this long it is given up.
    pub timeout: Duration,
    headers: Pairs,
}

impl TestFetch {
    pub(super) fn of(request: &FetchRequest) -> Self {
        Self {
            service: request.service.clone(),
            method: request.method.clone(),
            path: request.path.clone(),
            body: request.body.clone(),
            http2: request.http2,
            timeout: Duration::from_millis(u64::from(request.timeout_ms)),
            headers: request
                .headers
                .iter()
                .map(|header| pair(&header.name, &header.value))
                .collect(),
        }
    }

    /// The first value of a header, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        first(&self.headers, name)
    }
}

pub(super) fn first(pairs: &Pairs, name: &str) -> Option<String> {
    pairs
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
}

/// The answer to a fetch.
#[derive(Debug, Clone)]
#[must_use]
pub struct Answer {
    pub(super) result: Result<types::FetchResponse, types::FetchError>,
    /// None: it never comes.
    pub(super) after: Option<Duration>,
}

impl Answer {
    /// 200, with this body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(body)
    }

    /// With this status.
    pub const fn status(status: u16) -> Self {
        Self {
            result: Ok(types::FetchResponse {
                status,
                headers: Vec::new(),
                body: Vec::new(),
                trailers: Vec::new(),
            }),
            after: Some(Duration::ZERO),
        }
    }

    /// A gRPC answer of one message.
    pub fn grpc(message: &[u8]) -> Self {
        let mut body = vec![0];
        body.extend_from_slice(
            &u32::try_from(message.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        body.extend_from_slice(message);
        Self::ok(body).trailer("grpc-status", "0")
    }

    /// None: it fails so.
    pub fn error(err: FetchError) -> Self {
        Self {
            result: Err(match err {
                FetchError::Denied => types::FetchError::Denied,
                FetchError::NoEndpoint => types::FetchError::NoEndpoint,
                FetchError::Timeout => types::FetchError::Timeout,
                FetchError::TooLarge => types::FetchError::TooLarge,
                FetchError::Overloaded => types::FetchError::Overloaded,
                FetchError::Invalid(why) => types::FetchError::Invalid(why),
                FetchError::Failed(why) => types::FetchError::Failed(why),
            }),
            after: Some(Duration::ZERO),
        }
    }

    /// None, until the fetch is given up.
    pub const fn never() -> Self {
        Self {
            result: Err(types::FetchError::Timeout),
            after: None,
        }
    }

    /// With one more header.
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        if let Ok(response) = &mut self.result {
            let (name, value) = pair(name, value);
            response.headers.push(Header { name, value });
        }
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        if let Ok(response) = &mut self.result {
            response.body = body.into();
        }
        self
    }

    /// With one more trailer.
    pub fn trailer(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        if let Ok(response) = &mut self.result {
            let (name, value) = pair(name, value);
            response.trailers.push(Header { name, value });
        }
        self
    }

    /// It comes after this long.
    pub const fn after(mut self, duration: Duration) -> Self {
        self.after = Some(duration);
        self
    }
}
