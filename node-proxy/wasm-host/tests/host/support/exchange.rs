//! A request and its response, as plain data.

use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use weft_wasm_host::Fields;
use weft_wasm_host::exchange::{Attributes, Direction, Exchange, Peer, Target};

#[derive(Debug, Clone, Default)]
pub struct FakeExchange {
    pub request: HeaderMap,
    pub request_trailers: Option<HeaderMap>,
    pub response: Option<(StatusCode, HeaderMap)>,
    pub method: String,
    pub path: String,
    pub authority: String,
    pub attributes: Attributes,
    pub marks: Arc<Mutex<Vec<String>>>,
}

impl FakeExchange {
    pub fn get(path: &str) -> Self {
        let peer = |address: &str, port, pod: &str| Peer {
            address: address.to_owned(),
            port,
            identity: 300,
            namespace: "default".to_owned(),
            pod: pod.to_owned(),
            labels: vec![("app".to_owned(), pod.to_owned())],
        };
        Self {
            method: "GET".to_owned(),
            path: path.to_owned(),
            authority: "deathstar.default".to_owned(),
            attributes: Attributes {
                request_id: "id-1".to_owned(),
                direction: Direction::Ingress,
                source: peer("10.0.0.1", 4000, "xwing"),
                destination: peer("fd00::2", 80, "deathstar"),
                ..Attributes::default()
            },
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.request.append(
            HeaderName::from_static(name),
            HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
        );
        self
    }

    pub fn answered(mut self, status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status");
        self.response = Some((status, HeaderMap::new()));
        self
    }

    fn mark(&self, text: String) {
        self.marks.lock().expect("no panic").push(text);
    }
}

impl Exchange for FakeExchange {
    fn fields(&self, of: Fields) -> Option<&HeaderMap> {
        match of {
            Fields::RequestHeaders => Some(&self.request),
            Fields::RequestTrailers => self.request_trailers.as_ref(),
            Fields::ResponseHeaders => self.response.as_ref().map(|(_, headers)| headers),
            Fields::ResponseTrailers => None,
        }
    }

    fn fields_mut(&mut self, of: Fields) -> Option<&mut HeaderMap> {
        match of {
            Fields::RequestHeaders => Some(&mut self.request),
            Fields::RequestTrailers => self.request_trailers.as_mut(),
            Fields::ResponseHeaders => self.response.as_mut().map(|(_, headers)| headers),
            Fields::ResponseTrailers => None,
        }
    }

    fn target(&self, part: Target) -> &str {
        match part {
            Target::Method => &self.method,
            Target::Scheme => "http",
            Target::Authority => &self.authority,
            Target::Path => &self.path,
        }
    }

    fn set_target(&mut self, part: Target, value: &str) -> bool {
        if value.is_empty() || value.bytes().any(|byte| byte <= b' ') {
            return false;
        }
        let place = match part {
            Target::Method => &mut self.method,
            Target::Authority => &mut self.authority,
            Target::Path => &mut self.path,
            Target::Scheme => return false,
        };
        value.clone_into(place);
        true
    }

    fn status(&self) -> Option<StatusCode> {
        self.response.as_ref().map(|(status, _)| *status)
    }

    fn set_status(&mut self, status: StatusCode) -> bool {
        match &mut self.response {
            Some((before, _)) => {
                *before = status;
                true
            }
            None => false,
        }
    }

    fn attributes(&self) -> Attributes {
        self.attributes.clone()
    }

    fn is_reserved(&self, _of: Fields, name: &HeaderName) -> bool {
        name == "x-request-id"
    }

    fn span_attribute(&mut self, key: &str, value: &str) {
        self.mark(format!("{key}={value}"));
    }

    fn span_event(&mut self, name: &str, attributes: &[(String, String)]) {
        self.mark(format!("{name} {attributes:?}"));
    }
}
