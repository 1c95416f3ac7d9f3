use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use weft_abi::section::{COMPONENT, MAX_SCHEMA, MODULE, with_config_schema};

use super::super::certificate::{self, Certificate};
use super::super::server;
use super::*;
use crate::filter::digest_of;
use crate::filter::testing::Site;

/// Nothing here takes longer unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);
const SCHEMA: &str = r#"{"type": "object", "required": ["rate"], "additionalProperties": false,
    "properties": {"rate": {"type": "integer"}, "deny": {"items": {"type": "integer"}}}}"#;

fn module() -> Vec<u8> {
    with_config_schema(COMPONENT.to_vec(), SCHEMA)
}

fn filter(url: &str, config: Value) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "WeftFilter",
        "metadata": {"name": "rates", "namespace": "shop"},
        "spec": {"selector": {}, "module": {"url": url}, "config": config},
    })
}

/// A place with a module in a file and in a ConfigMap, and files that are none.
fn site() -> (Site, Reviewer) {
    let site = Site::new();
    let map = json!({"binaryData": {"rates.wasm": STANDARD.encode(module())}});
    let schemas = Schemas::new(site.sources(&[("/api/v1/namespaces/shop/configmaps/own", map)]));
    let files = site.dir.path().join("files");
    let twice = with_config_schema(module(), SCHEMA);
    let long = "x".repeat(MAX_SCHEMA + 1);
    for (name, bytes) in [
        ("rates.wasm", module()),
        ("silent.wasm", COMPONENT.to_vec()),
        ("long.wasm", with_config_schema(COMPONENT.to_vec(), &long)),
        ("proxy.wasm", MODULE.to_vec()),
        // Nodes do not look at what a core module carries.
        ("core.wasm", with_config_schema(MODULE.to_vec(), SCHEMA)),
        ("text.wasm", b"text".to_vec()),
        ("twice.wasm", twice),
        (
            "odd.wasm",
            with_config_schema(COMPONENT.to_vec(), r#"{"type": 5}"#),
        ),
    ] {
        std::fs::write(files.join(name), bytes).expect("written");
    }
    (site, Reviewer::new(schemas))
}

fn deadline() -> Instant {
    Instant::now() + DEADLINE
}

async fn judged(reviewer: &Reviewer, object: &Value) -> Verdict {
    let body = request("CREATE", object.clone(), None).to_string();
    let verdict = reviewer.verdict(body.into(), deadline()).await;
    verdict.expect("an answer").2
}

#[tokio::test]
async fn a_configuration_is_held_against_what_its_module_says() {
    let (_site, reviewer) = site();
    for (url, place) in [
        ("file://rates.wasm", "file://rates.wasm"),
        (
            "configmap://own/rates.wasm",
            "configmap://shop/own/rates.wasm",
        ),
    ] {
        let good = filter(url, json!({"rate": 5}));
        assert_eq!(judged(&reviewer, &good).await, Verdict::Good, "{url}");
        for (config, said) in [
            (
                json!({"rate": "5"}),
                r#"spec.config.rate: it is not of type "integer""#,
            ),
            (json!({}), "spec.config.rate: it is missing"),
            (Value::Null, "spec.config.rate: it is missing"),
            (
                json!({"rate": 5, "x": 1}),
                "spec.config.x: there is no such field",
            ),
            (
                json!({"rate": 5, "deny": [1, "y"]}),
                r#"spec.config.deny[1]: it is not of type "integer""#,
            ),
        ] {
            let verdict = judged(&reviewer, &filter(url, config)).await;
            let said = format!("{said} (by the schema of {place} as it is now)");
            assert_eq!(verdict, Verdict::Refused(said), "{url}");
        }
    }
    for url in ["file://proxy.wasm", "file://core.wasm"] {
        let any = filter(url, json!({"any": "thing"}));
        assert_eq!(judged(&reviewer, &any).await, Verdict::Good, "{url}");
    }
}

#[tokio::test]
async fn what_nodes_refuse_is_refused() {
    let (_site, reviewer) = site();
    let mut early = filter("file://rates.wasm", json!({"rate": 5}));
    early["spec"]["phase"] = json!("beforePolicy");
    early["spec"]["limits"] = json!({"memory": "1Ti"});
    let Verdict::Refused(why) = judged(&reviewer, &early).await else {
        panic!("it is wrong");
    };
    assert!(
        why.contains("spec.phase: ") && why.contains("spec.limits.memory"),
        "{why}"
    );
    let Verdict::Refused(why) = judged(&reviewer, &filter("file://odd.wasm", json!({}))).await
    else {
        panic!("its schema is none");
    };
    assert!(why.starts_with("spec.module: the filter's schema"), "{why}");
}

#[tokio::test]
async fn what_cannot_be_checked_is_accepted_with_a_warning() {
    let (_site, reviewer) = site();
    for (url, said) in [
        ("file://silent.wasm", "or says why it cannot);"),
        ("file://text.wasm", "its module cannot be used now;"),
        (
            "file://twice.wasm",
            "cannot be read: it has more than one section weft:config-schema;",
        ),
        (
            "file://long.wasm",
            "cannot be read: its section weft:config-schema has more than 262144 bytes;",
        ),
        ("file://none.wasm", "its module cannot be used now;"),
        (
            "configmap://other/rates.wasm",
            "its module cannot be used now;",
        ),
    ] {
        let verdict = judged(&reviewer, &filter(url, json!({"rate": "5"}))).await;
        let Verdict::Unchecked(why) = verdict else {
            panic!("{url}: {verdict:?}");
        };
        assert!(
            why.contains(said) && why.contains("condition Configured"),
            "{why}"
        );
        // Kubernetes may cut what is longer.
        assert!(why.len() <= 256, "{why}");
    }
}

#[tokio::test]
async fn a_module_that_cannot_change_is_read_once() {
    let (site, reviewer) = site();
    let wrong = json!({"rate": "5"});
    let mut pinned = filter("file://rates.wasm", wrong.clone());
    pinned["spec"]["module"]["sha256"] = json!(digest_of(&module()).to_string());
    let unpinned = filter("file://rates.wasm", wrong);
    let refused = |verdict: &Verdict| matches!(verdict, Verdict::Refused(_));
    assert!(refused(&judged(&reviewer, &pinned).await));
    assert!(refused(&judged(&reviewer, &unpinned).await));
    std::fs::remove_file(site.dir.path().join("files/rates.wasm")).expect("removed");
    assert!(refused(&judged(&reviewer, &pinned).await));
    assert!(!refused(&judged(&reviewer, &unpinned).await));
}

fn request(operation: &str, object: Value, old: Option<Value>) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "weft.dev", "version": "v1alpha1", "kind": "WeftFilter"},
            "resource": {"group": "weft.dev", "version": "v1alpha1", "resource": "weftfilters"},
            "name": "rates", "namespace": "shop", "operation": operation,
            "userInfo": {"username": "admin"},
            "object": object, "oldObject": old, "dryRun": false,
        },
    })
}

async fn answered(reviewer: &Reviewer, review: Value) -> Value {
    let body = review.to_string().into();
    let answer = reviewer.answer(body, deadline()).await.expect("an answer");
    serde_json::from_slice(&answer).expect("JSON")
}

/// The module may be applied with it, and is not written.
#[tokio::test]
async fn in_a_dry_run_only_a_module_that_cannot_change_refuses() {
    let (_site, reviewer) = site();
    let wrong = json!({"rate": "5"});
    let digest = digest_of(&module()).to_string();
    for url in ["file://rates.wasm", "configmap://own/rates.wasm"] {
        let open = filter(url, wrong.clone());
        let mut pinned = open.clone();
        pinned["spec"]["module"]["sha256"] = json!(digest);
        let dry = |object: Value| {
            let mut review = request("CREATE", object, None);
            review["request"]["dryRun"] = json!(true);
            answered(&reviewer, review)
        };
        let response = &dry(open).await["response"];
        assert_eq!(response["allowed"], true, "{response}");
        let warning = response["warnings"][0].as_str().expect("a warning");
        assert!(warning.contains("as it is now"), "{warning}");
        assert!(warning.contains("spec.config.rate: it is not"), "{warning}");
        let response = &dry(pinned).await["response"];
        assert_eq!(response["allowed"], false, "{response}");
        assert_eq!(response.get("warnings"), None);
        assert_eq!(
            response["status"]["message"],
            r#"spec.config.rate: it is not of type "integer""#
        );
        // What is wrong by itself stays so.
        let response = &dry(filter("ftp://a", json!({}))).await["response"];
        assert_eq!(response["allowed"], false, "{response}");
    }
}

#[tokio::test]
async fn what_takes_a_while_is_done_in_turn() {
    let (_site, reviewer) = site();
    let taken = reviewer.reads.try_acquire_many(2).expect("both turns");
    let object = filter("file://rates.wasm", json!({"rate": 5}));
    let body = || request("CREATE", object.clone(), None).to_string();
    let late = reviewer.answer(body().into(), Instant::now()).await;
    assert!(matches!(late, Err(Unanswered::Late)));
    drop(taken);
    assert!(reviewer.answer(body().into(), deadline()).await.is_ok());
}

#[tokio::test]
async fn what_is_checked_keeps_nobody_from_an_answer() {
    let (_site, reviewer) = site();
    let taken = reviewer.checks.try_acquire_many(2).expect("both turns");
    let object = filter("file://rates.wasm", json!({"rate": 5}));
    let verdict = async |review: Value, within| {
        let deadline = Instant::now() + within;
        let verdict = reviewer.verdict(review.to_string().into(), deadline).await;
        verdict.expect("an answer").2
    };
    let same = request("UPDATE", object.clone(), Some(object.clone()));
    assert_eq!(verdict(same, DEADLINE).await, Verdict::Good);
    let created = request("CREATE", object, None);
    let Verdict::Unchecked(why) = verdict(created.clone(), Duration::from_secs(2)).await else {
        panic!("it cannot be checked");
    };
    assert!(why.contains("too many filters are applied"), "{why}");
    drop(taken);
    assert_eq!(verdict(created, DEADLINE).await, Verdict::Good);
}

#[tokio::test]
async fn an_object_that_came_to_be_wrong_can_still_be_written_as_it_is() {
    let (_site, reviewer) = site();
    let wrong = filter("file://rates.wasm", json!({"rate": "5"}));
    let answer = answered(&reviewer, request("CREATE", wrong.clone(), None)).await;
    let response = &answer["response"];
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 422);
    assert_eq!(response["status"]["reason"], "Invalid");
    assert_eq!(response["status"]["status"], "Failure");
    assert_eq!(response.get("warnings"), None);
    let said = response["status"]["message"].as_str().expect("a message");
    let schema = "(by the schema of file://rates.wasm as it is now)";
    let wanted = format!(r#"spec.config.rate: it is not of type "integer" {schema}"#);
    assert_eq!(said, wanted);

    let mut noted = wrong.clone();
    noted["metadata"]["annotations"] = json!({"seen": "yes"});
    let answer = answered(&reviewer, request("UPDATE", noted, Some(wrong.clone()))).await;
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    let other = filter("file://rates.wasm", json!({"rate": "6"}));
    let answer = answered(&reviewer, request("UPDATE", other, Some(wrong))).await;
    assert_eq!(answer["response"]["allowed"], false, "{answer}");
}

/// A server of reviews.
struct Served {
    _site: Site,
    at: SocketAddr,
    certificate: Arc<Certificate>,
    _sender: watch::Sender<Option<Arc<Certificate>>>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Served {
    async fn new() -> Self {
        let (site, reviewer) = site();
        let certificate = Arc::new(certificate::tests::made());
        let (sender, certificates) = watch::channel(Some(Arc::clone(&certificate)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let at = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let (stop, reviewer) = (stop.clone(), Arc::new(reviewer));
            async move { server::accept(&listener, &certificates, &reviewer, &stop).await }
        });
        Self {
            _site: site,
            at,
            certificate,
            _sender: sender,
            stop,
            serving,
        }
    }

    fn path(&self) -> String {
        format!("{}{}", server::PATH, self.certificate.token)
    }

    /// A connection that trusts the authority.
    async fn stream(&self) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        let authority = &self.certificate.authority;
        let authority = CertificateDer::from_pem_slice(authority).expect("PEM");
        roots.add(authority).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.at).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.expect("trusted")
    }

    async fn connected(&self) -> SendRequest<Full<Bytes>> {
        let stream = self.stream().await;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        sender
    }

    /// What is answered to a request.
    async fn sent(&self, method: &str, path: &str, body: String) -> (StatusCode, String) {
        asked(&mut self.connected().await, method, path, body).await
    }

    async fn stopped(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(DEADLINE, self.serving).await;
        ended.expect("in time").expect("it ends");
    }
}

async fn asked(
    connection: &mut SendRequest<Full<Bytes>>,
    method: &str,
    path: &str,
    body: String,
) -> (StatusCode, String) {
    let builder = Request::builder().method(method).uri(path);
    let builder = builder.header("host", "localhost");
    let request = builder.body(Full::from(body)).expect("a request");
    let answer = connection.send_request(request).await.expect("an answer");
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("a body");
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    (status, body)
}

fn wrong() -> String {
    let wrong = filter("file://rates.wasm", json!({"rate": "5"}));
    request("CREATE", wrong, None).to_string()
}

#[tokio::test]
async fn reviews_are_served_to_who_knows_the_token() {
    let server = Served::new().await;
    let path = server.path();
    let (status, body) = server.sent("POST", &path, wrong()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["response"]["allowed"], false);
    let (get, post) = ("GET", "POST");
    let other = format!("{}{}", server::PATH, "x".repeat(43));
    for (method, path, body, expected) in [
        (get, &*path, "", StatusCode::METHOD_NOT_ALLOWED),
        (post, &*path, "{}", StatusCode::BAD_REQUEST),
        (post, &*path, &" ".repeat(5 << 20), StatusCode::BAD_REQUEST),
        (post, "/", &wrong(), StatusCode::NOT_FOUND),
        (post, server::PATH, &wrong(), StatusCode::NOT_FOUND),
        (post, &other, &wrong(), StatusCode::NOT_FOUND),
        (get, &other, "", StatusCode::NOT_FOUND),
    ] {
        let (status, said) = server.sent(method, path, body.to_owned()).await;
        assert_eq!(status, expected, "{method} {path}: {said}");
    }
    server.stopped().await;
}

#[tokio::test]
async fn who_is_silent_keeps_nobody_out() {
    let server = Served::new().await;
    let path = server.path();
    let mut known = server.connected().await;
    assert_eq!(
        asked(&mut known, "POST", &path, wrong()).await.0,
        StatusCode::OK
    );
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(server.at).await.expect("connected"));
    }
    // The last one is closed at once, before those that were there.
    let [first, .., last] = &mut silent[..] else {
        panic!("there are more")
    };
    let (mut of_last, mut of_first) = ([0], [0]);
    let closed = tokio::time::timeout(DEADLINE, async {
        tokio::select! {
            biased;
            closed = last.read(&mut of_last) => closed,
            _ = first.read(&mut of_first) => panic!("the first one"),
        }
    });
    assert!(matches!(closed.await, Ok(Ok(0) | Err(_))));
    // Who has shown the token is not concerned.
    assert_eq!(
        asked(&mut known, "POST", &path, wrong()).await.0,
        StatusCode::OK
    );
    // The silent ones are closed a little later, and there is room again.
    for other in &mut silent {
        let closed = tokio::time::timeout(DEADLINE, other.read(&mut [0])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    }
    assert_eq!(server.sent("POST", &path, wrong()).await.0, StatusCode::OK);
    server.stopped().await;
}

#[tokio::test]
async fn what_was_asked_is_answered_before_it_ends() {
    let server = Served::new().await;
    let (path, body) = (server.path(), wrong());
    let mut stream = server.stream().await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut begun = [0; 25];
    stream.read_exact(&mut begun).await.expect("read");
    assert_eq!(&begun, b"HTTP/1.1 100 Continue\r\n\r\n");
    server.stop.cancel();
    stream.write_all(body.as_bytes()).await.expect("written");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let read = tokio::time::timeout(DEADLINE, read).await.expect("in time");
    assert!(
        read.is_ok() && answer.starts_with("HTTP/1.1 200 OK"),
        "{answer}"
    );
    server.stopped().await;
}
