use axum::Router;
use axum::response::Redirect;
use axum::routing::get;

use super::*;
use crate::filter::testing::Site;

fn uri(address: std::net::SocketAddr, path: &str) -> Uri {
    format!("https://{address}{path}").parse().expect("a URI")
}

async fn told(site: &Site, uri: &Uri, most: usize) -> String {
    let got = site.http().get(uri, &Ask::default(), most).await;
    got.expect_err("refused").to_string()
}

#[tokio::test]
async fn what_is_there_comes_and_no_more_than_was_asked_for() {
    let site = Site::new();
    let router = Router::new()
        .route("/module", get(async || "12345678"))
        .route("/none", get(async || StatusCode::NOT_FOUND));
    let address = site.serve(router).await;
    let uri = |path| uri(address, path);
    let got = site.http().get(&uri("/module"), &Ask::default(), 8).await;
    assert_eq!(&*got.expect("it comes").body, b"12345678");
    assert_eq!(
        told(&site, &uri("/module"), 7).await,
        format!("{address} sends more than 7 bytes")
    );
    assert_eq!(
        told(&site, &uri("/none"), 7).await,
        format!("{address} answers 404 Not Found")
    );
}

#[tokio::test]
async fn redirects_are_followed_but_never_to_plain_text_nor_for_ever() {
    let site = Site::new();
    let shown =
        |headers: HeaderMap| async move { format!("{:?}", headers.get(AUTHORIZATION).is_some()) };
    let other = site.serve(Router::new().route("/", get(shown))).await;
    let elsewhere = format!("https://{other}/");
    let to = |target: String| get(move || async move { Redirect::temporary(&target) });
    let router = Router::new()
        .route("/same", to("/end".to_owned()))
        .route("/other", to(elsewhere))
        .route("/plain", to(format!("http://{other}/?token=secret")))
        .route("/file", to("file:///etc/passwd".to_owned()))
        .route("/loop", to("/loop".to_owned()))
        .route("/end", get(shown));
    let address = site.serve(router).await;
    let ask = Ask {
        accept: None,
        authorization: Some(HeaderValue::from_static("Basic eDp5")),
    };
    let http = site.http();
    for (path, still) in [("/same", "true"), ("/other", "false")] {
        let got = http.get(&uri(address, path), &ask, 100).await;
        assert_eq!(got.expect("followed").body, still, "{path}");
    }
    for (path, why) in [
        ("/plain", "which is not https://"),
        ("/file", "redirects to file:///etc/passwd"),
        ("/loop", "redirects for more than 5 times"),
    ] {
        let told = told(&site, &uri(address, path), 100).await;
        assert!(told.contains(why), "{told}");
        assert!(!told.contains("secret"), "{told}");
    }
}

#[tokio::test]
async fn only_who_was_asked_may_ask_who_we_are() {
    let site = Site::new();
    let challenge = get(async || {
        let realm = [(
            "www-authenticate",
            "Bearer realm=\"https://mallory.example/\"",
        )];
        (StatusCode::UNAUTHORIZED, realm)
    });
    let other = site
        .serve(Router::new().route("/", challenge.clone()))
        .await;
    let elsewhere = format!("https://{other}/");
    let router = Router::new().route("/own", challenge).route(
        "/other",
        get(move || async move { Redirect::temporary(&elsewhere) }),
    );
    let address = site.serve(router).await;
    let own = uri(address, "/own");
    let own = site.http().get(&own, &Ask::default(), 100).await;
    let own = own.expect("an answer");
    assert_eq!(own.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        told(&site, &uri(address, "/other"), 100).await,
        format!("{other} answers 401 Unauthorized")
    );
}

#[tokio::test]
async fn who_is_not_vouched_for_is_not_asked() {
    let (site, stranger) = (Site::new(), Site::new());
    let address = stranger.serve(Router::new()).await;
    let told = told(&site, &uri(address, "/"), 100).await;
    assert!(told.contains("invalid peer certificate"), "{told}");
    let plain: Uri = format!("http://{address}/").parse().expect("a URI");
    let got = site.http().get(&plain, &Ask::default(), 100).await;
    got.expect_err("not https");
}

#[tokio::test]
async fn the_nodes_own_networks_are_not_asked_unless_that_is_allowed() {
    let site = Site::new();
    let address = site
        .serve(Router::new().route("/", get(async || "x")))
        .await;
    let guarded = Http::new(Dialer { private: false }, Some(&site.authority()));
    let guarded = guarded.expect("a client");
    let got = guarded.get(&uri(address, "/"), &Ask::default(), 100).await;
    let told = got.expect_err("refused").to_string();
    assert!(told.contains("127.0.0.1 is a loopback address"), "{told}");
    assert!(told.contains("--module-allow-private"), "{told}");
}

#[test]
fn a_file_of_authorities_has_to_have_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ca.pem");
    let new = || Http::new(Dialer { private: false }, Some(&path));
    let missing = new().expect_err("no file").to_string();
    assert!(
        missing.starts_with(&path.display().to_string()),
        "{missing}"
    );
    std::fs::write(&path, "no certificate").expect("written");
    let empty = new().expect_err("none in it").to_string();
    assert!(empty.contains("has no certificate in it"), "{empty}");
}
