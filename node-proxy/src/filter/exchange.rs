//! A request and its response, as filters see and change them.

use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use weft_core::filter::target;
use weft_wasm_host::Fields;
use weft_wasm_host::exchange::{self as host, Target};

use super::attributes;
use crate::control::config::Config;
use crate::identity::{Direction, Ends};
use crate::memory::Account;
use crate::pipeline::headers;
use crate::pipeline::request_id::RequestId;
use crate::pipeline::trace::Trace;
use crate::telemetry::exchange::{Decisions, Exchange};

/// What a request's span may be told by all its filters together.
const MARKS: usize = 64;
/// Bytes of one such text.
const MARK: usize = 1024;

/// Who asks whom, for filters that want to know.
#[derive(Debug)]
pub struct Known {
    /// Has the labels of both ends.
    pub config: Arc<Config>,
    /// Both ends.
    pub ends: Arc<Ends>,
    /// Correlates everything that is said about the request.
    pub request_id: RequestId,
    /// The trace it belongs to, if any.
    pub trace: Option<Trace>,
    /// Who pays for the memory.
    pub account: Arc<Account>,
}

/// What a filter may have changed of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// Nothing.
    Nothing,
    /// Headers, of which the host is none.
    Headers,
    /// Where it goes, and what it is to do there.
    Target,
}

/// The head of the request: filters change it until it is sent.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of each exchange, and it is boxed as a whole"
)]
enum Request {
    Open(Parts),
    Sent(Arc<Exchange>),
    /// Taken, to be sent.
    Gone,
}

/// A response of which filters see the head.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
}

/// What filters say about the request's span.
#[derive(Debug, Default)]
pub struct Marks {
    /// Attributes.
    pub attributes: Vec<(String, String)>,
    /// Events: their names and attributes.
    pub events: Vec<(String, Vec<(String, String)>)>,
}

impl Marks {
    fn has_room(&self) -> bool {
        self.attributes.len() + self.events.len() < MARKS
    }
}

/// One exchange, lent to each filter for the time of a call.
#[derive(Debug)]
pub struct Lent {
    known: Known,
    request: Request,
    /// Trailers of the request, once they have come.
    pub request_trailers: Option<HeaderMap>,
    answer: Option<Answer>,
    answer_sent: bool,
    /// Trailers of the response, once they have come.
    pub response_trailers: Option<HeaderMap>,
    /// Whose enforcement the filter belongs to that has it now.
    pub direction: Direction,
    /// What policy said, once it has.
    pub decisions: Decisions,
    /// What filters may have changed since policy judged it.
    pub changed: Changed,
    /// For the request's span.
    pub marks: Marks,
}

impl Lent {
    /// A request that nobody has changed yet.
    #[must_use]
    pub fn new(known: Known, head: Parts) -> Self {
        Self {
            known,
            request: Request::Open(head),
            request_trailers: None,
            answer: None,
            answer_sent: false,
            response_trailers: None,
            direction: Direction::Egress,
            decisions: Decisions::default(),
            changed: Changed::Nothing,
            marks: Marks::default(),
        }
    }

    /// Policy has decided about the request as it is now.
    pub fn decided(&mut self, decisions: Decisions) {
        self.decisions = decisions;
        self.changed = Changed::Nothing;
    }

    /// The request's head, as long as it can be changed.
    pub fn open(&mut self) -> Option<&mut Parts> {
        match &mut self.request {
            Request::Open(head) => Some(head),
            Request::Sent(_) | Request::Gone => None,
        }
    }

    /// Takes the head, to be recorded and sent: nobody changes it any more.
    pub fn take(&mut self) -> Option<Parts> {
        match std::mem::replace(&mut self.request, Request::Gone) {
            Request::Open(head) => Some(head),
            sent => {
                self.request = sent;
                None
            }
        }
    }

    /// It is recorded here now, with its head.
    pub fn recorded(&mut self, exchange: Arc<Exchange>) {
        self.request = Request::Sent(exchange);
    }

    /// There is an answer, in place of any before.
    pub fn answered(&mut self, answer: Answer) {
        self.answer = Some(answer);
        self.response_trailers = None;
    }

    /// Takes the answer's head, to be sent: nobody changes it any more. Filters
    /// that see more of the answer may still want to read it.
    pub fn send_answer(&mut self, read: bool) -> Option<Answer> {
        self.answer_sent = true;
        if !read {
            return self.answer.take();
        }
        let answer = self.answer.as_ref()?;
        Some(Answer {
            status: answer.status,
            headers: answer.headers.clone(),
        })
    }

    fn head(&self) -> Option<&Parts> {
        match &self.request {
            Request::Open(head) => Some(head),
            Request::Sent(exchange) => Some(&exchange.head),
            Request::Gone => None,
        }
    }
}

impl host::Exchange for Lent {
    fn fields(&self, of: Fields) -> Option<&HeaderMap> {
        match of {
            Fields::RequestHeaders => self.head().map(|head| &head.headers),
            Fields::RequestTrailers => self.request_trailers.as_ref(),
            Fields::ResponseHeaders => self.answer.as_ref().map(|answer| &answer.headers),
            Fields::ResponseTrailers => self.response_trailers.as_ref(),
        }
    }

    fn fields_mut(&mut self, of: Fields) -> Option<&mut HeaderMap> {
        match of {
            Fields::RequestHeaders => {
                let Request::Open(head) = &mut self.request else {
                    return None;
                };
                self.changed = self.changed.max(Changed::Headers);
                Some(&mut head.headers)
            }
            Fields::RequestTrailers => self.request_trailers.as_mut(),
            Fields::ResponseHeaders if self.answer_sent => None,
            Fields::ResponseHeaders => self.answer.as_mut().map(|answer| &mut answer.headers),
            Fields::ResponseTrailers => self.response_trailers.as_mut(),
        }
    }

    fn target(&self, part: Target) -> &str {
        let Some(head) = self.head() else { return "" };
        match part {
            Target::Method => head.method.as_str(),
            Target::Scheme => "http",
            Target::Authority => headers::authority(head),
            Target::Path => head.uri.path_and_query().map_or("/", PathAndQuery::as_str),
        }
    }

    fn set_target(&mut self, part: Target, value: &str) -> bool {
        let Request::Open(head) = &mut self.request else {
            return false;
        };
        let set = match part {
            Target::Method => set_method(head, value),
            // Everything here is in the clear.
            Target::Scheme => value == "http",
            Target::Authority => set_authority(head, value),
            Target::Path => set_path(head, value),
        };
        if set {
            self.changed = Changed::Target;
        }
        set
    }

    fn status(&self) -> Option<StatusCode> {
        self.answer.as_ref().map(|answer| answer.status)
    }

    fn set_status(&mut self, status: StatusCode) -> bool {
        match &mut self.answer {
            Some(answer) if !self.answer_sent => {
                answer.status = status;
                true
            }
            _ => false,
        }
    }

    fn attributes(&self) -> host::Attributes {
        let version = self.head().map(|head| head.version);
        attributes::of(&self.known, self.direction, &self.decisions, version)
    }

    fn is_reserved(&self, of: Fields, name: &HeaderName) -> bool {
        match of {
            Fields::RequestHeaders | Fields::RequestTrailers => headers::is_own(name),
            Fields::ResponseHeaders | Fields::ResponseTrailers => headers::is_hop(name),
        }
    }

    fn span_attribute(&mut self, key: &str, value: &str) {
        if self.marks.has_room() {
            self.marks.attributes.push((cut(key), cut(value)));
        }
    }

    fn span_event(&mut self, name: &str, attributes: &[(String, String)]) {
        if self.marks.has_room() {
            let attributes = attributes.iter().take(MARKS);
            let attributes = attributes.map(|(key, value)| (cut(key), cut(value)));
            self.marks.events.push((cut(name), attributes.collect()));
        }
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MARK);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn set_method(head: &mut Parts, value: &str) -> bool {
    match target::method(&head.method, value) {
        Some(method) => {
            head.method = method;
            true
        }
        None => false,
    }
}

fn set_path(head: &mut Parts, value: &str) -> bool {
    let Some(path) = target::path(value) else {
        return false;
    };
    let mut parts = head.uri.clone().into_parts();
    parts.path_and_query = Some(path);
    replace_uri(head, parts)
}

/// Where the request names its host is where it is changed.
fn set_authority(head: &mut Parts, value: &str) -> bool {
    let Some(authority) = target::authority(value) else {
        return false;
    };
    let Ok(host) = HeaderValue::from_str(value) else {
        return false;
    };
    if head.uri.authority().is_some() {
        let mut parts = head.uri.clone().into_parts();
        parts.authority = Some(authority);
        if !replace_uri(head, parts) {
            return false;
        }
        if !head.headers.contains_key(HOST) {
            return true;
        }
    }
    head.headers.insert(HOST, host);
    true
}

fn replace_uri(head: &mut Parts, parts: http::uri::Parts) -> bool {
    match Uri::from_parts(parts) {
        Ok(uri) => {
            head.uri = uri;
            true
        }
        Err(_error) => false,
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Version};

    use super::{set_authority, set_method, set_path};

    fn head(uri: &str, version: Version) -> http::request::Parts {
        let mut request = Request::get(uri).version(version);
        if version == Version::HTTP_11 {
            request = request.header("host", "a");
        }
        request.body(()).expect("valid").into_parts().0
    }

    #[test]
    fn a_path_has_one_meaning() {
        let mut head = head("/x", Version::HTTP_11);
        assert!(set_path(&mut head, "/a/../b?q=1"));
        assert_eq!(head.uri.to_string(), "/b?q=1");
        for wrong in ["", "b", "*", "/%00", "/x/..%2fadmin", "/a b"] {
            assert!(!set_path(&mut head, wrong), "{wrong}");
        }
        assert_eq!(head.uri.to_string(), "/b?q=1");
    }

    #[test]
    fn the_authority_is_changed_where_it_is_named() {
        let mut one = head("/x", Version::HTTP_11);
        assert!(set_authority(&mut one, "b:80"));
        assert_eq!(one.headers["host"], "b:80");
        assert!(one.uri.authority().is_none());
        let mut two = head("http://a/x", Version::HTTP_2);
        assert!(set_authority(&mut two, "b"));
        assert_eq!(two.uri.to_string(), "http://b/x");
        assert!(two.headers.is_empty());
        for wrong in ["u@b", "a b", ""] {
            assert!(!set_authority(&mut two, wrong), "{wrong}");
        }
    }

    #[test]
    fn a_method_stays_what_the_connection_takes_it_for() {
        let mut one = head("/x", Version::HTTP_11);
        assert!(set_method(&mut one, "POST"));
        assert!(!set_method(&mut one, "CONNECT"));
        assert!(!set_method(&mut one, "a b"));
        one.method = http::Method::HEAD;
        assert!(!set_method(&mut one, "GET"), "the client reads no body");
    }
}
