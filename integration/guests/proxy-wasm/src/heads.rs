//! Filters that look at heads only.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

/// Adds, replaces and removes headers of requests and responses.
pub(crate) struct Headers;

impl Context for Headers {}

impl HttpContext for Headers {
    fn on_http_request_headers(&mut self, count: usize, end: bool) -> Action {
        let listed = self.get_http_request_headers().len();
        self.add_http_request_header("x-counts", &(count == listed).to_string());
        self.add_http_request_header("x-end", &end.to_string());
        self.add_http_request_header("x-twice", "three");
        self.set_http_request_header("x-user", Some("replaced"));
        self.set_http_request_header("X-Secret", None);
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end: bool) -> Action {
        let status = self.get_http_response_header(":status").unwrap_or_default();
        self.add_http_response_header("x-was", &status);
        self.set_http_response_header("x-backend", Some("hidden"));
        self.set_http_response_header("x-remove-me", None);
        if status == "404" {
            self.set_http_response_header(":status", Some("410"));
        }
        Action::Continue
    }
}

/// Puts a prefix before the path, and says what it was.
pub(crate) struct Path;

impl Context for Path {}

impl HttpContext for Path {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap_or_default();
        self.set_http_request_header(":path", Some(&format!("/moved{path}")));
        self.set_http_request_header("x-original-path", Some(&path));
        if self.get_http_request_header(":method").as_deref() == Some("DELETE") {
            self.set_http_request_header(":method", Some("PATCH"));
        }
        Action::Continue
    }
}

/// Answers requests with the header `x-reply` itself, by the status that it names.
pub(crate) struct Reply;

impl Context for Reply {}

impl HttpContext for Reply {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        let wanted = self.get_http_request_header("x-reply");
        let Some(status) = wanted.and_then(|status| status.parse().ok()) else {
            return Action::Continue;
        };
        let headers = vec![("x-by", "filter"), ("content-type", "text/plain")];
        self.send_http_response(status, headers, Some(b"said by the filter"));
        Action::Pause
    }

    fn on_http_response_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.add_http_response_header("x-seen", "response");
        Action::Continue
    }
}

/// Refuses paths that begin as its configuration says.
pub(crate) struct Deny {
    pub(crate) prefix: String,
}

impl Context for Deny {}

impl HttpContext for Deny {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap_or_default();
        if !path.starts_with(&self.prefix) {
            return Action::Continue;
        }
        self.send_http_response(403, vec![], Some(b"denied"));
        Action::Pause
    }
}

/// Counts requests in shared data and says the count in the response.
pub(crate) struct Counter;

impl Context for Counter {}

impl HttpContext for Counter {
    fn on_http_response_headers(&mut self, _count: usize, _end: bool) -> Action {
        let (value, cas) = self.get_shared_data("count");
        let text = String::from_utf8(value.unwrap_or_default()).unwrap_or_default();
        let count = text.parse::<u32>().unwrap_or(0) + 1;
        let stored = self.set_shared_data("count", Some(count.to_string().as_bytes()), cas);
        // An old number: somebody else wrote since, which is never so here but for the first time.
        let stale = self.set_shared_data("count", Some(b"0"), Some(u32::MAX));
        self.add_http_response_header("x-count", &count.to_string());
        self.add_http_response_header("x-stored", &format!("{stored:?}"));
        self.add_http_response_header("x-stale", &format!("{stale:?}"));
        Action::Continue
    }
}

/// Says what properties are in headers of the response.
#[derive(Default)]
pub(crate) struct Properties {
    early: Vec<(String, String)>,
}

/// Texts. Parts are set apart by `|`.
const TEXTS: [&str; 13] = [
    "plugin_name",
    "plugin_root_id",
    "request|path",
    "request|url_path",
    "request|query",
    "request|method",
    "request|host",
    "request|protocol",
    "request|useragent",
    "request|headers|x-user",
    "request|headers|absent",
    "response|headers|x-backend",
    "nothing|of|this",
];

/// Numbers.
const NUMBERS: [&str; 1] = ["response|code"];

impl Context for Properties {}

impl Properties {
    fn known(&self) -> Vec<(String, String)> {
        let get = |path: &str| self.get_property(path.split('|').collect());
        let texts = TEXTS.map(|path| {
            let text = get(path).map(|value| String::from_utf8_lossy(&value).into_owned());
            (path, text)
        });
        let numbers = NUMBERS.map(|path| {
            let number = get(path)
                .and_then(|value| value.try_into().ok())
                .map(|bytes| i64::from_le_bytes(bytes).to_string());
            (path, number)
        });
        texts
            .into_iter()
            .chain(numbers)
            .map(|(path, value)| {
                let value = value.unwrap_or_else(|| "(absent)".to_owned());
                (path.replace('|', "-").replace('_', "-"), value)
            })
            .collect()
    }
}

impl HttpContext for Properties {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.early = self.known();
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end: bool) -> Action {
        for (name, value) in &self.early {
            self.add_http_response_header(&format!("x-early-{name}"), value);
        }
        for (name, value) in self.known() {
            self.add_http_response_header(&format!("x-late-{name}"), &value);
        }
        Action::Continue
    }
}
