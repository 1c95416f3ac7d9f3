//! The filter on requests with all kinds of tokens.
#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signer as _;
use filter_jwt_auth::JwtAuth;
use serde_json::{Value, json};
use weft_sdk::testing::{TestExchange, TestHost, TestRequest};

mod remote;

/// 2030-01-01, where the test's clock begins.
const NOW: u64 = 1_893_456_000;

/// Made with OpenSSL, as is the token below: a judge of its own.
const RSA_N: &str = "6Vr8yRYQM6WFC0YLRBdybo7Kgaun75vUAfEwyvXuju9SyxIdTaVkoUtys9WfB0WvALOgmdq2N3n_Yd_W9JRX4UrOlhsa5NFczYcxg3nUSLKaP4cRSaGFt6ZtLgsQXx9ZzvAkOIRUQ8QCyUL23Sg9_T7i41LXP56UOXhlMMnOFzUNnz859D7k7I2V_VvaRQh3kB0VoG9tk7iQjLl5Zzgt_Jwry0YaEGYqaKgxS5e7J1ErFnfepmzVXL46ZR5oIkzzF_Yx06OlS9U4G1YurNzJzrHJqMSjoqyBQVbbxhR3p0WyojsBE8ENuInmDw5LAnNPeqUTccuMvGorBdKljPLcYQ";
const RSA_TOKEN: &str = "eyJhbGciOiAiUlMyNTYiLCAidHlwIjogIkpXVCIsICJraWQiOiAicnNhLTEifQ.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIudGVzdCIsICJzdWIiOiAiYWRhIiwgImF1ZCI6ICJkZWF0aHN0YXIiLCAiZXhwIjogNDEwMjQ0NDgwMH0.j4D5fTul19gQ6FnqEgLUr7SXWbUuUN2yOoVD_KDYOlJybgj2HR1mQKH7JDCN742i-CV0Rte2ikjgdQZ_zXAVxmxYh4F9OS3Afpwbac5bUDfWfaKt6xS97GIMbojNKZkMmK6pp2sEq_GCL9PClQH8j3wkrsW0m8D7MRZ1VVCkED7a1DmLw_X9RS9Ggxp_QhDAGI_2U2UaxJXd-HrgK-nlHnmQj6MVrwa9NpNDEzEKGUSLiPdJ-RFHoTrHJxsJAElpjAOTvCyWER8GpSrqkWUgGg7aAeKIVFLjv_SZyeAfYo1U16v4vjhE-RriULrdQEDZ1g6w1xS6lRn5DTWzPASw1Q";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ed25519() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[7; 32])
}

fn p256() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[9; 32]).expect("a private key")
}

/// The issuer's keys, of each kind one.
fn jwks() -> Value {
    let point = p256().verifying_key().to_sec1_point(false);
    let (x, y) = point.as_bytes()[1..].split_at(32);
    json!({"keys": [
        {"kty": "RSA", "kid": "rsa-1", "use": "sig", "alg": "RS256", "n": RSA_N, "e": "AQAB"},
        {"kty": "EC", "kid": "ec-1", "crv": "P-256", "x": encode(x), "y": encode(y)},
        {"kty": "OKP", "kid": "ed-1", "crv": "Ed25519",
         "x": encode(ed25519().verifying_key().as_bytes())},
        {"kty": "RSA", "kid": "for-encryption", "use": "enc", "n": "AQAB", "e": "AQAB"},
        {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
    ]})
}

fn claims() -> Value {
    json!({"iss": "https://issuer.test", "sub": "ada", "aud": "deathstar", "exp": NOW + 600})
}

fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let text = format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    );
    let signature = sign(text.as_bytes());
    format!("{text}.{}", encode(signature))
}

fn token(claims: &Value) -> String {
    signed(&json!({"alg": "EdDSA", "kid": "ed-1"}), claims, |text| {
        ed25519().sign(text).to_bytes().to_vec()
    })
}

fn config(change: impl FnOnce(&mut Value)) -> Value {
    let mut config = json!({
        "issuer": "https://issuer.test",
        "audiences": ["deathstar", "shuttle"],
        "keys": {"inline": jwks()},
    });
    change(&mut config);
    config
}

fn host(config: Value) -> TestHost<JwtAuth> {
    TestHost::new(config).expect("the configuration is good")
}

fn with(token: &str) -> TestRequest {
    TestRequest::get("/").header("authorization", format!("Bearer {token}"))
}

/// Status and reason of the filter's answer; none where it lets the request through.
fn answer(exchange: &TestExchange<JwtAuth>) -> Option<(u16, String)> {
    assert_eq!(exchange.failure(), None);
    exchange.reply().map(|reply| (reply.status, reply.reason))
}

fn ask(host: &TestHost<JwtAuth>, request: TestRequest) -> Option<(u16, String)> {
    answer(&host.send(request))
}

#[test]
fn each_kind_of_signature_is_checked() {
    let host = host(config(|_| {}));
    let es256 = signed(&json!({"alg": "ES256", "kid": "ec-1"}), &claims(), |text| {
        let signature: p256::ecdsa::Signature = p256().sign(text);
        signature.to_bytes().to_vec()
    });
    for token in [RSA_TOKEN.to_owned(), es256, token(&claims())] {
        assert_eq!(ask(&host, with(&token)), None);
        // One letter of the claims, and one of the signature.
        let (text, signature) = token.rsplit_once('.').expect("three parts");
        let (head, _) = text.split_once('.').expect("three parts");
        let mut other = claims();
        other["sub"] = "eve".into();
        let forged = format!("{head}.{}.{signature}", encode(other.to_string()));
        let wrong = (401, "the token's signature is wrong".to_owned());
        assert_eq!(ask(&host, with(&forged)), Some(wrong.clone()));
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        bytes[20] ^= 1;
        let flipped = format!("{text}.{}", encode(bytes));
        assert_eq!(ask(&host, with(&flipped)), Some(wrong));
    }
}

#[test]
fn a_request_without_a_token_is_refused() {
    let host = host(config(|_| {}));
    let exchange = host.send(TestRequest::get("/"));
    let reply = exchange.reply().expect("a reply");
    assert_eq!(reply.status, 401);
    assert_eq!(reply.header("www-authenticate").as_deref(), Some("Bearer"));
    assert_eq!(reply.text(), "a token is needed\n");
    let basic = TestRequest::get("/").header("authorization", "Basic YTpi");
    assert_eq!(ask(&host, basic).map(|it| it.0), Some(401));
}

#[test]
fn whatever_stands_before_the_token_it_is_one() {
    let host = host(config(|it| it["optional"] = true.into()));
    let with = |value: &str| TestRequest::get("/").header("authorization", value);
    for space in [" ", "\t", "  ", " \t", "\u{a0}"] {
        let bad = format!("Bearer{space}abc");
        let status = ask(&host, with(&bad)).map(|it| it.0);
        assert_eq!(status, Some(401), "{bad:?}");
        let good = format!("bearer{space}{}", token(&claims()));
        assert_eq!(ask(&host, with(&good)), None, "{good:?}");
    }
    let empty = ask(&host, with("Bearer")).map(|it| it.0);
    assert_eq!(empty, Some(401));
    for other in ["Basic YTpi", "Bearers abc", ""] {
        assert_eq!(ask(&host, with(other)), None, "{other:?}");
    }
}

#[test]
fn a_bad_token_is_told_apart() {
    let host = host(config(|_| {}));
    let cases = [
        ("abc", "not three parts"),
        ("a.b", "not three parts"),
        ("a.b.c.d", "not three parts"),
        ("%.%.%", "not base64url"),
        ("e30.e30.e30", "header is not JSON"),
    ];
    for (token, expected) in cases {
        let exchange = host.send(with(token));
        let (status, reason) = answer(&exchange).expect("it is refused");
        assert_eq!(status, 401);
        assert!(reason.contains(expected), "{token}: {reason}");
        let challenge = exchange
            .reply()
            .and_then(|reply| reply.header("www-authenticate"));
        assert!(challenge.expect("a challenge").contains("invalid_token"));
    }
    let critical = json!({"alg": "EdDSA", "kid": "ed-1", "crit": ["b64"], "b64": false});
    let critical = signed(&critical, &claims(), |text| {
        ed25519().sign(text).to_bytes().to_vec()
    });
    let (_, reason) = ask(&host, with(&critical)).expect("it is refused");
    assert!(reason.contains("critical"), "{reason}");
    let long = "x".repeat(10_000);
    let (_, reason) = ask(&host, with(&long)).expect("it is refused");
    assert!(reason.contains("too long"), "{reason}");
    let two = with(&token(&claims())).header("authorization", "Bearer another");
    assert!(
        ask(&host, two)
            .expect("it is refused")
            .1
            .contains("more than one")
    );
    let raw = TestRequest::get("/").header("authorization", b"Bearer \xff\xfe");
    assert!(
        ask(&host, raw)
            .expect("it is refused")
            .1
            .contains("no text")
    );
}

#[test]
fn the_token_does_not_choose_how_it_is_checked() {
    let host = host(config(|_| {}));
    let unsigned = format!(
        "{}.{}.",
        encode(json!({"alg": "none"}).to_string()),
        encode(claims().to_string())
    );
    let (_, reason) = ask(&host, with(&unsigned)).expect("it is refused");
    assert!(reason.contains("in no way that is accepted"), "{reason}");
    // The public key taken for a shared secret.
    let shared = signed(&json!({"alg": "HS256", "kid": "rsa-1"}), &claims(), |_| {
        vec![0; 32]
    });
    let (_, reason) = ask(&host, with(&shared)).expect("it is refused");
    assert!(reason.contains("in no way that is accepted"), "{reason}");
    // A key of another kind than the token says.
    let other = signed(&json!({"alg": "ES256", "kid": "ed-1"}), &claims(), |text| {
        ed25519().sign(text).to_bytes().to_vec()
    });
    let (_, reason) = ask(&host, with(&other)).expect("it is refused");
    assert!(reason.contains("not known"), "{reason}");
    // Without the name of a key all of its kind are tried.
    let nameless = signed(&json!({"alg": "EdDSA"}), &claims(), |text| {
        ed25519().sign(text).to_bytes().to_vec()
    });
    assert_eq!(ask(&host, with(&nameless)), None);
}

#[test]
fn claims_are_checked() {
    let host = host(config(|_| {}));
    let mut cases = Vec::new();
    let mut case = |change: &dyn Fn(&mut Value), expected: Option<&'static str>| {
        let mut claims = claims();
        change(&mut claims);
        cases.push((claims, expected));
    };
    case(&|it| it["exp"] = (NOW - 29).into(), None);
    case(&|it| it["exp"] = (NOW - 30).into(), Some("has expired"));
    case(&|it| it["exp"] = Value::Null, Some("is no number"));
    case(&|it| it["exp"] = "soon".into(), Some("is no number"));
    case(&|it| it["exp"] = (-1).into(), Some("is no number"));
    case(&|it| it["exp"] = json!(NOW as f64 + 0.5), None);
    case(
        &|it| drop(it.as_object_mut().map(|it| it.remove("exp"))),
        Some("when it expires"),
    );
    case(&|it| it["nbf"] = (NOW + 30).into(), None);
    case(&|it| it["nbf"] = (NOW + 31).into(), Some("not valid yet"));
    case(&|it| it["iat"] = (NOW + 60).into(), Some("not valid yet"));
    case(
        &|it| it["iss"] = "https://evil.test".into(),
        Some("another issuer"),
    );
    case(
        &|it| it["iss"] = json!(["https://issuer.test"]),
        Some("another issuer"),
    );
    case(
        &|it| it["aud"] = "alderaan".into(),
        Some("another audience"),
    );
    case(
        &|it| it["aud"] = "not deathstar".into(),
        Some("another audience"),
    );
    case(&|it| it["aud"] = json!(["alderaan", "shuttle"]), None);
    case(
        &|it| drop(it.as_object_mut().map(|it| it.remove("aud"))),
        Some("another audience"),
    );
    for (claims, expected) in cases {
        let reason = ask(&host, with(&token(&claims))).map(|it| it.1);
        match (expected, reason) {
            (None, None) => {}
            (Some(expected), Some(reason)) if reason.contains(expected) => {}
            (expected, reason) => panic!("{claims}: {expected:?}, but {reason:?}"),
        }
    }
}

#[test]
fn a_claim_that_is_needed_and_missing_is_forbidden() {
    let host = host(config(|it| {
        it["require"] = json!({"scope": ["land", "dock"]})
    }));
    for (scope, allowed) in [
        (json!("fly land"), true),
        (json!(["fly", "dock"]), true),
        (json!("fly landing"), false),
        (json!(null), false),
        (json!(7), false),
    ] {
        let mut claims = claims();
        claims["scope"] = scope.clone();
        let status = ask(&host, with(&token(&claims))).map(|it| it.0);
        assert_eq!(status, (!allowed).then_some(403), "{scope}");
    }
}

#[test]
fn only_a_scope_is_cut_into_words() {
    let host = host(config(|it| {
        it["require"] = json!({"role": ["admin", "not admin"], "scp": ["land"]})
    }));
    for (role, scp, allowed) in [
        (json!("admin"), "fly land", true),
        (json!("not admin"), "land", true),
        (json!(["admin"]), "land", true),
        (json!("my admin"), "land", false),
        (json!("admin x"), "land", false),
        (json!("admin"), "landing", false),
    ] {
        let mut claims = claims();
        claims["role"] = role.clone();
        claims["scp"] = scp.into();
        let status = ask(&host, with(&token(&claims))).map(|it| it.0);
        assert_eq!(status, (!allowed).then_some(403), "{role} {scp}");
    }
}

#[test]
fn claims_are_sent_on_and_cannot_be_forged() {
    let host = host(config(|it| {
        it["forward"] = json!({"sub": "x-user", "roles": "x-roles", "evil": "x-evil"});
        it["optional"] = true.into();
        it["from"] = json!({"strip": true});
    }));
    let mut claims = claims();
    claims["roles"] = json!(["pilot", 7]);
    claims["evil"] = "a\r\nx-user: root".into();
    let exchange = host.send(
        with(&token(&claims))
            .header("x-user", "root")
            .header("x-evil", "1"),
    );
    assert_eq!(answer(&exchange), None);
    let request = exchange.request();
    assert_eq!(request.header_values("x-user"), ["ada"]);
    assert_eq!(request.header("x-roles").as_deref(), Some("pilot,7"));
    assert_eq!(request.header("x-evil"), None);
    assert_eq!(request.header("authorization"), None);
    assert_eq!(
        exchange.span_attribute("enduser.id").as_deref(),
        Some("ada")
    );

    let without = host.send(TestRequest::get("/").header("x-user", "root"));
    assert_eq!(answer(&without), None);
    assert_eq!(without.request().header("x-user"), None);
    let bad = host.send(with("abc"));
    assert_eq!(
        answer(&bad).map(|it| it.0),
        Some(401),
        "a token that is there is checked"
    );
}

#[test]
fn some_paths_need_no_token() {
    let host = host(config(|it| it["except"] = json!(["/health", "/public/"])));
    for (path, free) in [
        ("/health", true),
        ("/health?full=1", true),
        ("/health/live", true),
        ("/healthy", false),
        ("/public", true),
        ("/public/a", true),
        ("/", false),
    ] {
        let status = ask(&host, TestRequest::get(path)).map(|it| it.0);
        assert_eq!(status, (!free).then_some(401), "{path}");
    }
}

#[test]
fn outcomes_are_counted() {
    let host = host(config(|_| {}));
    let token = token(&claims());
    for token in [token.as_str(), token.as_str(), "abc"] {
        let _ = ask(&host, with(token));
    }
    let count = |outcome| host.metric("tokens", &[("outcome", outcome)]);
    assert!((count("accepted") - 2.0).abs() < f64::EPSILON);
    assert!((count("rejected") - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_wrong_configuration_names_the_field() {
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change, &str); 15] = [
        (
            &|it| it["keys"] = json!({"inline": {"keys": []}}),
            "keys.inline: it has no key",
        ),
        (
            &|it| it["keys"] = json!({"inline": 1}),
            "keys.inline: it is no JSON Web Key Set",
        ),
        (
            &|it| it["keys"]["inline"]["keys"][0]["n"] = "AQAB".into(),
            "keys.inline: its key 0: it is no RSA key of 2048 to 4096 bits",
        ),
        (
            &|it| it["keys"]["inline"]["keys"][1]["y"] = "AQAB".into(),
            "keys.inline: its key 1: x and y are no point",
        ),
        (
            &|it| it["keys"] = json!({"service": {}}),
            "keys.service: missing field",
        ),
        (
            &|it| it["keys"] = json!({"service": {"service": "a:80", "path": "keys"}}),
            "keys.service.path: ",
        ),
        (
            &|it| it["require"] = json!({"scope": []}),
            "require.scope: ",
        ),
        (&|it| it["except"] = json!(["health"]), "except[0]: "),
        (
            &|it| it["forward"] = json!({"sub": "Authorization"}),
            "forward.sub: ",
        ),
        (
            &|it| it["forward"] = json!({"sub": "x user"}),
            "forward.sub: \"x user\" is no name",
        ),
        (
            &|it| it["forward"] = json!({"sub": "Host"}),
            "forward.sub: host frames",
        ),
        (
            &|it| it["from"] = json!({"header": "te", "strip": true}),
            "from.header: ",
        ),
        (
            &|it| it["forward"] = json!({"sub": "x-request-id"}),
            "forward.sub: x-request-id is the proxy's own",
        ),
        (
            &|it| it["from"] = json!({"header": "x token"}),
            "from.header: ",
        ),
        (
            &|it| it["from"] = json!({"header": "x-request-id", "strip": true}),
            "from.header: ",
        ),
    ];
    for (change, named) in cases {
        let err = TestHost::<JwtAuth>::new(config(change))
            .err()
            .expect("it is refused");
        assert!(err.starts_with(named), "{err}");
    }
}
