use std::os::unix::fs::symlink;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use serde_json::json;
use tokio::sync::Semaphore;
use weft_api::k8s::filter::{OciReference, Refresh};

use super::*;
use crate::filter::testing::Site;

fn source(location: Location) -> ModuleSource {
    ModuleSource {
        location,
        sha256: None,
        pull_secret: None,
        refresh: Refresh::Never,
    }
}

fn file(name: &str) -> ModuleSource {
    source(Location::File(name.to_owned()))
}

fn map(key: &str) -> ModuleSource {
    source(Location::ConfigMap {
        namespace: "shop".to_owned(),
        name: "filters".to_owned(),
        key: key.to_owned(),
    })
}

async fn told(fetcher: &Fetcher, source: &ModuleSource) -> String {
    let looked = fetcher.look(source, None).await;
    looked.expect_err("no module").to_string()
}

fn module(found: &Found) -> ModuleDigest {
    match found {
        Found::Module(digest, _) => *digest,
        Found::Same => panic!("nothing new"),
    }
}

#[tokio::test]
async fn files_are_read_below_their_directory_and_only_when_they_changed() {
    let site = Site::new();
    let fetcher = site.fetcher(&[]);
    let files = fetcher.sources.directory.clone();
    std::fs::write(files.join("a.wasm"), "one").expect("written");
    let found = fetcher.look(&file("a.wasm"), None).await.expect("read");
    assert_eq!(module(&found), digest_of(b"one"));
    assert!(site.store.has(digest_of(b"one")));
    let Found::Module(_, stamp) = found else {
        panic!("{found:?}")
    };
    let same = fetcher.look(&file("a.wasm"), stamp).await.expect("read");
    assert_eq!(same, Found::Same);
    std::fs::write(files.join("b.wasm"), "two").expect("written");
    std::fs::rename(files.join("b.wasm"), files.join("a.wasm")).expect("replaced");
    let other = fetcher.look(&file("a.wasm"), stamp).await.expect("read");
    assert_eq!(module(&other), digest_of(b"two"));

    // A volume of a ConfigMap is made of links; they may not lead elsewhere.
    std::fs::create_dir(files.join("..data")).expect("made");
    std::fs::write(files.join("..data/c.wasm"), "three").expect("written");
    symlink("..data/c.wasm", files.join("c.wasm")).expect("linked");
    let inside = fetcher.look(&file("c.wasm"), None).await.expect("read");
    assert_eq!(module(&inside), digest_of(b"three"));
    symlink(site.authority(), files.join("out.wasm")).expect("linked");
    symlink("/", files.join("root")).expect("linked");
    std::fs::create_dir(files.join("folder")).expect("made");
    let large = std::fs::File::create(files.join("large.wasm")).expect("made");
    large.set_len(MAX_MODULE as u64 + 1).expect("sparse");
    for (name, why) in [
        ("out.wasm", "leads out of"),
        ("root/etc/hostname", "leads out of"),
        ("none.wasm", "No such file"),
        ("folder", "is no file"),
        ("large.wasm", "it has 67108865 bytes, more than 67108864"),
    ] {
        let told = told(&fetcher, &file(name)).await;
        assert!(told.contains(why), "{name}: {told}");
    }
}

#[tokio::test]
async fn entries_of_config_maps_are_modules() {
    let site = Site::new();
    let object = json!({
        "metadata": {"name": "filters", "namespace": "shop"},
        "binaryData": {"a.wasm": STANDARD.encode("module")},
        "data": {"a.wat": "(module)"},
    });
    let path = "/api/v1/namespaces/shop/configmaps/filters";
    let fetcher = site.fetcher(&[(path, object)]);
    let found = fetcher.look(&map("a.wasm"), None).await.expect("found");
    assert_eq!(module(&found), digest_of(b"module"));
    let found = fetcher.look(&map("a.wat"), None).await.expect("found");
    assert_eq!(module(&found), digest_of(b"(module)"));
    assert_eq!(
        told(&fetcher, &map("b")).await,
        "ConfigMap shop/filters: has no entry b"
    );
    let none = site.fetcher(&[]);
    assert_eq!(
        told(&none, &map("b")).await,
        "ConfigMap shop/filters: is not there"
    );
}

#[tokio::test]
async fn what_comes_has_to_have_the_digest_that_was_named() {
    let site = Site::new();
    let address = site
        .serve(Router::new().route("/a.wasm", get(async || "module")))
        .await;
    let fetcher = site.fetcher(&[]);
    let mut source = source(Location::Https(format!("https://{address}/a.wasm")));
    source.sha256 = Some(digest_of(b"module"));
    let found = fetcher.look(&source, None).await.expect("fetched");
    assert_eq!(module(&found), digest_of(b"module"));
    let wanted = ModuleDigest([7; 32]);
    source.sha256 = Some(wanted);
    let told_of = told(&fetcher, &source).await;
    let both = format!(
        "its digest is sha256:{}, but module.sha256 is {wanted}",
        digest_of(b"module")
    );
    assert_eq!(told_of, both);
    assert!(!site.store.has(wanted));
}

#[tokio::test]
async fn a_secret_that_does_not_open_says_so() {
    let site = Site::new();
    let path = "/api/v1/namespaces/shop/secrets/pull";
    let secret = |data: serde_json::Value| {
        let object = json!({"metadata": {"name": "pull", "namespace": "shop"}, "data": data});
        site.fetcher(&[(path, object)])
    };
    let mut image = source(Location::Oci(OciReference {
        registry: "registry.example".to_owned(),
        repository: "jwt".to_owned(),
        tag: None,
        digest: None,
    }));
    image.pull_secret = Some(("shop".to_owned(), "pull".to_owned()));
    let none = STANDARD.encode("{\"auths\": {}}");
    for (fetcher, why) in [
        (site.fetcher(&[]), "Secret shop/pull: is not there"),
        (
            secret(json!({})),
            "Secret shop/pull: has no .dockerconfigjson",
        ),
        (
            secret(json!({".dockerconfigjson": none})),
            "Secret shop/pull: has no login for registry.example",
        ),
    ] {
        let told = told(&fetcher, &image).await;
        assert!(told.starts_with(why), "{told}");
    }
}

#[test]
fn a_turn_lasts_as_long_as_the_work_that_nobody_waits_for() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let site = Site::new();
        let sources = site.sources(&[]);
        std::fs::write(sources.directory.join("a.wasm"), "one").expect("written");
        let turns = Arc::new(Semaphore::new(1));
        let turn = || async { Arc::clone(&turns).acquire_owned().await.expect("a turn") };
        // What the read needs is busy, so that it waits for as long as is wanted here.
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || ended.recv());
        let source = file("a.wasm");
        let read = sources.fetch_in_turn(&source, turn().await.into());
        assert!(Box::pin(read).now_or_never().is_none());
        assert_eq!(turns.available_permits(), 0);
        drop(end);
        busy.await.expect("it ends").expect_err("nothing is sent");
        let read = sources.fetch_in_turn(&source, turn().await.into()).await;
        assert_eq!(read.expect("read"), "one");
    });
}
