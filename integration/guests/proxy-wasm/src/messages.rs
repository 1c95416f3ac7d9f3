//! Filters that hold messages.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::root::Waiting;

/// Replaces the bodies of requests.
#[derive(Default)]
pub(crate) struct RequestBody {
    held: usize,
}

impl Context for RequestBody {}

impl HttpContext for RequestBody {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.set_http_request_header("content-length", None);
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        // As long as the filter pauses, the host keeps what came and shows it all.
        self.held = size;
        if !end {
            return Action::Pause;
        }
        let body = self.get_http_request_body(0, self.held).unwrap_or_default();
        let start = String::from_utf8_lossy(&body[..body.len().min(16)]).into_owned();
        let text = format!("{} bytes beginning with {start}", body.len());
        self.set_http_request_body(0, self.held, text.as_bytes());
        Action::Continue
    }
}

/// Replaces the bodies of responses.
#[derive(Default)]
pub(crate) struct ResponseBody {
    held: usize,
}

impl Context for ResponseBody {}

impl HttpContext for ResponseBody {
    fn on_http_response_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.set_http_response_header("content-length", None);
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.held = size;
        if !end {
            return Action::Pause;
        }
        let body = self
            .get_http_response_body(0, self.held)
            .unwrap_or_default();
        let text = format!("{}, all of it", String::from_utf8_lossy(&body));
        self.set_http_response_body(0, self.held, text.as_bytes());
        Action::Continue
    }
}

/// Holds each request until the next tick.
pub(crate) struct Pause {
    pub(crate) id: u32,
    pub(crate) waiting: Waiting,
}

impl Context for Pause {}

impl HttpContext for Pause {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.add_http_request_header("x-held", "until the tick");
        self.waiting.borrow_mut().push(self.id);
        Action::Pause
    }
}
