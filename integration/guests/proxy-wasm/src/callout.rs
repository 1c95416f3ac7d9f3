//! A filter that asks a service about each request.

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

/// Sends the path to the service; what it answers decides.
pub(crate) struct Callout;

impl Context for Callout {
    fn on_http_call_response(&mut self, _token: u32, headers: usize, size: usize, trailers: usize) {
        let status = self.get_http_call_response_header(":status");
        let status = status.unwrap_or_default();
        let body = self
            .get_http_call_response_body(0, size)
            .unwrap_or_default();
        if status != "200" {
            let told = format!("{headers} headers, {trailers} trailers");
            let told = if headers == 0 { &*told } else { "it said no" };
            self.send_http_response(403, vec![("x-status", &status)], Some(told.as_bytes()));
            return;
        }
        self.set_http_request_header("x-authorized", Some(&String::from_utf8_lossy(&body)));
        self.resume_http_request();
    }
}

impl HttpContext for Callout {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap_or_default();
        let asked = format!("/check{path}");
        let headers = vec![
            (":method", "POST"),
            (":path", &*asked),
            (":authority", "authz.example"),
            ("x-asked-by", "filter"),
        ];
        let service = "authz.default:80";
        let timeout = Duration::from_secs(5);
        match self.dispatch_http_call(service, headers, Some(b"may it?"), vec![], timeout) {
            Ok(_token) => Action::Pause,
            Err(status) => {
                let text = format!("{status:?}");
                self.send_http_response(500, vec![], Some(text.as_bytes()));
                Action::Pause
            }
        }
    }
}
