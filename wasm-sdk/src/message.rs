//! A request and a response as a filter sees them.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use crate::body::Reader;
use crate::runtime::{Exchange, Side};
use crate::sys::types::Fields;
use crate::sys::{host, types};
use crate::time::{GivenUp, Sleep};
use crate::{Attributes, Body, Fetch, Headers, Log, Refused, Span, time};

/// A request on its way.
///
/// ```
/// use weft_sdk::prelude::*;
/// async fn handle(request: &Request) -> Result<Flow> {
///     if request.path().starts_with("/admin") && request.attributes().source.namespace != "ops" {
///         return Ok(Reply::new(403).reason("admin from outside of ops").into());
///     }
///     request.headers().set("x-checked", "1")?;
///     Ok(Flow::Continue)
/// }
/// ```
pub struct Request(Handle);

/// A response on its way back.
///
/// ```
/// use weft_sdk::prelude::*;
/// async fn handle(response: &Response) -> Result<Flow> {
///     if response.status() == 500 {
///         response.set_status(503)?;
///     }
///     Ok(Flow::Continue)
/// }
/// ```
pub struct Response(Handle);

struct Handle {
    exchange: Rc<Exchange>,
    side: Side,
    attributes: RefCell<Option<Rc<Attributes>>>,
}

impl Handle {
    fn attributes(&self) -> Rc<Attributes> {
        let mut known = self.attributes.borrow_mut();
        known
            .get_or_insert_with(|| Rc::new(host::get_attributes(self.exchange.ctx())))
            .clone()
    }
}

/// What requests and responses have in common.
macro_rules! common {
    ($type:ident, $headers:ident, $trailers:ident) => {
        impl $type {
            pub(crate) fn new(exchange: Rc<Exchange>) -> Self {
                Self(Handle {
                    exchange,
                    side: Side::$type,
                    attributes: RefCell::new(None),
                })
            }

            fn ctx(&self) -> u64 {
                self.0.exchange.ctx()
            }

            /// Its headers. They can be changed until they are sent on.
            ///
            /// ```
            #[doc = concat!("# fn f(message: &weft_sdk::", stringify!($type), ") -> bool {")]
            /// message.headers().contains("x-trace-me")
            /// # }
            /// ```
            #[must_use]
            pub fn headers(&self) -> Headers {
                Headers::new(self.ctx(), Fields::$headers)
            }

            /// Its body, to be read part by part. While it is read the message is held, up to the
            /// filter's limits; [`Body::streaming`] lets it go on as it is read.
            ///
            /// ```
            #[doc = concat!("# async fn f(message: &weft_sdk::", stringify!($type), ") -> usize {")]
            /// let mut body = message.body();
            /// let mut size = 0;
            /// while let Some(part) = body.next().await {
            ///     size += part.len();
            /// }
            /// # size
            /// # }
            /// ```
            #[must_use]
            pub fn body(&self) -> Body {
                Body::new(self.0.exchange.clone(), self.0.side)
            }

            /// Its trailers, once the body is over; none where it has none. What is left of the
            /// body goes by unread.
            ///
            /// ```
            #[doc = concat!("# async fn f(message: &weft_sdk::", stringify!($type), ") -> bool {")]
            /// let trailers = message.trailers().await;
            /// trailers.is_some_and(|trailers| trailers.contains("grpc-status"))
            /// # }
            /// ```
            pub async fn trailers(&self) -> Option<Headers> {
                Reader::new(self.0.exchange.clone(), self.0.side)
                    .skip()
                    .await
                    .then(|| Headers::new(self.ctx(), Fields::$trailers))
            }

            /// What is known of the exchange: who asks whom for what, and what was decided.
            ///
            /// ```
            #[doc = concat!("# fn f(message: &weft_sdk::", stringify!($type), ") -> String {")]
            /// message.attributes().request_id.clone()
            /// # }
            /// ```
            #[must_use]
            pub fn attributes(&self) -> Rc<Attributes> {
                self.0.attributes()
            }

            /// A request of the filter's own, to a Service of the mesh: `name.namespace:port`. The
            /// egress policy of the pod that the filter works for has to let it through.
            ///
            /// ```
            /// # use weft_sdk::Result;
            #[doc = concat!("# async fn f(message: &weft_sdk::", stringify!($type), ") -> Result<bool> {")]
            /// let answer = message.fetch("authz.default:80").get("/check").await?;
            /// # Ok(
            /// answer.status == 200
            /// # )
            /// # }
            /// ```
            pub fn fetch(&self, service: impl Into<String>) -> Fetch {
                Fetch::new(self.0.exchange.clone(), service.into())
            }

            /// The request's span.
            ///
            /// ```
            #[doc = concat!("# fn f(message: &weft_sdk::", stringify!($type), ") {")]
            /// message.span().set("app.tenant", "blue");
            /// # }
            /// ```
            #[must_use]
            pub fn span(&self) -> Span {
                Span::new(self.ctx())
            }

            /// The log; its lines carry the request's number.
            ///
            /// ```
            #[doc = concat!("# fn f(message: &weft_sdk::", stringify!($type), ") {")]
            /// message.log().info("let through", &[("attempt", &2)]);
            /// # }
            /// ```
            #[must_use]
            pub fn log(&self) -> Log {
                Log::new(self.ctx())
            }

            /// Waits. An error where too many timers are set already: see
            /// [`TooManyTimers`](crate::time::TooManyTimers).
            ///
            /// ```
            /// # use std::time::Duration;
            #[doc = concat!("# async fn f(message: &weft_sdk::", stringify!($type), ") -> weft_sdk::Result<()> {")]
            /// message.sleep(Duration::from_millis(20)).await?;
            /// # Ok(())
            /// # }
            /// ```
            pub fn sleep(&self, duration: Duration) -> Sleep {
                Sleep::new(self.0.exchange.clone(), duration)
            }

            /// Gives up on something after a while.
            ///
            /// # Errors
            /// Where it did not end in time, or that cannot be watched.
            ///
            /// ```
            /// # use std::time::Duration;
            #[doc = concat!("# async fn f(message: &weft_sdk::", stringify!($type), ") -> bool {")]
            /// let first = message.timeout(Duration::from_secs(1), message.body().next()).await;
            /// # first.is_ok()
            /// # }
            /// ```
            pub async fn timeout<T>(
                &self,
                limit: Duration,
                what: impl Future<Output = T>,
            ) -> Result<T, GivenUp> {
                time::timeout(self.sleep(limit), what).await
            }

            /// Keeps a value for the rest of the exchange, one of each type.
            ///
            /// ```
            /// # struct Started(std::time::Duration);
            #[doc = concat!("# fn f(message: &weft_sdk::", stringify!($type), ") {")]
            /// message.keep(Started(weft_sdk::time::monotonic()));
            /// # }
            /// ```
            pub fn keep<T: Any>(&self, value: T) {
                self.0.exchange.keep(Rc::new(value));
            }

            /// The value of this type that was kept.
            ///
            /// ```
            /// # struct Started(std::time::Duration);
            #[doc = concat!("# fn f(message: &weft_sdk::", stringify!($type), ") -> Option<std::time::Duration> {")]
            /// let started = message.kept::<Started>()?;
            /// Some(weft_sdk::time::monotonic() - started.0)
            /// # }
            /// ```
            #[must_use]
            pub fn kept<T: Any>(&self) -> Option<Rc<T>> {
                self.0.exchange.kept::<T>()
            }
        }
    };
}

common!(Request, RequestHeaders, RequestTrailers);
common!(Response, ResponseHeaders, ResponseTrailers);

impl Request {
    /// Its method.
    ///
    /// ```
    /// # fn f(request: &weft_sdk::Request) -> bool {
    /// request.method() == "GET"
    /// # }
    /// ```
    #[must_use]
    pub fn method(&self) -> String {
        self.attributes().method.clone()
    }

    /// Path and query, normalised.
    ///
    /// ```
    /// # fn f(request: &weft_sdk::Request) -> bool {
    /// request.path().starts_with("/api/")
    /// # }
    /// ```
    #[must_use]
    pub fn path(&self) -> String {
        self.attributes().path.clone()
    }

    /// Its host.
    ///
    /// ```
    /// # fn f(request: &weft_sdk::Request) -> bool {
    /// request.authority() == "shop.example"
    /// # }
    /// ```
    #[must_use]
    pub fn authority(&self) -> String {
        self.attributes().authority.clone()
    }

    /// Changes path and query. Policy judges what results.
    ///
    /// # Errors
    /// Where it is not well-formed, or too late.
    ///
    /// ```
    /// # fn f(request: &weft_sdk::Request) -> weft_sdk::Result<()> {
    /// request.set_path("/v2/items?all=1")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_path(&self, path: &str) -> Result<(), Refused> {
        self.set_target("path", path)
    }

    /// Changes the host. Policy judges what results.
    ///
    /// # Errors
    /// Where it is not well-formed, or too late.
    ///
    /// ```
    /// # fn f(request: &weft_sdk::Request) -> weft_sdk::Result<()> {
    /// request.set_authority("canary.shop")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_authority(&self, authority: &str) -> Result<(), Refused> {
        self.set_target("authority", authority)
    }

    /// Changes the method. Policy judges what results.
    ///
    /// # Errors
    /// Where it is not well-formed, or too late.
    ///
    /// ```
    /// # fn f(request: &weft_sdk::Request) -> weft_sdk::Result<()> {
    /// request.set_method("POST")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_method(&self, method: &str) -> Result<(), Refused> {
        self.set_target("method", method)
    }

    fn set_target(&self, part: &str, value: &str) -> Result<(), Refused> {
        self.0.attributes.replace(None);
        if host::set_target(self.ctx(), part, value) {
            return Ok(());
        }
        Err(Refused {
            what: part.to_owned(),
        })
    }
}

impl Response {
    /// Its status.
    ///
    /// ```
    /// # fn f(response: &weft_sdk::Response) -> bool {
    /// response.status() >= 500
    /// # }
    /// ```
    #[must_use]
    pub fn status(&self) -> u16 {
        host::get_status(self.ctx()).unwrap_or_default()
    }

    /// Changes its status.
    ///
    /// # Errors
    /// Where it is none, or too late.
    ///
    /// ```
    /// # fn f(response: &weft_sdk::Response) -> weft_sdk::Result<()> {
    /// response.set_status(404)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_status(&self, status: u16) -> Result<(), Refused> {
        if host::set_status(self.ctx(), status) {
            return Ok(());
        }
        Err(Refused {
            what: "status".to_owned(),
        })
    }

    /// The headers of the request that it answers, as they were sent on.
    ///
    /// ```
    /// # fn f(response: &weft_sdk::Response) -> bool {
    /// response.request_headers().contains("origin")
    /// # }
    /// ```
    #[must_use]
    pub fn request_headers(&self) -> Headers {
        Headers::new(self.ctx(), Fields::RequestHeaders)
    }
}

impl types::Peer {
    /// The value of a label.
    ///
    /// ```
    /// # fn f(request: &weft_sdk::Request) -> bool {
    /// request.attributes().source.label("app") == Some("frontend")
    /// # }
    /// ```
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|label| label.key == key)
            .map(|label| label.value.as_str())
    }
}
