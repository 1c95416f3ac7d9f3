//! The callbacks of proxy-wasm.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

use crate::changes::{Config, Headers};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default)]
struct Root {
    config: Rc<Config>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let json = self.get_plugin_configuration().unwrap_or_default();
        match Config::read(&json) {
            Ok(config) => {
                self.config = Rc::new(config);
                true
            }
            Err(why) => {
                let line = format!("the configuration is refused: {why}");
                // A host that cannot take a line of the log has nobody to tell it to.
                let _ = proxy_wasm::hostcalls::log(LogLevel::Error, &line);
                false
            }
        }
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http {
            config: self.config.clone(),
        }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Http {
    config: Rc<Config>,
}

impl Context for Http {}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.config.clone().request.apply(&mut RequestHeaders(self));
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.config
            .clone()
            .response
            .apply(&mut ResponseHeaders(self));
        Action::Continue
    }
}

struct RequestHeaders<'a>(&'a mut Http);

impl Headers for RequestHeaders<'_> {
    fn values(&self, name: &str) -> Vec<Vec<u8>> {
        self.0
            .get_http_request_header_bytes(name)
            .into_iter()
            .collect()
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        self.0.add_http_request_header_bytes(name, value);
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        self.0.set_http_request_header_bytes(name, Some(value));
    }

    fn remove(&mut self, name: &str) {
        self.0.set_http_request_header_bytes(name, None);
    }
}

struct ResponseHeaders<'a>(&'a mut Http);

impl Headers for ResponseHeaders<'_> {
    fn values(&self, name: &str) -> Vec<Vec<u8>> {
        self.0
            .get_http_response_header_bytes(name)
            .into_iter()
            .collect()
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        self.0.add_http_response_header_bytes(name, value);
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        self.0.set_http_response_header_bytes(name, Some(value));
    }

    fn remove(&mut self, name: &str) {
        self.0.set_http_response_header_bytes(name, None);
    }
}
