//! What the executor takes over from a request that is over has nothing to do with it any more.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::task::{Poll, Waker};

use weft_sdk::prelude::*;
use weft_sdk::testing::{TestHost, TestRequest};

/// Keeps of a request what it had better let go.
#[derive(Default)]
struct Keeper {
    request: RefCell<Option<Request>>,
    waker: RefCell<Option<Waker>>,
    polls: Cell<u32>,
}

#[filter]
impl Filter for Keeper {
    type Config = NoConfig;

    fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> {
        Ok(Self::default())
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        match request.path().as_str() {
            "/keep" => {
                poll_fn(|cx| {
                    self.waker.replace(Some(cx.waker().clone()));
                    Poll::Ready(())
                })
                .await;
                request.keep("something");
                self.request.replace(Some(request));
            }
            "/wait" => {
                poll_fn(|_cx| {
                    self.polls.set(self.polls.get() + 1);
                    Poll::Pending::<()>
                })
                .await;
                pending::<()>().await;
            }
            "/wake" => {
                if let Some(waker) = self.waker.take() {
                    waker.wake();
                }
                let old = self.request.take();
                let mixed = old.is_some_and(|old| old.headers().contains("x-new"));
                let kept = request.kept::<&str>().is_some();
                request.headers().set("x-mixed", mixed.to_string())?;
                request.headers().set("x-kept", kept.to_string())?;
            }
            _ => request
                .headers()
                .set("x-polls", self.polls.get().to_string())?,
        }
        Ok(Flow::Continue)
    }
}

#[test]
fn the_next_request_is_another_one() {
    let host = TestHost::<Keeper>::new("{}").expect("it has no configuration");
    // Twice, so that what is taken over was taken over already.
    for _time in 0..2 {
        assert!(host.send(TestRequest::get("/keep")).request().passed());
    }
    let waiting = host.send(TestRequest::get("/wait"));
    assert!(waiting.request().held());
    let waking = host.send(TestRequest::get("/wake").header("x-new", "1"));
    assert_eq!(waking.request().header("x-mixed").as_deref(), Some("false"));
    assert_eq!(waking.request().header("x-kept").as_deref(), Some("false"));
    host.advance(Duration::from_millis(1));
    let counting = host.send(TestRequest::get("/count"));
    assert_eq!(counting.request().header("x-polls").as_deref(), Some("1"));
}
