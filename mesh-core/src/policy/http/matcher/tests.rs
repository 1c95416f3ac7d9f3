use http::HeaderMap;

use super::super::{HeaderMatch, Mismatch};
use super::*;

const EMPIRE: NumericIdentity = NumericIdentity(300);
const ALLIANCE: NumericIdentity = NumericIdentity(301);

fn reference(place: &str) -> RuleRef {
    RuleRef {
        kind: "CiliumNetworkPolicy".into(),
        namespace: "default".into(),
        name: "rule1".into(),
        rule: place.into(),
    }
}

fn peer_rule(http: Vec<HttpRule>) -> PeerRule {
    PeerRule {
        peers: PeerSet::Any,
        deny: false,
        http: http.into(),
        rule: Some(reference("ingress[0].toPorts[0]")),
    }
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn rule(method: &str, path: &str, host: &str) -> HttpRule {
    HttpRule {
        method: text(method),
        path: text(path),
        host: text(host),
        ..HttpRule::default()
    }
}

fn policy(rules: &[PeerRule]) -> PeerPolicy {
    Arc::new(Matcher::compile(rules).unwrap()).peer(EMPIRE)
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn request<'a>(method: &'a str, path: &'a str, headers: &'a HeaderMap) -> Request<'a> {
    Request {
        method,
        path,
        authority: "deathstar.default.svc.cluster.local",
        headers,
    }
}

/// Whether a path passes a policy of this one path pattern.
fn path_passes(pattern: &str, path: &str) -> bool {
    let policy = policy(&[peer_rule(vec![rule("", pattern, "")])]);
    policy.judge(&request("GET", path, &HeaderMap::new())).allow
}

#[test]
fn the_story() {
    let policy = policy(&[peer_rule(vec![rule("POST", "/v1/request-landing", "")])]);
    let none = HeaderMap::new();
    let landing = policy.judge(&request("POST", "/v1/request-landing", &none));
    assert!(landing.allow);
    assert_eq!(
        landing.rule.map(Arc::as_ref),
        Some(&reference("ingress[0].toPorts[0].rules.http[0]"))
    );
    let exhaust = policy.judge(&request("PUT", "/v1/exhaust-port", &none));
    assert!(!exhaust.allow);
    assert_eq!(exhaust.rule, None);
    for (method, path) in [
        ("POST", "/v1/request-landing?x=1"),
        ("POST", "/v1/request-landing/"),
        ("POST", "/v1/request-landin"),
        ("post", "/v1/request-landing"),
        ("POSTX", "/v1/request-landing"),
        ("PUT", "/v1/request-landing"),
    ] {
        assert!(
            !policy.judge(&request(method, path, &none)).allow,
            "{method} {path}"
        );
    }
}

#[test]
fn full_match_of_every_shape() {
    for (pattern, passing, failing) in [
        // A literal, a prefix, anything, and patterns that need the table.
        ("/a", "/a", "/ab"),
        (r"/a\.b", "/a.b", "/axb"),
        ("/a/.*", "/a/", "/a"),
        ("/a.*", "/abc/d?e", "/b"),
        ("/a|/b", "/b", "/a|/b"),
        ("/[0-9]+", "/123", "/123x"),
        ("^/x$", "/x", "/xx"),
        ("/v(1|2)/.+", "/v2/x", "/v2/"),
        ("(?i)/AbC", "/aBc", "/ab"),
        (r"/\d{2,3}", "/123", "/1234"),
        ("/a{b", "/a{b", "/ab"),
        (r"/\Q.*\E", "/.*", "/abc"),
    ] {
        assert!(path_passes(pattern, passing), "{pattern} {passing}");
        assert!(!path_passes(pattern, failing), "{pattern} {failing}");
    }
    assert!(path_passes(".*", "/anything?at=all"));
}

#[test]
fn classes_are_ascii_as_in_re2() {
    assert!(!path_passes(r"/\d", "/\u{0663}"));
    assert!(!path_passes(r"/\w", "/\u{e9}"));
    assert!(path_passes(r"/\W", "/\u{e9}"));
    assert!(path_passes(r"/\pL", "/\u{e9}"));
    assert!(path_passes("/.", "/\u{e9}"), "one character, not one byte");
}

#[test]
fn many_rules_name_the_one_that_passed() {
    for count in [1, 63, 64, 65, 700] {
        let rules: Vec<_> = (0..count)
            .map(|index| match index % 3 {
                0 => rule("GET", &format!("/literal/{index}"), ""),
                1 => rule("GET", &format!("/prefix{index}/.*"), ""),
                _ => rule("GET", &format!("/pattern/{index}/[a-z]+"), ""),
            })
            .collect();
        let policy = policy(&[peer_rule(rules)]);
        let none = HeaderMap::new();
        for index in [0, count / 2, count - 1] {
            let path = match index % 3 {
                0 => format!("/literal/{index}"),
                1 => format!("/prefix{index}/x"),
                _ => format!("/pattern/{index}/xyz"),
            };
            let verdict = policy.judge(&request("GET", &path, &none));
            let expected = reference(&format!("ingress[0].toPorts[0].rules.http[{index}]"));
            assert_eq!(verdict.rule.map(Arc::as_ref), Some(&expected), "{count}");
        }
        assert!(!policy.judge(&request("GET", "/other", &none)).allow);
    }
}

#[test]
fn a_pattern_too_large_for_a_table_still_matches() {
    // Determinised, this needs 2^20 states; it runs on states made as needed.
    let pattern = "/(a|b)*a(a|b){20}";
    let tail = "b".repeat(20);
    assert!(path_passes(pattern, &format!("/bba{tail}")));
    assert!(!path_passes(pattern, &format!("/bbb{tail}")));
    let mut rules = vec![rule("", pattern, ""), rule("", "/x[0-9]", "")];
    rules.push(rule("", "/(a|b)*b(a|b){19}", ""));
    let policy = policy(&[peer_rule(rules)]);
    let none = HeaderMap::new();
    for (path, index) in [
        (format!("/a{tail}"), 0),
        ("/x7".into(), 1),
        (format!("/{tail}"), 2),
    ] {
        let verdict = policy.judge(&request("GET", &path, &none));
        let expected = reference(&format!("ingress[0].toPorts[0].rules.http[{index}]"));
        assert_eq!(verdict.rule.map(Arc::as_ref), Some(&expected), "{path}");
    }
}

#[test]
fn peers_see_their_own_rules_only() {
    let of = |identity, rules| PeerRule {
        peers: PeerSet::These([identity].into()),
        ..peer_rule(rules)
    };
    let matcher = Arc::new(
        Matcher::compile(&[
            of(EMPIRE, vec![rule("GET", "/empire", "")]),
            of(ALLIANCE, vec![]),
        ])
        .unwrap(),
    );
    let none = HeaderMap::new();
    let judge = |identity, path| {
        matcher
            .peer(identity)
            .judge(&request("GET", path, &none))
            .allow
    };
    assert!(judge(EMPIRE, "/empire") && !judge(EMPIRE, "/x"));
    assert!(judge(ALLIANCE, "/x"));
    assert!(
        !judge(NumericIdentity::WORLD, "/empire"),
        "no rule holds this peer"
    );
}

#[test]
fn peers_may_come_in_any_order() {
    let all: Vec<_> = (0..9)
        .map(|number| NumericIdentity(number * 7 % 9 + 300))
        .collect();
    let rule = PeerRule {
        peers: PeerSet::These(all.as_slice().into()),
        ..peer_rule(vec![])
    };
    let matcher = Arc::new(Matcher::compile(&[rule]).unwrap());
    let none = HeaderMap::new();
    for identity in all {
        assert!(
            matcher
                .peer(identity)
                .judge(&request("GET", "/", &none))
                .allow
        );
    }
}

#[test]
fn deny_wins_and_is_named() {
    let deny = PeerRule {
        deny: true,
        rule: Some(reference("ingressDeny[0]")),
        ..peer_rule(vec![])
    };
    let policy = policy(&[peer_rule(vec![]), deny]);
    let verdict = policy
        .judge(&request("GET", "/", &HeaderMap::new()))
        .rule
        .cloned();
    assert_eq!(verdict.as_deref(), Some(&reference("ingressDeny[0]")));
    assert!(!policy.judge(&request("GET", "/", &HeaderMap::new())).allow);
}

#[test]
fn hosts_may_carry_a_port() {
    let policy = policy(&[peer_rule(vec![rule(
        "",
        "",
        r"api\.example\.com(:[0-9]+)?",
    )])]);
    let none = HeaderMap::new();
    let judge = |authority| {
        let request = Request {
            authority,
            ..request("GET", "/", &none)
        };
        policy.judge(&request).allow
    };
    assert!(judge("api.example.com") && judge("api.example.com:8080"));
    assert!(!judge("API.example.com") && !judge("api.example.com.") && !judge("apixexample.com"));
}

fn with_headers(specs: &[&str]) -> PeerPolicy {
    let headers = specs.iter().map(|spec| (*spec).to_owned()).collect();
    policy(&[peer_rule(vec![HttpRule {
        headers,
        ..HttpRule::default()
    }])])
}

#[test]
fn headers_are_exact_and_repeated_lines_are_one_value() {
    let admin = with_headers(&["X-Role: admin"]);
    let judge = |policy: &PeerPolicy, pairs: &[(&str, &str)]| {
        policy.judge(&request("GET", "/", &headers(pairs))).allow
    };
    assert!(judge(&admin, &[("x-role", "admin")]));
    for pairs in [
        &[("x-role", "user,admin")][..],
        &[("x-role", "user"), ("x-role", "admin")],
        &[("x-role", "admin"), ("x-role", "user")],
        &[("x-role", "admin"), ("x-role", "admin")],
        &[("x-role", "Admin")],
        &[("x-role", "")],
        &[],
    ] {
        assert!(!judge(&admin, pairs), "{pairs:?}");
    }
    let list = with_headers(&["X-Role: user,admin"]);
    assert!(judge(&list, &[("x-role", "user"), ("x-role", "admin")]));
    let present = with_headers(&["X-Token"]);
    assert!(judge(&present, &[("x-token", "anything")]) && judge(&present, &[("x-token", "")]));
    assert!(!judge(&present, &[]));
    let colon = with_headers(&["X-Url: http://x:1"]);
    assert!(judge(&colon, &[("x-url", "http://x:1")]));
}

fn with_match(value: &str, mismatch: Mismatch) -> PeerPolicy {
    let entry = HeaderMatch {
        name: "X-Key".into(),
        value: value.into(),
        mismatch,
    };
    policy(&[peer_rule(vec![HttpRule {
        header_matches: vec![entry],
        ..HttpRule::default()
    }])])
}

#[test]
fn mismatches_change_the_request_only_as_asked() {
    let cases: [(Mismatch, &[&str]); 5] = [
        (Mismatch::Fail, &["wrong"]),
        (Mismatch::Log, &["wrong"]),
        (Mismatch::Add, &["wrong", "right"]),
        (Mismatch::Delete, &[]),
        (Mismatch::Replace, &["right"]),
    ];
    for (mismatch, after) in cases {
        let policy = with_match("right", mismatch);
        let mut wrong = headers(&[("x-key", "wrong")]);
        let before = wrong.clone();
        let verdict = policy.judge(&request("GET", "/", &before));
        assert_eq!(verdict.allow, mismatch != Mismatch::Fail, "{mismatch:?}");
        let missing = verdict.missing(&before).count();
        assert_eq!(
            missing,
            usize::from(mismatch == Mismatch::Log),
            "{mismatch:?}"
        );
        verdict.apply(&mut wrong);
        let values: Vec<_> = wrong.get_all("x-key").iter().collect();
        assert_eq!(values, after, "{mismatch:?}");
        // A header that is right stays as it is.
        let mut right = headers(&[("x-key", "right")]);
        let same = right.clone();
        let verdict = policy.judge(&request("GET", "/", &same));
        assert!(verdict.allow && verdict.missing(&same).next().is_none());
        verdict.apply(&mut right);
        assert_eq!(right, same);
    }
}

#[test]
fn validation_refuses_what_would_hurt() {
    let error = |pattern: &str| rule("", pattern, "").validate().unwrap_err().to_string();
    assert!(
        error("/a(").contains("path: invalid regular expression"),
        "{}",
        error("/a(")
    );
    assert!(error("((a{100}){100}){100}").contains("too large"));
    assert!(error("((((a{50}){50}){50}){50})").contains("too large"));
    assert!(error(&"(".repeat(2000)).contains("path: "));
    assert!(error(&format!("{}a{}", "(".repeat(300), ")".repeat(300))).contains("path: "));
    assert!(error(&"a".repeat(5000)).contains("more than 4096"));
    assert!(error("(?=x)").contains("path: "));
    assert!(error(r"(a)\1").contains("back-reference"));
    assert!(error("a{1001}").contains("above 1000"));
    // Catastrophic for backtracking engines, harmless here.
    assert!(rule("", "(a+)+b", "").validate().is_ok());
    let long = format!("/{}c", "a".repeat(100_000));
    assert!(!path_passes("/(a+)+b", &long));
    let adds = HttpRule {
        header_matches: vec![HeaderMatch {
            name: "x".into(),
            value: String::new(),
            mismatch: Mismatch::Add,
        }],
        ..HttpRule::default()
    };
    assert!(
        adds.validate()
            .unwrap_err()
            .to_string()
            .contains("headerMatches[0].value")
    );
}
