//! Keys that a Service has.

use std::time::Duration;

use filter_jwt_auth::JwtAuth;
use serde_json::json;
use weft_sdk::testing::{Answer, TestFetch, TestHost};
use weft_sdk::{FetchError, Level};

use crate::{NOW, RSA_TOKEN, answer, ask, claims, config, encode, host, jwks, signed, token, with};

fn remote() -> TestHost<JwtAuth> {
    host(config(|it| {
        it["keys"] = json!({"service": {"service": "issuer.auth:80", "path": "/keys"}});
    }))
}

#[test]
fn keys_are_fetched_once_for_all_that_wait() {
    let host = remote();
    let answer_later =
        |_: &TestFetch| Answer::ok(jwks().to_string()).after(Duration::from_millis(50));
    host.answer("issuer.auth:80", answer_later);
    let token = token(&claims());
    let waiting: Vec<_> = (0..10).map(|_| host.send(with(&token))).collect();
    assert!(waiting.iter().all(|exchange| exchange.request().held()));
    host.advance(Duration::from_millis(50));
    assert!(waiting.iter().all(|exchange| exchange.request().passed()));
    assert_eq!(host.fetches().len(), 1);
    assert_eq!(host.fetches()[0].path, "/keys");
    // Kept, and then fetched again.
    assert_eq!(ask(&host, with(RSA_TOKEN)), None);
    assert_eq!(host.fetches().len(), 1);
    host.advance(Duration::from_secs(301));
    let late = host.send(with(RSA_TOKEN));
    host.advance(Duration::from_millis(50));
    assert_eq!(answer(&late), None);
    assert_eq!(host.fetches().len(), 2);
}

#[test]
fn one_that_waits_goes_on_when_the_one_that_fetches_is_gone() {
    let host = remote();
    host.answer("issuer.auth:80", |_| {
        Answer::ok(jwks().to_string()).after(Duration::from_millis(50))
    });
    let token = token(&claims());
    let first = host.send(with(&token));
    let second = host.send(with(&token));
    host.advance(Duration::from_millis(10));
    drop(first);
    host.advance(Duration::from_millis(60));
    assert_eq!(answer(&second), None);
    assert_eq!(host.fetches().len(), 2);
}

#[test]
fn a_new_key_is_found_and_inventing_keys_makes_no_load() {
    let host = remote();
    let mut old = jwks();
    let all = jwks();
    old["keys"].as_array_mut().expect("keys").truncate(1);
    host.answer("issuer.auth:80", move |_| Answer::ok(old.to_string()));
    assert_eq!(ask(&host, with(RSA_TOKEN)), None);
    let token = token(&claims());
    assert_eq!(ask(&host, with(&token)).map(|it| it.0), Some(401));
    assert_eq!(host.fetches().len(), 1, "too soon to ask again");
    host.answer("issuer.auth:80", move |_| Answer::ok(all.to_string()));
    host.advance(Duration::from_secs(10));
    assert_eq!(ask(&host, with(&token)), None);
    assert_eq!(host.fetches().len(), 2);
    let invented = signed(&json!({"alg": "EdDSA", "kid": "mine"}), &claims(), |_| {
        vec![0; 64]
    });
    for _ in 0..5 {
        assert_eq!(ask(&host, with(&invented)).map(|it| it.0), Some(401));
    }
    assert_eq!(host.fetches().len(), 2);
}

#[test]
fn a_withdrawn_key_is_good_no_longer_than_the_set() {
    let host = remote();
    host.answer("issuer.auth:80", |_| Answer::ok(jwks().to_string()));
    let mut long = claims();
    long["exp"] = (NOW + 100_000).into();
    let token = token(&long);
    assert_eq!(ask(&host, with(&token)), None);
    let mut without = jwks();
    without["keys"]
        .as_array_mut()
        .expect("keys")
        .retain(|key| key["kid"] != "ed-1");
    host.answer("issuer.auth:80", move |_| Answer::ok(without.to_string()));
    host.advance(Duration::from_secs(299));
    assert_eq!(ask(&host, with(&token)), None);
    host.advance(Duration::from_secs(1));
    assert_eq!(ask(&host, with(&token)).map(|it| it.0), Some(401));
}

#[test]
fn a_withdrawn_key_is_good_no_longer_however_late_its_token_was_seen() {
    let host = remote();
    host.answer("issuer.auth:80", |_| Answer::ok(jwks().to_string()));
    assert_eq!(ask(&host, with(RSA_TOKEN)), None);
    let mut long = claims();
    long["exp"] = (NOW + 100_000).into();
    let token = token(&long);
    host.advance(Duration::from_secs(290));
    assert_eq!(ask(&host, with(&token)), None);
    let mut without = jwks();
    without["keys"]
        .as_array_mut()
        .expect("keys")
        .retain(|key| key["kid"] != "ed-1");
    host.answer("issuer.auth:80", move |_| Answer::ok(without.to_string()));
    host.advance(Duration::from_secs(10));
    assert_eq!(ask(&host, with(&token)).map(|it| it.0), Some(401));
    assert_eq!(host.fetches().len(), 2);
}

#[test]
fn a_key_that_cannot_be_used_does_not_take_away_the_others() {
    let host = remote();
    // RSA of 8192 bits, a key for encryption that does not say so, and one without a kind.
    let large = encode([0xff_u8; 1024]);
    let mut set = jwks();
    let keys = set["keys"].as_array_mut().expect("keys");
    keys.insert(
        0,
        json!({"kty": "RSA", "kid": "big", "n": large, "e": "AQAB"}),
    );
    keys.insert(
        1,
        json!({"kty": "RSA", "kid": "enc", "n": "AQAB", "e": "AQAB"}),
    );
    keys.insert(2, json!({"kid": "none"}));
    host.answer("issuer.auth:80", move |_| Answer::ok(set.to_string()));
    assert_eq!(ask(&host, with(RSA_TOKEN)), None);
    assert_eq!(ask(&host, with(&token(&claims()))), None);
    let logs = host.logs();
    let warned = logs.iter().find(|line| line.level == Level::Warn);
    let warned = warned.expect("a warning");
    assert_eq!(warned.field("count"), Some("3"));
    let first = warned.field("first").expect("the first of them");
    assert!(first.starts_with("its key 0: "), "{first}");
}

#[test]
fn without_keys_nothing_is_decided() {
    for bad in [
        Answer::error(FetchError::Denied),
        Answer::status(500),
        Answer::ok("[]"),
        Answer::ok(json!({"keys": []}).to_string()),
        Answer::never(),
    ] {
        let host = remote();
        host.answer("issuer.auth:80", move |_| bad.clone());
        let exchange = host.send(with(&token(&claims())));
        host.advance(Duration::from_secs(1));
        let failure = exchange.failure().expect("a failure");
        assert!(
            failure.starts_with("the key set of issuer.auth:80: "),
            "{failure}"
        );
        assert!(
            host.logs()
                .iter()
                .any(|line| line.field("service") == Some("issuer.auth:80"))
        );
    }
}

#[test]
fn old_keys_do_for_a_while_when_the_issuer_is_away() {
    let host = remote();
    host.answer("issuer.auth:80", |_| Answer::ok(jwks().to_string()));
    assert_eq!(ask(&host, with(RSA_TOKEN)), None);
    host.answer("issuer.auth:80", |_| Answer::status(503));
    host.advance(Duration::from_secs(3000));
    assert_eq!(ask(&host, with(RSA_TOKEN)), None);
    host.advance(Duration::from_secs(3000));
    let exchange = host.send(with(RSA_TOKEN));
    assert!(exchange.failure().expect("too old").contains("status 503"));
}

#[test]
fn a_pod_that_may_not_ask_takes_the_keys_from_no_other() {
    let host = remote();
    let of = |pod: &str| {
        let pod = pod.to_owned();
        with(RSA_TOKEN).attributes(|it| it.destination.address = pod)
    };
    let unseen =
        with(&token(&claims())).attributes(|it| it.destination.address = "10.0.0.8".to_owned());
    host.answer("issuer.auth:80", |_| Answer::error(FetchError::Denied));
    let denied = |of: weft_sdk::testing::TestRequest| {
        let failure = host.send(of).failure().expect("it cannot be known");
        assert!(failure.contains("policy"), "{failure}");
    };
    denied(of("10.0.0.9"));
    denied(of("10.0.0.9"));
    assert_eq!(host.fetches().len(), 1, "it is not asked again at once");
    host.answer("issuer.auth:80", |_| Answer::ok(jwks().to_string()));
    assert_eq!(ask(&host, of("10.0.0.8")), None);
    assert_eq!(host.fetches().len(), 2);
    assert_eq!(ask(&host, of("10.0.0.9")), None, "they are there now");
    // Old keys do for the one as they do for all when the issuer is away.
    host.answer("issuer.auth:80", |_| Answer::error(FetchError::Denied));
    host.advance(Duration::from_secs(301));
    assert_eq!(ask(&host, of("10.0.0.9")), None);
    host.answer("issuer.auth:80", |_| Answer::ok(jwks().to_string()));
    assert_eq!(ask(&host, unseen), None);
    assert_eq!(host.fetches().len(), 4);
}

#[test]
fn one_that_waits_asks_in_its_own_name() {
    let host = remote();
    let of = |pod: &str| {
        let pod = pod.to_owned();
        with(RSA_TOKEN).attributes(|it| it.destination.address = pod)
    };
    let mut asked = 0;
    host.answer("issuer.auth:80", move |_| {
        asked += 1;
        let answer = match asked {
            1 => Answer::error(FetchError::Denied),
            _ => Answer::ok(jwks().to_string()),
        };
        answer.after(Duration::from_millis(50))
    });
    let first = host.send(of("10.0.0.9"));
    let second = host.send(of("10.0.0.8"));
    host.advance(Duration::from_millis(50));
    assert!(first.failure().is_some());
    host.advance(Duration::from_millis(50));
    assert_eq!(answer(&second), None);
}
