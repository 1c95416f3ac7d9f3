//! Timers, tasks that wait for each other, and what is dropped when.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use weft_sdk::prelude::*;
use weft_sdk::testing::{Answer, TestHost, TestRequest, TestResponse};

/// One request opens the gate for all that wait at it.
#[derive(Default)]
struct Gate {
    open: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    minutes: Cell<u32>,
    ended: Rc<Cell<u32>>,
}

/// Counts when it is dropped.
struct Guard(Rc<Cell<u32>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[filter]
impl Filter for Gate {
    type Config = NoConfig;

    fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> {
        Ok(Self::default())
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let _guard = Guard(self.ended.clone());
        match request.path().as_str() {
            "/wait" => {
                poll_fn(|cx| {
                    if self.open.get() {
                        return Poll::Ready(());
                    }
                    self.waiting.borrow_mut().push(cx.waker().clone());
                    Poll::Pending
                })
                .await;
            }
            "/open" => {
                request.fetch("key:80").get("/").await?;
                self.open.set(true);
                self.waiting.take().into_iter().for_each(Waker::wake);
            }
            "/yield" => {
                let mut rounds = 0;
                poll_fn(|cx| {
                    rounds += 1;
                    cx.waker().wake_by_ref();
                    if rounds == 200 {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
            }
            "/sleep" => request.sleep(Duration::from_millis(10)).await?,
            "/first" => {
                let first = request
                    .timeout(
                        Duration::from_millis(10),
                        request.sleep(Duration::from_secs(1)),
                    )
                    .await;
                request
                    .headers()
                    .set("x-late", first.is_err().to_string())?;
            }
            "/count" => {
                request
                    .headers()
                    .set("x-minutes", self.minutes.get().to_string())?;
                request
                    .headers()
                    .set("x-ended", self.ended.get().to_string())?;
            }
            _ => {}
        }
        request.keep(request.path());
        Ok(Flow::Continue)
    }

    async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {
        if let Some(path) = response.kept::<String>() {
            response.headers().set("x-path", path.as_str())?;
        }
        assert!(response.kept::<u64>().is_none());
        response.sleep(Duration::from_millis(1)).await?;
        Ok(Flow::Continue)
    }

    async fn background(self: Rc<Self>, plugin: Plugin) -> Result<()> {
        loop {
            plugin.sleep(Duration::from_secs(60)).await?;
            self.minutes.set(self.minutes.get() + 1);
        }
    }
}

fn host() -> TestHost<Gate> {
    TestHost::new("{}").expect("it has no configuration")
}

#[test]
fn one_request_lets_others_go_on() {
    let host = host();
    host.answer("key:80", |_| {
        Answer::ok("").after(Duration::from_millis(50))
    });
    let waiting: Vec<_> = (0..3)
        .map(|_| host.send(TestRequest::get("/wait")))
        .collect();
    let opening = host.send(TestRequest::get("/open"));
    assert!(waiting.iter().all(|exchange| exchange.request().held()));
    host.advance(Duration::from_millis(50));
    assert!(opening.request().passed());
    assert!(waiting.iter().all(|exchange| exchange.request().passed()));
}

#[test]
fn a_task_that_wakes_itself_goes_on() {
    let exchange = host().send(TestRequest::get("/yield"));
    assert!(exchange.request().passed());
}

#[test]
fn time_passes_as_the_test_says() {
    let host = host();
    let exchange = host.send(TestRequest::get("/sleep"));
    host.advance(Duration::from_millis(9));
    assert!(exchange.request().held());
    host.advance(Duration::from_millis(1));
    assert!(exchange.request().passed());
}

#[test]
fn the_faster_of_two_ends_the_wait() {
    let host = host();
    let exchange = host.send(TestRequest::get("/first"));
    host.advance(Duration::from_millis(10));
    assert_eq!(exchange.request().header("x-late").as_deref(), Some("true"));
    host.advance(Duration::from_secs(2));
}

#[test]
fn what_is_kept_is_there_for_the_response() {
    let host = host();
    let exchange = host.send(TestRequest::get("/kept"));
    exchange.respond(TestResponse::new(200));
    assert!(exchange.response().held());
    assert_eq!(
        exchange.response().header("x-path").as_deref(),
        Some("/kept")
    );
    host.advance(Duration::from_millis(1));
    assert!(exchange.response().passed());
}

#[test]
fn the_background_task_has_its_own_time() {
    let host = host();
    host.advance(Duration::from_secs(150));
    let exchange = host.send(TestRequest::get("/count"));
    assert_eq!(exchange.request().header("x-minutes").as_deref(), Some("2"));
}

#[test]
fn an_exchange_that_ends_drops_its_task() {
    let host = host();
    let waiting = host.send(TestRequest::get("/wait"));
    assert!(waiting.request().held());
    drop(waiting);
    let exchange = host.send(TestRequest::get("/count"));
    assert_eq!(exchange.request().header("x-ended").as_deref(), Some("1"));
}
