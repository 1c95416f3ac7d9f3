use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;

/// Nothing here takes longer unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);

/// An API with one lease in it, at most.
#[derive(Clone, Default)]
struct LeaseApi {
    lease: Arc<Mutex<Option<Value>>>,
}

impl LeaseApi {
    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await;
                let body = serde_json::from_slice(&body.unwrap_or_default());
                let (code, answer) = api.answer(&method, body.unwrap_or_default());
                let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
                *response.status_mut() = code;
                Ok::<_, Infallible>(response)
            }
        });
        Client::new(service, "default")
    }

    /// As an API server: a name is created once, and only the version that was
    /// read is replaced.
    fn answer(&self, method: &Method, mut body: Value) -> (StatusCode, Value) {
        let mut held = self.lease.lock().unwrap();
        let refused = |code: StatusCode| {
            let reason = match code {
                StatusCode::NOT_FOUND => "NotFound",
                _ => "AlreadyExists",
            };
            let status = json!({"kind": "Status", "code": code.as_u16(), "reason": reason});
            (code, status)
        };
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        let next = match (method, &*held) {
            (&Method::GET, None) => return refused(StatusCode::NOT_FOUND),
            (&Method::GET, Some(lease)) => return (StatusCode::OK, lease.clone()),
            (&Method::POST, Some(_)) => return refused(StatusCode::CONFLICT),
            (&Method::POST, None) => 1,
            (_, Some(lease)) if version(lease) == version(&body) => {
                let old = version(lease).as_str().unwrap().parse::<u64>().unwrap();
                old + 1
            }
            _ => return refused(StatusCode::CONFLICT),
        };
        body["metadata"]["resourceVersion"] = next.to_string().into();
        *held = Some(body.clone());
        (StatusCode::OK, body)
    }

    fn candidate(&self, name: &str) -> Candidate {
        let terms = Terms {
            duration: Duration::from_secs(1),
            give_up: Duration::from_millis(600),
            interval: Duration::from_millis(20),
        };
        Candidate::new(self.client(), "kube-system", name.into(), terms)
    }

    fn spec(&self) -> Value {
        let lease = self.lease.lock().unwrap();
        lease.as_ref().map(|lease| lease["spec"].clone()).unwrap()
    }
}

/// Waits for the lease beside the test.
fn standing_by(mut candidate: Candidate) -> JoinHandle<Candidate> {
    tokio::spawn(async move {
        candidate.take().await;
        candidate
    })
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("in time")
}

#[tokio::test]
async fn one_works_and_the_next_takes_over_what_is_given_back() {
    let api = LeaseApi::default();
    let mut first = api.candidate("first");
    within(first.take()).await;
    let mut second = api.candidate("second");
    assert!(!second.attempt().await.unwrap());
    let stop = CancellationToken::new();
    let working = tokio::spawn(first.keep(stop.clone()));
    let second = standing_by(second);
    stop.cancel();
    within(working).await.unwrap();
    within(second).await.unwrap();
    assert_eq!(api.spec()["holderIdentity"], "second");
    assert_eq!(api.spec()["leaseTransitions"], 1);
}

#[tokio::test]
async fn a_lease_that_is_renewed_is_left_alone_and_a_dead_holders_is_taken() {
    let api = LeaseApi::default();
    let mut first = api.candidate("first");
    within(first.take()).await;
    let mut second = api.candidate("second");
    let began = Instant::now();
    // Longer than it holds, but renewed all the time.
    let mut rounds = tokio::time::interval(Duration::from_millis(5));
    while began.elapsed() < Duration::from_millis(1_300) {
        rounds.tick().await;
        assert!(first.attempt().await.unwrap());
        assert!(!second.attempt().await.unwrap());
    }
    let died = Instant::now();
    within(second.take()).await;
    assert!(died.elapsed() > Duration::from_millis(900), "too early");
    assert!(!first.attempt().await.unwrap(), "lost");
}

#[tokio::test]
async fn who_cannot_renew_gives_up_before_the_lease_ends() {
    let api = LeaseApi::default();
    let mut first = api.candidate("first");
    within(first.take()).await;
    *api.lease.lock().unwrap() = Some(json!("no lease at all"));
    let began = Instant::now();
    within(Box::pin(first.keep(CancellationToken::new()))).await;
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn of_two_at_once_one_gets_it() {
    let api = LeaseApi::default();
    let (mut first, mut second) = (api.candidate("first"), api.candidate("second"));
    let (one, other) = tokio::join!(first.attempt(), second.attempt());
    assert_ne!(one.unwrap(), other.unwrap());
}
