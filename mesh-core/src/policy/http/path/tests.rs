use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

fn target(path: &str) -> String {
    normalize(path).unwrap().target.into_owned()
}

#[test]
fn normal_paths_are_borrowed() {
    for path in [
        "/",
        "/v1/request-landing",
        "/a/b/?x=//&y=/../%zz",
        "/package.Service/Method",
        "/admin;x",
        "*",
    ] {
        let normalized = normalize(path).unwrap();
        assert!(matches!(normalized.target, Cow::Borrowed(_)), "{path}");
        assert_eq!(normalized.target, path);
        assert!(!normalized.redirect);
    }
    // Looked at closely and found normal.
    for path in ["/.well-known/x", "/..a/...", "/%C3%A9", "/%25"] {
        let normalized = normalize(path).unwrap();
        assert!(matches!(normalized.target, Cow::Borrowed(_)), "{path}");
        assert_eq!(normalized.target, path);
    }
}

#[test]
fn every_spelling_of_admin_is_admin() {
    for path in [
        "//admin",
        "/./admin",
        "/x/../admin",
        "/x/y/../../admin",
        "/../admin",
        "/%61dmin",
        "/%2e/admin",
        "/x/%2E%2e/admin",
        "\\admin",
        "/\\admin",
        "/x/..;v=1/admin",
        "/.;/admin",
        "/admin#frag",
        "///.//admin",
    ] {
        assert_eq!(target(path), "/admin", "{path}");
        assert!(!normalize(path).unwrap().redirect, "{path}");
    }
}

#[test]
fn escaped_slashes_are_redirected() {
    for path in [
        "/%2fadmin",
        "/a/..%2fadmin",
        "/%5cadmin",
        "/a/%2e%2e%5Cadmin",
    ] {
        let normalized = normalize(path).unwrap();
        assert_eq!(normalized.target, "/admin", "{path}");
        assert!(normalized.redirect, "{path}");
    }
    // An escaped slash in the query is the query's business.
    assert!(!normalize("/a?next=%2fb").unwrap().redirect);
}

#[test]
fn decoded_once_only() {
    assert_eq!(target("/%2561dmin"), "/%2561dmin");
    assert_eq!(target("/%252fadmin"), "/%252fadmin");
    assert_eq!(target("/%252e%252e/admin"), "/%252e%252e/admin");
}

#[test]
fn refused() {
    assert_eq!(normalize("/a%00"), Err(NormalizeError::Nul));
    assert_eq!(normalize("/a%0"), Err(NormalizeError::BadEscape));
    assert_eq!(normalize("/a%zz"), Err(NormalizeError::BadEscape));
    assert_eq!(normalize("/a%"), Err(NormalizeError::BadEscape));
    assert_eq!(normalize("admin"), Err(NormalizeError::NotAbsolute));
    assert_eq!(normalize(""), Err(NormalizeError::NotAbsolute));
    assert_eq!(normalize("/a b"), Err(NormalizeError::BadCharacter));
    assert_eq!(normalize("/a\u{1}"), Err(NormalizeError::BadCharacter));
}

#[test]
fn edges() {
    assert_eq!(target("/a/."), "/a/");
    assert_eq!(target("/a/.."), "/");
    assert_eq!(target("/.."), "/");
    assert_eq!(target("/a//"), "/a/");
    assert_eq!(target("?x=1"), "/?x=1");
    assert_eq!(target("/caf\u{e9}"), "/caf%C3%A9");
    assert_eq!(target("/%c3%a9"), "/%C3%A9");
    assert_eq!(target("//a?b#c"), "/a?b");
    assert_eq!(target("/a?b#c?d"), "/a?b");
}

proptest! {
    /// What was judged is a fixed point: judging it again finds the same.
    #[test]
    fn idempotent(path in r"[/\\](\.|%2e|%2F|%5c|%25|/|\\|;|a|%61|\?|#|é){0,12}") {
        if let Ok(once) = normalize(&path) {
            let twice = normalize(&once.target).unwrap();
            prop_assert_eq!(&twice.target, &once.target);
            prop_assert!(!twice.redirect);
        }
    }

    /// No dot segment, double slash or backslash is left in a path.
    #[test]
    fn nothing_ambiguous_is_left(path in r"/(\.|%2e|%2F|%5c|/|\\|a|;){0,12}") {
        let normalized = normalize(&path).unwrap();
        let target = &*normalized.target;
        prop_assert!(!target.contains("//") && !target.contains('\\'));
        for segment in target.split('/') {
            let name = segment.split(';').next().unwrap();
            prop_assert!(name != "." && name != "..", "{}", target);
        }
    }
}
