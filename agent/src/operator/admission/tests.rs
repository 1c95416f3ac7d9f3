use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionReview};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_abi::section::{COMPONENT, MODULE, with_config_schema};
use weft_core::filter::FilterKind;

use super::review::{self, Verdict};
use super::*;
use crate::filter::digest_of;
use crate::filter::testing::Site;

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
fn site() -> (Site, Schemas) {
    let site = Site::new();
    let map = json!({"binaryData": {"rates.wasm": STANDARD.encode(module())}});
    let schemas = Schemas::new(site.sources(&[("/api/v1/namespaces/shop/configmaps/own", map)]));
    let files = site.dir.path().join("files");
    let twice = with_config_schema(module(), SCHEMA);
    for (name, bytes) in [
        ("rates.wasm", module()),
        ("silent.wasm", COMPONENT.to_vec()),
        ("proxy.wasm", MODULE.to_vec()),
        ("text.wasm", b"text".to_vec()),
        ("twice.wasm", twice),
        (
            "odd.wasm",
            with_config_schema(COMPONENT.to_vec(), r#"{"type": 5}"#),
        ),
    ] {
        std::fs::write(files.join(name), bytes).expect("written");
    }
    (site, schemas)
}

async fn judged(schemas: &Schemas, object: &Value) -> Verdict {
    review::judge(schemas, FilterKind::WeftFilter, object).await
}

#[tokio::test]
async fn a_configuration_is_held_against_what_its_module_says() {
    let (_site, schemas) = site();
    for url in ["file://rates.wasm", "configmap://own/rates.wasm"] {
        let good = filter(url, json!({"rate": 5}));
        assert_eq!(judged(&schemas, &good).await, Verdict::Good, "{url}");
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
            let verdict = judged(&schemas, &filter(url, config)).await;
            assert_eq!(verdict, Verdict::Refused(said.to_owned()), "{url}");
        }
    }
    let any = filter("file://proxy.wasm", json!({"any": "thing"}));
    assert_eq!(judged(&schemas, &any).await, Verdict::Good);
}

#[tokio::test]
async fn what_nodes_refuse_is_refused() {
    let (_site, schemas) = site();
    let mut early = filter("file://rates.wasm", json!({"rate": 5}));
    early["spec"]["phase"] = json!("beforePolicy");
    early["spec"]["limits"] = json!({"memory": "1Ti"});
    let Verdict::Refused(why) = judged(&schemas, &early).await else {
        panic!("it is wrong");
    };
    assert!(
        why.contains("spec.phase: ") && why.contains("spec.limits.memory"),
        "{why}"
    );
    let Verdict::Refused(why) = judged(&schemas, &filter("file://odd.wasm", json!({}))).await
    else {
        panic!("its schema is none");
    };
    assert!(why.starts_with("spec.module: the filter's schema"), "{why}");
}

#[tokio::test]
async fn what_cannot_be_checked_is_accepted_with_a_warning() {
    let (_site, schemas) = site();
    for (url, said) in [
        ("file://silent.wasm", "does not carry its schema"),
        (
            "file://text.wasm",
            "neither a WebAssembly module nor a component",
        ),
        ("file://twice.wasm", "more than one section"),
        ("file://none.wasm", "cannot be read now;"),
        ("configmap://other/rates.wasm", "cannot be read now;"),
    ] {
        let verdict = judged(&schemas, &filter(url, json!({"rate": "5"}))).await;
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
    let (site, schemas) = site();
    let wrong = json!({"rate": "5"});
    let mut pinned = filter("file://rates.wasm", wrong.clone());
    pinned["spec"]["module"]["sha256"] = json!(digest_of(&module()).to_string());
    let unpinned = filter("file://rates.wasm", wrong);
    let refused = |verdict: &Verdict| matches!(verdict, Verdict::Refused(_));
    assert!(refused(&judged(&schemas, &pinned).await));
    assert!(refused(&judged(&schemas, &unpinned).await));
    std::fs::remove_file(site.dir.path().join("files/rates.wasm")).expect("removed");
    assert!(refused(&judged(&schemas, &pinned).await));
    assert!(!refused(&judged(&schemas, &unpinned).await));
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

async fn answered(schemas: &Schemas, review: Value) -> Value {
    let review: AdmissionReview<DynamicObject> = serde_json::from_value(review).expect("a review");
    let request: AdmissionRequest<DynamicObject> = review.try_into().expect("with a request");
    let response = review::answer(schemas, &request).await;
    serde_json::to_value(response.into_review()).expect("JSON")
}

#[tokio::test]
async fn an_object_that_came_to_be_wrong_can_still_be_written_as_it_is() {
    let (_site, schemas) = site();
    let wrong = filter("file://rates.wasm", json!({"rate": "5"}));
    let answer = answered(&schemas, request("CREATE", wrong.clone(), None)).await;
    let response = &answer["response"];
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 422);
    assert_eq!(response["status"]["reason"], "Invalid");
    let said = response["status"]["message"].as_str().expect("a message");
    assert_eq!(said, r#"spec.config.rate: it is not of type "integer""#);

    let mut noted = wrong.clone();
    noted["metadata"]["annotations"] = json!({"seen": "yes"});
    let answer = answered(&schemas, request("UPDATE", noted, Some(wrong.clone()))).await;
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    let other = filter("file://rates.wasm", json!({"rate": "6"}));
    let answer = answered(&schemas, request("UPDATE", other, Some(wrong))).await;
    assert_eq!(answer["response"]["allowed"], false, "{answer}");
}

/// What a server answers to a request over TLS.
async fn sent(
    at: std::net::SocketAddr,
    authority: &[u8],
    asked: Request<Full<Bytes>>,
) -> (StatusCode, String) {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority).expect("PEM");
    roots.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(at).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.expect("trusted");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("HTTP");
    tokio::spawn(connection);
    let answer = sender.send_request(asked).await.expect("an answer");
    let status = answer.status();
    let body = answer
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn reviews_are_served_to_who_trusts_the_authority() {
    let (_site, schemas) = site();
    let certificate = Arc::new(certificate::tests::made());
    let authority = certificate.authority.clone();
    let (_sender, certificate) = watch::channel(Some(certificate));
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let at = free.local_addr().expect("an address");
    drop(free);
    let stop = CancellationToken::new();
    let serving = server::serve(Some(at), certificate, Arc::new(schemas), stop.clone());
    let serving = tokio::spawn(serving);
    while TcpStream::connect(at).await.is_err() {
        tokio::task::yield_now().await;
    }
    let wrong = filter("file://rates.wasm", json!({"rate": "5"}));
    let review = request("CREATE", wrong, None).to_string();
    let asked = |method: &str, path: &str, body: String| {
        let builder = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost");
        builder.body(Full::from(body)).expect("a request")
    };
    let (status, body) = sent(at, &authority, asked("POST", server::PATH, review)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["response"]["allowed"], false);
    for (method, path, body, expected) in [
        (
            "GET",
            server::PATH,
            String::new(),
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        ("POST", "/", String::new(), StatusCode::NOT_FOUND),
        (
            "POST",
            server::PATH,
            "{}".to_owned(),
            StatusCode::BAD_REQUEST,
        ),
        (
            "POST",
            server::PATH,
            " ".repeat(5 << 20),
            StatusCode::BAD_REQUEST,
        ),
    ] {
        let (status, said) = sent(at, &authority, asked(method, path, body)).await;
        assert_eq!(status, expected, "{said}");
    }
    stop.cancel();
    serving.await.expect("it ends");
}
