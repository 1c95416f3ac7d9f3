//! Runs a filter natively, for its tests: a small proxy in the test's own thread, with a clock that
//! moves when the test says so, and answers to fetches that the test has written.
//!
//! ```
//! use std::time::Duration;
//! use weft_sdk::prelude::*;
//! use weft_sdk::testing::{Answer, TestHost, TestRequest, TestResponse};
//!
//! struct Ask;
//!
//! #[filter]
//! impl Filter for Ask {
//!     type Config = NoConfig;
//!     fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> {
//!         Ok(Self)
//!     }
//!     async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
//!         let answer = request.fetch("authz:80").get("/check").await?;
//!         request.headers().set("x-user", &answer.body)?;
//!         Ok(Flow::Continue)
//!     }
//! }
//!
//! # fn main() {
//! let host = TestHost::<Ask>::new("{}").unwrap();
//! host.answer("authz:80", |_fetch| Answer::ok("ada").after(Duration::from_millis(20)));
//!
//! let exchange = host.send(TestRequest::get("/"));
//! assert!(exchange.request().held());
//! host.advance(Duration::from_millis(20));
//! assert_eq!(exchange.request().header("x-user").as_deref(), Some("ada"));
//!
//! exchange.respond(TestResponse::new(200).body("hello"));
//! assert_eq!(exchange.response().body(), b"hello");
//! # }
//! ```

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "only tests run this, and that is how they fail"
)]

mod driver;
mod exchange;
mod limits;
mod line;
mod message;
mod proxy;
mod store;

use std::rc::Rc;
use std::time::Duration;

pub use exchange::{TestExchange, TestReply};
pub use line::MessageView;
pub use message::{Answer, TestFetch, TestRequest, TestResponse};
pub use proxy::LogLine;

use crate::filter::Filter;
use crate::sys::types::Manifest;
use crate::{Interests, Label};
use driver::Core;
use store::Shared;

/// A filter in a small proxy. See the module for an example.
pub struct TestHost<F: Filter> {
    core: Rc<Core<F>>,
}

impl<F: Filter> TestHost<F> {
    /// With this configuration.
    ///
    /// # Errors
    /// What the filter says of a configuration that is wrong.
    ///
    /// ```
    /// # use weft_sdk::prelude::*;
    /// # use weft_sdk::testing::TestHost;
    /// # struct X;
    /// # #[filter]
    /// # impl Filter for X {
    /// #     type Config = NoConfig;
    /// #     fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> { Ok(Self) }
    /// # }
    /// # fn main() {
    /// let refused = TestHost::<X>::new(r#"{"surprise": 1}"#).err().unwrap();
    /// assert!(refused.contains("surprise"));
    /// # }
    /// ```
    pub fn new(json: impl ToString) -> Result<Self, String> {
        Self::with(json, Rc::new(Shared::default()))
    }

    fn with(json: impl ToString, shared: Rc<Shared>) -> Result<Self, String> {
        Ok(Self {
            core: Core::new(json.to_string().as_bytes(), shared)?,
        })
    }

    /// Another instance on the same node: the same shared values, clock and answers to fetches.
    ///
    /// # Errors
    /// What the filter says of a configuration that is wrong.
    pub fn another(&self, json: impl ToString) -> Result<Self, String> {
        Self::with(json, self.core.proxy().shared())
    }

    /// What the filter says of itself.
    #[must_use]
    pub fn describe(&self) -> TestManifest {
        crate::runtime::Runtime::<F>::describe().into()
    }

    /// Sends a request, and goes on until everything waits for time to pass or is over.
    pub fn send(&self, request: TestRequest) -> TestExchange<F> {
        TestExchange::send(self.core.clone(), request)
    }

    /// Answers all fetches from this service. A service that nobody answers for is not there.
    pub fn answer(&self, service: &str, answer: impl FnMut(&TestFetch) -> Answer + 'static) {
        self.core.proxy().shared().answer(service, answer);
    }

    /// The fetches that were sent so far, in order.
    #[must_use]
    pub fn fetches(&self) -> Vec<TestFetch> {
        self.core.proxy().shared().fetches()
    }

    /// Lets time pass, and everything happen that is due meanwhile.
    pub fn advance(&self, duration: Duration) {
        self.core.advance(duration);
    }

    /// Sets the wall clock: time since 1970.
    pub fn set_wall_clock(&self, since_1970: Duration) {
        self.core.proxy().shared().set_wall_clock(since_1970);
    }

    /// What [`crate::time::random`] gives: these bytes, over and over.
    pub fn set_random(&self, bytes: &[u8]) {
        self.core.proxy().shared().set_random(bytes);
    }

    /// The value of a metric: the sum of a counter, the last of a gauge. 0 where nothing was added.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.core.proxy().metric_value(name, labels)
    }

    /// The lines of the log so far.
    #[must_use]
    pub fn logs(&self) -> Vec<LogLine> {
        self.core.proxy().logs()
    }

    /// A shared value.
    #[must_use]
    pub fn stored(&self, key: &str) -> Option<Vec<u8>> {
        self.core.proxy().shared().stored(key)
    }

    /// How many keys and bytes of shared values there may be.
    pub fn set_kv_quota(&self, keys: usize, bytes: usize) {
        self.core.proxy().shared().set_quota(keys, bytes);
    }
}

/// What a filter says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct TestManifest {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Name and version of the SDK.
    pub sdk: String,
    /// What it wants to see.
    pub interests: Interests,
    /// JSON schema of its configuration.
    pub config_schema: String,
}

impl From<Manifest> for TestManifest {
    fn from(manifest: Manifest) -> Self {
        Self {
            name: manifest.name,
            version: manifest.version,
            sdk: manifest.sdk,
            interests: manifest.interests,
            config_schema: manifest.config_schema,
        }
    }
}

/// Labels in the order of their keys.
fn sorted(labels: impl IntoIterator<Item = Label>) -> Vec<(String, String)> {
    let mut labels: Vec<_> = labels
        .into_iter()
        .map(|label| (label.key, label.value))
        .collect();
    labels.sort();
    labels
}
