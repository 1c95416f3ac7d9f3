//! Bodies on their way through the proxy.
//!
//! Frames pass untouched and only when the other side asks for them, so a slow
//! reader slows the writer down and memory stays constant.

mod client;
mod request;
mod response;

use http_body::Frame;

pub use self::client::ClientBody;
pub use self::request::RequestBody;
pub use self::response::ResponseBody;

use crate::http::trailers;
use crate::memory::Fields;

/// Trailers pass without what belongs into a head. Counts what is left of them.
fn clean<D>(frame: &mut Frame<D>) -> Option<Fields> {
    let trailers = frame.trailers_mut()?;
    trailers::sanitise(trailers);
    Some(Fields::of(trailers))
}
