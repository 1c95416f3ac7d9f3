//! What is done once for a plugin.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::callout::Callout;
use crate::heads::{Counter, Deny, Headers, Path, Properties, Reply};
use crate::messages::{Pause, RequestBody, ResponseBody};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// Contexts that wait for the next tick.
pub(crate) type Waiting = Rc<RefCell<Vec<u32>>>;

#[derive(Default)]
struct Root {
    name: String,
    denied: String,
    waiting: Waiting,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let name = self.get_property(vec!["plugin_root_id"]);
        self.name = String::from_utf8(name.unwrap_or_default()).unwrap_or_default();
        if self.name == "pause" {
            self.set_tick_period(Duration::from_millis(20));
        }
        if self.name != "deny" {
            return true;
        }
        let config = self.get_plugin_configuration().unwrap_or_default();
        let config: Option<serde_json::Value> = serde_json::from_slice(&config).ok();
        match config.as_ref().and_then(|config| config["prefix"].as_str()) {
            Some(prefix) => self.denied = prefix.to_owned(),
            None => return false,
        }
        true
    }

    fn on_tick(&mut self) {
        for context in self.waiting.take() {
            // It may be gone: its client did not wait.
            if hostcalls::set_effective_context(context).is_ok() {
                let _ = hostcalls::resume_http_request();
            }
        }
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(match self.name.as_str() {
            "headers" => Box::new(Headers),
            "path" => Box::new(Path),
            "reply" => Box::new(Reply),
            "deny" => Box::new(Deny {
                prefix: self.denied.clone(),
            }),
            "counter" => Box::new(Counter),
            "properties" => Box::new(Properties::default()),
            "request-body" => Box::new(RequestBody::default()),
            "response-body" => Box::new(ResponseBody::default()),
            "pause" => Box::new(Pause {
                id,
                waiting: self.waiting.clone(),
            }),
            "callout" => Box::new(Callout),
            _ => return None,
        })
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
