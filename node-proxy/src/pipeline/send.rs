//! An allowed request goes to its upstream.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use hyper::upgrade::OnUpgrade;

use super::forward;
use super::record::Recorder;
use crate::accept::connection::Connection;
use crate::failure::Failure;
use crate::http::body::{RequestBody, ResponseBody};
use crate::upstream::UpstreamBody;
use crate::upstream::target::Target;

/// Forwards an allowed request and passes the response on.
///
/// # Errors
/// Why there is no response to pass on, and the record that says so.
pub async fn proceed(
    connection: &Rc<Connection>,
    target: &Target,
    recorder: Recorder,
    body: RequestBody,
    upgraded: Option<OnUpgrade>,
    server: Option<&http::HeaderValue>,
) -> Result<Response<ResponseBody>, (Failure, Recorder)> {
    let exchange = Arc::clone(recorder.exchange());
    let upstream = connection.worker.upstream();
    let sending = pin!(upstream.send(target, &exchange.head, body, connection.account()));
    match until_cut(&recorder, sending).await {
        Ok(response) => forward::response(connection, response, recorder, upgraded, server),
        Err(failure) => Err((failure, recorder)),
    }
}

/// Polls the upstream, unless the request has to end before it answers.
async fn until_cut(
    recorder: &Recorder,
    mut sending: Pin<&mut impl Future<Output = Result<Response<UpstreamBody>, Failure>>>,
) -> Result<Response<UpstreamBody>, Failure> {
    poll_fn(|context| match recorder.poll_cut(context) {
        Some(reason) => Err(reason).into(),
        None => sending.as_mut().poll(context),
    })
    .await
}
