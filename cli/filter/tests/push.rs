//! `push`, to a small registry of the test's own.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use weft_wasm_host::Digest;

use crate::support::{Done, module, on_headers, weft_filter};

/// Of ada with the password landing.
const BASIC: &str = "Basic YWRhOmxhbmRpbmc=";

/// Whom a registry lets in.
#[derive(Debug, Clone)]
enum Auth {
    Everybody,
    /// Who sends a name and a password with each request.
    Password,
    /// Who got a token from there.
    Token(String),
}

#[derive(Debug, Default)]
struct Kept {
    uploads: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, (String, Vec<u8>)>,
    /// The `authorization` of all requests.
    seen: Vec<String>,
}

#[derive(Debug, Clone)]
struct Registry {
    auth: Auth,
    kept: Arc<Mutex<Kept>>,
    address: SocketAddr,
}

impl Registry {
    /// On loopback, for as long as the test's process lives.
    fn start(auth: impl FnOnce(SocketAddr) -> Auth) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let registry = Self {
            auth: auth(address),
            kept: Arc::default(),
            address,
        };
        let app = Router::new().fallback(serve).with_state(registry.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                listener.set_nonblocking(true).expect("it can be");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                axum::serve(listener, app).await.expect("it serves");
            });
        });
        registry
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no panic")
    }

    fn reference(&self) -> String {
        format!("oci://{}/me/my-filter:v1", self.address)
    }
}

async fn serve(
    State(registry): State<Registry>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let sent = headers.get(header::AUTHORIZATION);
    let sent = sent
        .map(|value| value.to_str().expect("text").to_owned())
        .unwrap_or_default();
    registry.kept().seen.push(sent.clone());
    if uri.path() == "/token" {
        let wants = uri
            .query()
            .unwrap_or_default()
            .contains("scope=repository%3Ame%2Fmy-filter%3Apull%2Cpush");
        return match wants && sent == BASIC {
            true => axum::Json(json!({"token": "t0ken"})).into_response(),
            false => StatusCode::UNAUTHORIZED.into_response(),
        };
    }
    let (let_in, challenge) = match &registry.auth {
        Auth::Everybody => (true, String::new()),
        Auth::Password => (sent == BASIC, "Basic realm=\"registry\"".to_owned()),
        Auth::Token(realm) => (
            sent == "Bearer t0ken",
            format!("Bearer realm=\"{realm}\",service=\"registry\""),
        ),
    };
    if !let_in {
        return (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, challenge)],
        )
            .into_response();
    }
    registry.store(&method, &uri, &headers, &body)
}

impl Registry {
    fn store(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Response {
        let mut kept = self.kept();
        let Some(path) = uri.path().strip_prefix("/v2/") else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let at =
            |status, location: String| (status, [(header::LOCATION, location)]).into_response();
        let digest = Digest::of(body).to_string();
        let upload = "/upload/".to_owned();
        match (method, path) {
            (&Method::GET, "") => StatusCode::OK.into_response(),
            (&Method::POST, "me/my-filter/blobs/uploads/") => {
                let location = format!("/v2{upload}{}", kept.uploads.len());
                kept.uploads.insert(location.clone(), Vec::new());
                at(StatusCode::ACCEPTED, location)
            }
            (&Method::PATCH, _) => {
                let location = uri.path().to_owned();
                let so_far = kept.uploads.get_mut(&location).expect("it was begun");
                so_far.extend_from_slice(body);
                at(StatusCode::ACCEPTED, location)
            }
            (&Method::PUT, path) if path.starts_with("me/my-filter/manifests/") => {
                let kind = headers[header::CONTENT_TYPE]
                    .to_str()
                    .expect("text")
                    .to_owned();
                let tag = path.rsplit('/').next().expect("a tag").to_owned();
                kept.manifests.insert(tag, (kind, body.to_vec()));
                at(
                    StatusCode::CREATED,
                    format!("/v2/me/my-filter/manifests/{digest}"),
                )
            }
            (&Method::PUT, _) => {
                let bytes = kept.uploads.remove(uri.path()).expect("it was begun");
                let digest = Digest::of(&bytes).to_string();
                let named = uri.query().expect("a digest").replace("%3A", ":");
                if named != format!("digest={digest}") {
                    return StatusCode::BAD_REQUEST.into_response();
                }
                kept.blobs.insert(digest.clone(), bytes);
                at(
                    StatusCode::CREATED,
                    format!("/v2/me/my-filter/blobs/{digest}"),
                )
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }
}

/// Pushes, with this password on standard input and these settings of docker.
fn push(args: &[&str], password: &str, docker: &Path) -> Done {
    let mut child = weft_filter()
        .arg("push")
        .args(args)
        .env("DOCKER_CONFIG", docker)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // Where it does not read, nobody needs to write.
    let _unread = stdin.write_all(password.as_bytes());
    drop(stdin);
    Done::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn a_module_is_pushed_as_registries_keep_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let registry = Registry::start(|_| Auth::Everybody);
    let file = module("rate-limit");
    let printed = push(
        &[&file, &registry.reference(), "--plain-http"],
        "",
        dir.path(),
    )
    .well();

    let bytes = fs::read(&file).expect("the module");
    let kept = registry.kept();
    let (kind, manifest) = &kept.manifests["v1"];
    assert_eq!(kind, "application/vnd.oci.image.manifest.v1+json");
    let pinned = format!(
        "url: oci://{}/me/my-filter@{}",
        registry.address,
        Digest::of(manifest)
    );
    assert!(printed.contains(&pinned), "{printed}");
    assert!(
        printed.contains(&format!("sha256: {}", Digest::of(&bytes).hex())),
        "{printed}"
    );

    let manifest: Value = serde_json::from_slice(manifest).expect("JSON");
    assert_eq!(manifest["schemaVersion"], 2);
    assert_eq!(manifest["mediaType"], *kind);
    let layers = manifest["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 1);
    assert_eq!(
        layers[0]["mediaType"],
        "application/vnd.module.wasm.content.layer.v1+wasm"
    );
    assert_eq!(layers[0]["size"], bytes.len());
    assert_eq!(
        kept.blobs[layers[0]["digest"].as_str().expect("text")],
        bytes
    );
    let config = manifest["config"]["digest"].as_str().expect("text");
    assert_eq!(kept.blobs[config], b"{}");
    assert_eq!(
        manifest["annotations"]["org.opencontainers.image.title"],
        "rate-limit.wasm"
    );
}

#[test]
fn who_may_push_is_asked_for_a_password() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = on_headers(dir.path(), "i32.const 0");
    let token = |address| Auth::Token(format!("http://{address}/token"));
    for registry in [Registry::start(|_| Auth::Password), Registry::start(token)] {
        let reference = registry.reference();
        let args = [file.as_str(), &reference, "--plain-http"];
        let as_ada = ["--user", "ada", "--password-stdin"];
        push(&[&args[..], &as_ada].concat(), "landing\n", dir.path()).well();
        assert_eq!(registry.kept().manifests.len(), 1);

        let wrong = push(&[&args[..], &as_ada].concat(), "guess", dir.path());
        wrong.refused("does not let you in");
        push(&args, "", dir.path()).refused("does not let you in");

        // What docker login wrote down.
        let docker = tempfile::tempdir().expect("a folder");
        let auths =
            json!({"auths": {registry.address.to_string(): {"auth": &BASIC["Basic ".len()..]}}});
        fs::write(docker.path().join("config.json"), auths.to_string()).expect("it is written");
        push(&args, "", docker.path()).well();
    }
}

/// It names a place for its tokens that would get the password without TLS.
#[test]
fn a_registry_cannot_have_the_password_sent_without_tls() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = on_headers(dir.path(), "i32.const 0");
    // An address of documentation: nothing is there, and nothing is to be tried.
    let registry = Registry::start(|_| Auth::Token("http://192.0.2.1/token".to_owned()));
    let reference = registry.reference();
    let args = [
        file.as_str(),
        &reference,
        "--plain-http",
        "--user",
        "ada",
        "--password-stdin",
    ];
    push(&args, "landing", dir.path()).refused("leads to http://192.0.2.1/token");
    assert!(
        registry.kept().seen.iter().all(String::is_empty),
        "{:?}",
        registry.kept().seen
    );
    assert!(registry.kept().manifests.is_empty());
}

#[test]
fn what_cannot_be_pushed_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = on_headers(dir.path(), "i32.const 0");
    let registry = Registry::start(|_| Auth::Everybody);
    let reference = registry.reference();
    let push = |args: &[&str], why: &str| push(args, "", dir.path()).refused(why);

    push(
        &[&file, "oci://192.0.2.1/a:b", "--plain-http"],
        "192.0.2.1 is not on this machine",
    );
    push(&[&file, "oci://192.0.2.1/a"], "it has no tag");
    // Without the flag there is TLS, also on loopback.
    push(&[&file, &reference], "is not reached over TLS");
    push(&["/nowhere", &reference, "--plain-http"], "/nowhere");
    let args = [
        &file,
        &reference,
        "--plain-http",
        "--user",
        "ada",
        "--password-stdin",
    ];
    push(&args, "nothing on standard input");

    let text = dir.path().join("text.wasm");
    fs::write(&text, "hello").expect("it is written");
    push(
        &[&text.display().to_string(), &reference, "--plain-http"],
        "no WebAssembly",
    );
    fs::write(dir.path().join("config.json"), "{").expect("it is written");
    push(&[&file, &reference, "--plain-http"], "config.json");
    assert!(registry.kept().seen.is_empty());
}
