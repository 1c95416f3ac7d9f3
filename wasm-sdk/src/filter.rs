//! The trait that a filter implements.

use std::rc::Rc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Interests, Plugin, Reply, Request, Response, Result};

/// A filter. Write `#[filter]` before the `impl`: it fills in the consts and exports the filter.
///
/// ```
/// use weft_sdk::prelude::*;
///
/// struct Hello;
///
/// #[filter]
/// impl Filter for Hello {
///     type Config = NoConfig;
///
///     fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> {
///         Ok(Self)
///     }
///
///     async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {
///         response.headers().set("x-hello", "world")?;
///         Ok(Flow::Continue)
///     }
/// }
/// # fn main() {}
/// ```
pub trait Filter: Sized + 'static {
    /// Its name: the crate's, with `#[filter]`.
    const NAME: &'static str;

    /// Its version: the crate's, with `#[filter]`.
    const VERSION: &'static str;

    /// What it wants to see: with `#[filter]`, all of the messages whose method it implements. A
    /// body that is not named here never comes, and reading it is an error.
    const INTERESTS: Interests;

    /// Its configuration, read from JSON; the schema is checked before the filter is loaded.
    type Config: DeserializeOwned + JsonSchema;

    /// Makes an instance; there is one for each worker of the proxy.
    ///
    /// # Errors
    /// What is wrong with the configuration, for the one who wrote it.
    fn new(config: Self::Config, plugin: &Plugin) -> Result<Self>;

    /// What it wants to see as it is configured, of what [`Self::INTERESTS`] names. A message that
    /// its configuration leaves alone costs nothing when it is not asked for.
    ///
    /// ```
    /// # use weft_sdk::prelude::*;
    /// # struct Tag { response: Option<String> }
    /// # impl Filter for Tag {
    /// #     const NAME: &'static str = "tag";
    /// #     const VERSION: &'static str = "1.0.0";
    /// #     const INTERESTS: Interests = Interests::of_methods(true, true);
    /// #     type Config = NoConfig;
    /// #     fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> { Ok(Self { response: None }) }
    /// fn interests(&self) -> Interests {
    ///     Interests::of_methods(true, self.response.is_some())
    /// }
    /// # }
    /// # fn main() {}
    /// ```
    fn interests(&self) -> Interests {
        Self::INTERESTS
    }

    /// Decides about a request. It begins when the head has come; what has come is held until this
    /// returns, or until the body is streamed.
    ///
    /// # Errors
    /// Where it cannot decide: what happens then is its owner's choice.
    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let _ = request;
        Ok(Flow::Continue)
    }

    /// Decides about a response. A reply takes its place, as long as its head has not gone on.
    ///
    /// # Errors
    /// Where it cannot decide: what happens then is its owner's choice.
    async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {
        let _ = response;
        Ok(Flow::Continue)
    }

    /// Runs beside the requests as long as the instance lives, for what is done now and then.
    ///
    /// # Errors
    /// Is logged, and ends it; the filter goes on.
    async fn background(self: Rc<Self>, plugin: Plugin) -> Result<()> {
        let _ = plugin;
        Ok(())
    }
}

/// What is to become of a message.
///
/// ```
/// use weft_sdk::{Flow, Reply};
/// fn decide(allowed: bool) -> Flow {
///     if allowed { Flow::Continue } else { Reply::new(403).into() }
/// }
/// assert_eq!(decide(true), Flow::Continue);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Flow {
    /// It goes on, as it is now.
    Continue,
    /// The client gets this.
    Reply(Reply),
}

impl From<Reply> for Flow {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// The configuration of a filter that has none: an empty object.
///
/// ```
/// assert!(serde_json::from_str::<weft_sdk::NoConfig>("{}").is_ok());
/// assert!(serde_json::from_str::<weft_sdk::NoConfig>(r#"{"a": 1}"#).is_err());
/// ```
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

impl Interests {
    /// All of the messages whose methods are implemented.
    ///
    /// ```
    /// use weft_sdk::Interests;
    /// assert!(Interests::of_methods(true, false).contains(Interests::REQUEST_BODY));
    /// assert!(!Interests::of_methods(true, false).intersects(Interests::RESPONSE_HEADERS));
    /// ```
    #[must_use]
    pub const fn of_methods(on_request: bool, on_response: bool) -> Self {
        let mut interests = Self::empty();
        if on_request {
            interests = interests.union(Self::OF_REQUEST);
        }
        if on_response {
            interests = interests.union(Self::OF_RESPONSE);
        }
        interests
    }

    /// All of a request.
    pub(crate) const OF_REQUEST: Self = Self::REQUEST_HEADERS
        .union(Self::REQUEST_BODY)
        .union(Self::REQUEST_TRAILERS);

    /// All of a response.
    pub(crate) const OF_RESPONSE: Self = Self::RESPONSE_HEADERS
        .union(Self::RESPONSE_BODY)
        .union(Self::RESPONSE_TRAILERS);
}
