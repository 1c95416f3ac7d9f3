use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::*;
use crate::filter::credentials;
use crate::filter::testing::Site;

const WASM: &str = "application/wasm";

/// How a registry wants to know who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Basic,
    Token,
    TokenForLogin,
}

struct Registry {
    door: Door,
    /// By `manifests/NAME` and `blobs/DIGEST`.
    content: BTreeMap<String, Vec<u8>>,
    /// Where blobs are instead.
    elsewhere: Option<SocketAddr>,
    /// What was asked for, and what was shown.
    asked: Mutex<Vec<(String, String)>>,
    /// Its own address.
    address: Mutex<String>,
}

impl Registry {
    fn new(door: Door) -> Self {
        Self {
            door,
            content: BTreeMap::new(),
            elsewhere: None,
            asked: Mutex::default(),
            address: Mutex::default(),
        }
    }

    fn blob(&mut self, content: &[u8]) -> Value {
        let digest = format!("sha256:{}", digest_of(content));
        self.content
            .insert(format!("blobs/{digest}"), content.to_vec());
        json!({"digest": digest, "size": content.len(), "mediaType": "?"})
    }

    fn layer(&mut self, content: &[u8], media_type: &str) -> Value {
        let mut layer = self.blob(content);
        layer["mediaType"] = json!(media_type);
        layer
    }

    fn manifest(&mut self, tag: &str, layers: &[Value]) -> ModuleDigest {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST[0], "layers": layers});
        self.put(tag, &manifest)
    }

    fn put(&mut self, tag: &str, manifest: &Value) -> ModuleDigest {
        let manifest = manifest.to_string().into_bytes();
        let digest = digest_of(&manifest);
        let by_digest = format!("manifests/sha256:{digest}");
        self.content.insert(by_digest, manifest.clone());
        self.content.insert(format!("manifests/{tag}"), manifest);
        digest
    }

    fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().expect("whole").clone()
    }
}

fn shown(headers: &HeaderMap) -> String {
    let shown = headers.get("authorization");
    shown.map_or_else(String::new, |shown| {
        shown.to_str().expect("text").to_owned()
    })
}

async fn content(
    State(registry): State<Arc<Registry>>,
    Path((kind, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let path = format!("{kind}/{name}");
    let shown = shown(&headers);
    registry
        .asked
        .lock()
        .expect("whole")
        .push((path.clone(), shown.clone()));
    let challenge = match registry.door {
        Door::Basic if shown != "Basic YTpi" => "Basic realm=\"here\"".to_owned(),
        Door::Token | Door::TokenForLogin if shown != "Bearer opened" => {
            let address = registry.address.lock().expect("whole").clone();
            format!(
                "Bearer realm=\"https://{address}/token\",service=\"the registry\",scope=\"repository:filters/jwt:pull\""
            )
        }
        _ => String::new(),
    };
    if !challenge.is_empty() {
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response();
    }
    if let (Some(elsewhere), "blobs") = (registry.elsewhere, &*kind) {
        return Redirect::temporary(&format!("https://{elsewhere}/{name}")).into_response();
    }
    match registry.content.get(&path) {
        Some(content) => content.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn token(
    State(registry): State<Arc<Registry>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    assert_eq!(query["service"], "the registry");
    assert_eq!(query["scope"], "repository:filters/jwt:pull");
    let open = registry.door == Door::Token || shown(&headers) == "Basic YTpi";
    match open {
        true => axum::Json(json!({"token": "opened"})).into_response(),
        false => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn serve(site: &Site, registry: Registry) -> (Arc<Registry>, SocketAddr) {
    let registry = Arc::new(registry);
    let router = Router::new()
        .route("/v2/filters/jwt/{kind}/{name}", get(content))
        .route("/token", get(token))
        .with_state(registry.clone());
    let address = site.serve(router).await;
    *registry.address.lock().expect("whole") = address.to_string();
    (registry, address)
}

fn reference(address: SocketAddr, tag: Option<&str>, digest: Option<ModuleDigest>) -> OciReference {
    OciReference {
        registry: address.to_string(),
        repository: "filters/jwt".to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    }
}

async fn pulled(site: &Site, reference: &OciReference) -> Result<Bytes, String> {
    let pulled = pull(&site.http(), reference, None, &Turn::default()).await;
    pulled.map_err(|error| error.to_string())
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, *content)
            .expect("packed");
    }
    let encoder = builder.into_inner().expect("packed");
    encoder.finish().expect("compressed")
}

#[tokio::test]
async fn modules_are_pulled_in_every_form_that_they_have() {
    let site = Site::new();
    let mut registry = Registry::new(Door::Open);
    for (tag, media_type) in [("solo", MODULE[0]), ("cncf", WASM)] {
        let config = registry.layer(b"{}", "application/vnd.module.wasm.config.v1+json");
        let module = registry.layer(tag.as_bytes(), media_type);
        registry.manifest(tag, &[config, module]);
    }
    let lower = archive(&[("plugin.wasm", b"old")]);
    let upper = archive(&[("plugin.wasm", b"compat"), ("etc/hosts", b"x")]);
    for (tag, media_type) in [("compat", FILES[0].0), ("docker", FILES[1].0)] {
        let layers = [&lower, &upper].map(|layer| registry.layer(layer, media_type));
        registry.manifest(tag, &layers);
    }
    let pinned = registry.content["manifests/solo"].clone();
    let digest = digest_of(&pinned);
    let other = registry.content["manifests/cncf"].clone();
    let of = |manifest: &[u8], architecture: &str| {
        json!({"mediaType": MANIFEST[0], "size": manifest.len(),
            "digest": format!("sha256:{}", digest_of(manifest)),
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let both = [of(&other, "arm64"), of(&pinned, "amd64")];
    registry.put("index", &json!({"mediaType": INDEX[0], "manifests": both}));
    let latest = registry.layer(b"latest", WASM);
    registry.manifest("latest", &[latest]);
    let (_, address) = serve(&site, registry).await;
    for (tag, module) in [
        (Some("solo"), "solo"),
        (Some("cncf"), "cncf"),
        (Some("compat"), "compat"),
        (Some("docker"), "compat"),
        (Some("index"), "solo"),
        (None, "latest"),
    ] {
        let pulled = pulled(&site, &reference(address, tag, None)).await;
        assert_eq!(pulled.as_deref(), Ok(module.as_bytes()), "{tag:?}");
    }
    let by_digest = pulled(&site, &reference(address, Some("gone"), Some(digest))).await;
    assert_eq!(by_digest.as_deref(), Ok(&b"solo"[..]));
}

#[tokio::test]
async fn what_is_not_what_it_says_is_refused() {
    let site = Site::new();
    let mut registry = Registry::new(Door::Open);
    let module = registry.layer(b"module", WASM);
    let digest = registry.manifest("1", std::slice::from_ref(&module));
    let named = module["digest"].as_str().expect("a digest");
    registry
        .content
        .insert(format!("blobs/{named}"), b"nodule".to_vec());
    let mut wrong = module.clone();
    wrong["digest"] = json!("sha512:00");
    registry.manifest("other-digest", &[wrong]);
    let mut large = module.clone();
    large["size"] = json!(MAX_MODULE + 1);
    registry.manifest("large", &[large]);
    let text = registry.layer(b"text", "text/plain");
    registry.manifest("text", &[text]);
    let empty = archive(&[("README", b"x")]);
    let empty = registry.layer(&empty, FILES[0].0);
    registry.manifest("empty", &[empty]);
    registry.manifest("many", &vec![module.clone(); MAX_LAYERS + 1]);
    registry.put("odd", &json!({"mediaType": "text/html"}));
    let none = json!({"mediaType": "?", "size": 1, "digest": "sha256:00"});
    let for_none = json!({"mediaType": INDEX[0], "manifests": [none, none]});
    registry.put("platforms", &for_none);
    registry
        .content
        .insert("manifests/broken".to_owned(), b"{".to_vec());
    let wanted = ModuleDigest([1; 32]);
    let by_wrong = format!("manifests/sha256:{wanted}");
    registry.content.insert(by_wrong, b"{}".to_vec());
    let (_, address) = serve(&site, registry).await;
    for (tag, told) in [
        ("1", "the layer has the digest sha256:"),
        ("other-digest", "`sha512:00` is no sha256 digest"),
        ("large", "the layer has 67108865 bytes, more than 67108864"),
        ("text", "no layer of the image is a module"),
        ("empty", "no layer of the image is a module"),
        ("many", "the image has 17 layers, more than 16"),
        ("odd", "text/html is no manifest of an image"),
        ("platforms", "the image is for several platforms"),
        ("broken", "the manifest cannot be read"),
    ] {
        let error = pulled(&site, &reference(address, Some(tag), None)).await;
        let error = error.expect_err(tag);
        assert!(error.starts_with(told), "{tag}: {error}");
    }
    let none = pulled(&site, &reference(address, Some("none"), None)).await;
    assert_eq!(none, Err(format!("{address} answers 404 Not Found")));
    let other = pulled(&site, &reference(address, None, Some(wanted))).await;
    let other = other.expect_err("another manifest");
    assert!(other.starts_with("the manifest has the digest"), "{other}");
    assert_ne!(digest, wanted);
}

#[tokio::test]
async fn registries_are_told_who_asks_and_nobody_else_is() {
    let login = r#"{"auths": {"here": {"username": "a", "password": "b"}}}"#;
    let login = credentials::login(login.as_bytes(), "here").expect("a login");
    for (door, needs_login) in [
        (Door::Open, false),
        (Door::Token, false),
        (Door::Basic, true),
        (Door::TokenForLogin, true),
    ] {
        let site = Site::new();
        let mut registry = Registry::new(door);
        let module = registry.layer(b"module", WASM);
        registry.manifest("1", &[module]);
        // Blobs are often at another place, which has no business with tokens.
        let blob = |headers: HeaderMap| async move {
            assert_eq!(shown(&headers), "");
            "module"
        };
        registry.elsewhere = Some(site.serve(Router::new().route("/{name}", get(blob))).await);
        let (registry, address) = serve(&site, registry).await;
        let reference = reference(address, Some("1"), None);
        let anonymous = pull(&site.http(), &reference, None, &Turn::default()).await;
        assert_eq!(anonymous.is_err(), needs_login);
        let known = pull(&site.http(), &reference, Some(&login), &Turn::default()).await;
        assert_eq!(known.as_deref(), Ok(&b"module"[..]));
        let asked = registry.asked();
        let (first, _) = &asked[0];
        assert_eq!(first, "manifests/1");
        if door == Door::Open {
            // Who does not ask is not shown anything.
            assert!(asked.iter().all(|(_, shown)| shown.is_empty()), "{asked:?}");
        }
    }
    let site = Site::new();
    let (_, address) = serve(&site, Registry::new(Door::Basic)).await;
    let error = pulled(&site, &reference(address, Some("1"), None)).await;
    let error = error.expect_err("refused");
    assert!(
        error.contains("name a Secret in imagePullSecret"),
        "{error}"
    );
    let wrong = r#"{"auths": {"here": {"username": "a", "password": "c"}}}"#;
    let wrong = credentials::login(wrong.as_bytes(), "here").expect("a login");
    let error = pull(
        &site.http(),
        &reference(address, Some("1"), None),
        Some(&wrong),
        &Turn::default(),
    )
    .await;
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("does not open the repository"), "{error}");
}
