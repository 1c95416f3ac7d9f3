//! The request and its response, as the filter changes them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use weft_core::filter::target;
use weft_wasm_host::exchange::{Attributes, Exchange, Target};
use weft_wasm_host::{Fields, Side};

use super::record::Mark;

/// What a filter can see and change of an exchange.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) authority: String,
    pub(super) request: HeaderMap,
    pub(super) response: Option<(StatusCode, HeaderMap)>,
}

impl State {
    /// What an exchange is now, wherever it was.
    pub(super) fn of(exchange: &dyn Exchange) -> Self {
        let fields = |of| exchange.fields(of).cloned();
        Self {
            method: exchange.target(Target::Method).to_owned(),
            path: exchange.target(Target::Path).to_owned(),
            authority: exchange.target(Target::Authority).to_owned(),
            request: fields(Fields::RequestHeaders).unwrap_or_default(),
            response: exchange.status().zip(fields(Fields::ResponseHeaders)),
        }
    }
}

impl State {
    /// Takes what the proxy takes, by the same rules.
    fn set(&mut self, part: Target, value: &str) -> Option<()> {
        match part {
            Target::Method => {
                let before = Method::from_bytes(self.method.as_bytes()).ok()?;
                self.method = target::method(&before, value)?.to_string();
            }
            Target::Path => self.path = target::path(value)?.to_string(),
            Target::Authority => {
                let authority = target::authority(value)?;
                let host = HeaderValue::from_str(authority.as_str()).ok()?;
                self.request.insert(HOST, host);
                self.authority = authority.to_string();
            }
            Target::Scheme => return None,
        }
        Some(())
    }
}

/// What is known of an exchange outside of the instance that works on it.
#[derive(Debug, Default)]
pub(super) struct Outside {
    request_sent: AtomicBool,
    response_sent: AtomicBool,
    marks: Mutex<Vec<Mark>>,
}

impl Outside {
    /// The head has gone on: it cannot be changed any more.
    pub(super) fn send(&self, side: Side) {
        self.sent_flag(side).store(true, Ordering::Relaxed);
    }

    /// What was said of the span since the last time.
    pub(super) fn take_marks(&self) -> Vec<Mark> {
        std::mem::take(&mut self.marks())
    }

    fn marks(&self) -> MutexGuard<'_, Vec<Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, side: Side) -> bool {
        self.sent_flag(side).load(Ordering::Relaxed)
    }

    const fn sent_flag(&self, side: Side) -> &AtomicBool {
        match side {
            Side::Request => &self.request_sent,
            Side::Response => &self.response_sent,
        }
    }
}

/// About the connection of one side.
const HOP_BY_HOP: [&str; 4] = [
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
];
/// Headers of requests that the proxy writes itself.
const OWN: [&str; 3] = ["expect", "x-forwarded-proto", "x-request-id"];

/// As in the proxy: what no filter can change, besides headers that frame a message.
fn is_reserved(side: Side, name: &str) -> bool {
    let is_own = |name: &str| name.starts_with("x-envoy-") || OWN.contains(&name);
    HOP_BY_HOP.contains(&name)
        || (side == Side::Request && (is_own(name) || is_own(&name.replace('_', "-"))))
}

/// An exchange that nobody else has a part in.
pub(super) struct Offline {
    pub(super) state: State,
    pub(super) attributes: Arc<Attributes>,
    pub(super) outside: Arc<Outside>,
}

impl Exchange for Offline {
    fn fields(&self, of: Fields) -> Option<&HeaderMap> {
        match of {
            Fields::RequestHeaders => Some(&self.state.request),
            Fields::ResponseHeaders => self.state.response.as_ref().map(|(_, headers)| headers),
            Fields::RequestTrailers | Fields::ResponseTrailers => None,
        }
    }

    fn fields_mut(&mut self, of: Fields) -> Option<&mut HeaderMap> {
        if self.outside.sent(of.side()) {
            return None;
        }
        match of {
            Fields::RequestHeaders => Some(&mut self.state.request),
            Fields::ResponseHeaders => self.state.response.as_mut().map(|(_, headers)| headers),
            Fields::RequestTrailers | Fields::ResponseTrailers => None,
        }
    }

    fn target(&self, part: Target) -> &str {
        match part {
            Target::Method => &self.state.method,
            Target::Scheme => "http",
            Target::Authority => &self.state.authority,
            Target::Path => &self.state.path,
        }
    }

    fn set_target(&mut self, part: Target, value: &str) -> bool {
        !self.outside.sent(Side::Request) && self.state.set(part, value).is_some()
    }

    fn status(&self) -> Option<StatusCode> {
        self.state.response.as_ref().map(|(status, _)| *status)
    }

    fn set_status(&mut self, status: StatusCode) -> bool {
        match &mut self.state.response {
            Some((before, _)) if !self.outside.sent(Side::Response) => {
                *before = status;
                true
            }
            _ => false,
        }
    }

    fn attributes(&self) -> Attributes {
        Attributes::clone(&self.attributes)
    }

    fn is_reserved(&self, of: Fields, name: &HeaderName) -> bool {
        is_reserved(of.side(), name.as_str())
    }

    fn span_attribute(&mut self, key: &str, value: &str) {
        self.outside.marks().push(Mark::Attribute {
            key: key.to_owned(),
            value: value.to_owned(),
        });
    }

    fn span_event(&mut self, name: &str, attributes: &[(String, String)]) {
        self.outside.marks().push(Mark::Event {
            name: name.to_owned(),
            attributes: attributes.to_vec(),
        });
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use weft_wasm_host::exchange::Target;

    use super::{Side, State, is_reserved};

    #[test]
    fn a_request_goes_only_where_the_proxy_lets_it_go() {
        let mut state = State {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            authority: "a".to_owned(),
            request: HeaderMap::new(),
            response: None,
        };
        for (part, wrong) in [
            (Target::Method, "CONNECT"),
            (Target::Method, "a b"),
            (Target::Path, "/%00"),
            (Target::Path, "/x/..%2fadmin"),
            (Target::Path, "b"),
            (Target::Path, "*"),
            (Target::Authority, "user@b"),
            (Target::Authority, "a/b"),
            (Target::Scheme, "https"),
        ] {
            assert_eq!(state.set(part, wrong), None, "{wrong}");
        }
        assert_eq!(state.set(Target::Path, "/a/../b?q"), Some(()));
        assert_eq!(state.path, "/b?q");
        assert_eq!(state.set(Target::Authority, "b:80"), Some(()));
        assert_eq!(state.request["host"], "b:80");
        assert_eq!(state.set(Target::Method, "HEAD"), Some(()));
        assert_eq!(
            state.set(Target::Method, "GET"),
            None,
            "nobody reads its body"
        );
    }

    #[test]
    fn what_the_proxy_writes_itself_is_not_for_filters() {
        for (name, in_requests, in_responses) in [
            ("x-request-id", true, false),
            ("x_request_id", true, false),
            ("x-envoy-retry-on", true, false),
            ("proxy-authenticate", true, true),
            ("x-user", false, false),
            ("my_header", false, false),
        ] {
            assert_eq!(is_reserved(Side::Request, name), in_requests, "{name}");
            assert_eq!(is_reserved(Side::Response, name), in_responses, "{name}");
        }
    }
}
