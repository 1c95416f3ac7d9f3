use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// Nothing here takes longer unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);
/// Between two that are written here.
const PAUSE: Duration = Duration::from_millis(200);

fn names(name: &str) -> Vec<String> {
    vec![
        format!("{name}.b.svc"),
        format!("{name}.b.svc.cluster.local"),
    ]
}

fn new(name: &str, now: Timestamp) -> Secret {
    make(&names(name), now).expect("made")
}

fn refused(secret: &Secret, name: &str) -> String {
    let read = read(secret, &names(name), Timestamp::now());
    read.err().expect("it is none").to_string()
}

/// One for loopback.
pub(in super::super) fn made() -> Certificate {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let secret = make(&names, Timestamp::now()).expect("made");
    read(&secret, &names, Timestamp::now()).expect("it can be read")
}

#[test]
fn what_is_made_is_used_for_a_year() {
    let now = Timestamp::now();
    let secret = new("a", now);
    let read_at = |now| read(&secret, &names("a"), now);
    assert!(read_at(now).is_ok());
    assert!(read_at(now + USED - SignedDuration::from_hours(1)).is_ok());
    let error = read_at(now + USED).err().expect("it is old").to_string();
    assert!(error.contains("renewed after"), "{error}");
}

#[test]
fn what_is_no_certificate_is_said_to_be_none() {
    let secret = new("a", Timestamp::now());
    for (part, said) in [
        (AUTHORITY, "no ca.crt"),
        (CHAIN, "no tls.crt"),
        (KEY, "no tls.key"),
        (TOKEN, "no token"),
    ] {
        let mut without = secret.clone();
        without.data.as_mut().expect("data").remove(part);
        let error = refused(&without, "a");
        assert!(error.contains(said), "{error}");
    }
    let with = |part: &str, bytes: &[u8]| {
        let mut other = secret.clone();
        let data = other.data.as_mut().expect("data");
        data.insert(part.to_owned(), ByteString(bytes.to_vec()));
        refused(&other, "a")
    };
    let key = KeyPair::generate().expect("a key").serialize_pem();
    assert!(with(KEY, key.as_bytes()).contains("keys may not be consistent"));
    for token in ["short", &"a/".repeat(32)] {
        assert_eq!(with(TOKEN, token.as_bytes()), "its token is none");
    }
    assert!(with(AUTHORITY, b"").starts_with("ca.crt: "));
    let mut undated = secret;
    undated.metadata.annotations = None;
    assert!(refused(&undated, "a").contains(RENEW));
}

#[test]
fn what_does_not_fit_is_none() {
    let now = Timestamp::now();
    let secret = new("a", now);
    let other_name = refused(&secret, "c");
    assert!(other_name.contains("not valid for name"), "{other_name}");

    let mut mixed = secret;
    let other = new("a", now).data.expect("data");
    let data = mixed.data.as_mut().expect("data");
    data.insert(AUTHORITY.to_owned(), other[AUTHORITY].clone());
    assert!(refused(&mixed, "a").contains("invalid peer certificate"));

    // The annotation says nothing about these.
    let renew = (now + USED).to_string();
    for (made, said) in [
        (now - VALID - SKEW, "expired"),
        (now + SKEW + SKEW + SKEW, "not valid yet"),
    ] {
        let mut secret = new("a", made);
        let annotations = secret.metadata.annotations.as_mut().expect("annotations");
        annotations.insert(RENEW.to_owned(), renew.clone());
        let error = refused(&secret, "a");
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn the_token_alone_is_the_token() {
    let (one, other) = (made(), made());
    assert!(one.is_token(&one.token.clone()));
    assert!(!one.is_token(&other.token));
    assert!(!one.is_token("") && !one.is_token(&one.token[1..]));
}

/// An API with one Secret in it, at most.
#[derive(Clone)]
struct SecretApi {
    held: watch::Sender<Option<Value>>,
    /// Put there by another operator just before ours is created.
    theirs: Arc<Mutex<Option<Value>>>,
    /// What was written, or was to be.
    asked: Arc<Mutex<Vec<(Method, Value)>>>,
}

type Stream = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

impl SecretApi {
    fn with(held: Option<Value>) -> Self {
        Self {
            held: watch::Sender::new(held),
            theirs: Arc::default(),
            asked: Arc::default(),
        }
    }

    /// Runs what is tested.
    fn kept(&self, stop: &CancellationToken) -> watch::Receiver<Option<Arc<Certificate>>> {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                if parts.uri.query().unwrap_or_default().contains("watch=") {
                    return Ok::<_, Infallible>(Response::new(api.changes()));
                }
                let body = body.collect_bytes().await.unwrap_or_default();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let (code, answer) = api.answer(parts.method, body);
                let mut response = Response::new(body_of([answer]));
                *response.status_mut() = code;
                Ok(response)
            }
        });
        let secrets = Api::namespaced(Client::new(service, "b"), "b");
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(keep(secrets, names("a"), PAUSE, sender, stop.clone()));
        receiver
    }

    fn changes(&self) -> Stream {
        let mut held = self.held.subscribe();
        held.mark_changed();
        let events = stream::unfold(held, |mut held| async move {
            loop {
                held.changed().await.ok()?;
                let now = held.borrow_and_update().clone();
                if let Some(object) = now {
                    let event = json!({"type": "MODIFIED", "object": object});
                    let line = Bytes::from(format!("{event}\n"));
                    return Some((Ok(Frame::data(line)), held));
                }
            }
        });
        StreamBody::new(events.boxed())
    }

    /// As an API server: a name is created once, and only the version that was read is
    /// replaced.
    fn answer(&self, method: Method, mut body: Value) -> (StatusCode, Value) {
        let held = || self.held.borrow().clone();
        if method == Method::GET {
            let items: Vec<_> = held().into_iter().collect();
            let list = json!({"apiVersion": "v1", "kind": "SecretList",
                "metadata": {"resourceVersion": "1"}, "items": items});
            return (StatusCode::OK, list);
        }
        self.asked
            .lock()
            .unwrap()
            .push((method.clone(), body.clone()));
        if let Some(theirs) = self.theirs.lock().unwrap().take() {
            self.put(theirs);
        }
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        let fits = match held() {
            None => method == Method::POST,
            Some(held) => method == Method::PUT && version(&held) == version(&body),
        };
        if !fits {
            let status = json!({"kind": "Status", "code": 409, "reason": "Conflict"});
            return (StatusCode::CONFLICT, status);
        }
        body["metadata"]["resourceVersion"] = "8".into();
        self.put(body.clone());
        (StatusCode::OK, body)
    }

    fn put(&self, object: Value) {
        self.held.send_replace(Some(object));
    }

    fn written(&self) -> Vec<(Method, Value)> {
        self.asked.lock().unwrap().clone()
    }
}

fn body_of(values: [Value; 1]) -> Stream {
    let frames = values.map(|value| Ok(Frame::data(Bytes::from(value.to_string()))));
    StreamBody::new(stream::iter(frames).boxed())
}

fn object(secret: &Secret, version: &str) -> Value {
    let mut object = serde_json::to_value(secret).expect("JSON");
    object["metadata"]["resourceVersion"] = version.into();
    object
}

fn authority(object: &Value) -> Vec<u8> {
    let secret: Secret = serde_json::from_value(object.clone()).expect("a Secret");
    secret.data.expect("data")[AUTHORITY].0.clone()
}

/// The certificate that is handed on, once it is another than this.
async fn next(
    certificates: &mut watch::Receiver<Option<Arc<Certificate>>>,
    before: Option<&Certificate>,
) -> Arc<Certificate> {
    let before = before.map(|one| one.digest);
    let other =
        |now: &Option<Arc<Certificate>>| now.as_ref().is_some_and(|now| Some(now.digest) != before);
    let next = tokio::time::timeout(DEADLINE, certificates.wait_for(other)).await;
    let next = next.expect("in time").expect("it goes on");
    next.clone().expect("one")
}

#[tokio::test]
async fn where_there_is_none_one_is_made() {
    let api = SecretApi::with(None);
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let certificate = next(&mut api.kept(&stop), None).await;
    let [(Method::POST, made)] = &api.written()[..] else {
        panic!("one is created")
    };
    assert_eq!(made["type"], "kubernetes.io/tls");
    assert_eq!(made["metadata"]["name"], "weft-operator-tls");
    assert_eq!(authority(made), certificate.authority);
}

#[tokio::test]
async fn who_was_faster_made_the_one_that_all_have() {
    let api = SecretApi::with(None);
    let theirs = object(&new("a", Timestamp::now()), "5");
    *api.theirs.lock().unwrap() = Some(theirs.clone());
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let certificate = next(&mut api.kept(&stop), None).await;
    assert_eq!(certificate.authority, authority(&theirs));
    assert_eq!(api.written().len(), 1);
}

#[tokio::test]
async fn an_old_one_is_replaced_where_it_is() {
    let mut old = object(&new("a", Timestamp::now() - USED), "7");
    old["type"] = "Opaque".into();
    let api = SecretApi::with(Some(old.clone()));
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let certificate = next(&mut api.kept(&stop), None).await;
    assert_ne!(certificate.authority, authority(&old));
    let [(Method::PUT, replaced)] = &api.written()[..] else {
        panic!("it is replaced")
    };
    assert_eq!(replaced["metadata"]["resourceVersion"], "7");
    assert_eq!(replaced["type"], "Opaque");
}

#[tokio::test]
async fn two_who_write_the_same_secret_do_so_now_and_then() {
    let api = SecretApi::with(None);
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let mut certificates = api.kept(&stop);
    let began = Instant::now();
    let first = next(&mut certificates, None).await;
    api.put(object(&new("c", Timestamp::now()), "9"));
    let second = next(&mut certificates, Some(&first)).await;
    assert_ne!(second.authority, first.authority);
    assert!(began.elapsed() >= PAUSE, "{:?}", began.elapsed());
    assert_eq!(api.written().len(), 2);
}

#[test]
fn only_who_finds_another_one_says_that_somebody_writes() {
    let unfit = CertificateError::Token;
    let said = too_soon(Some(&unfit), AGAIN);
    assert_eq!(
        said,
        "somebody else writes the Secret weft-operator-tls: its token is none"
    );
    let said = too_soon(None, AGAIN);
    assert!(said.contains("was deleted within 60s"), "{said}");
    assert!(!said.contains("somebody"), "{said}");
}
