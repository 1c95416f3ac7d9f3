use super::*;

#[test]
fn modules_are_where_their_url_says() {
    let module = |url: &str, sha256: &str| {
        accepted(json!({ "module": { "url": url, "sha256": sha256 } })).module
    };
    assert_eq!(
        module("file://team/jwt-1.0.wasm", "").location,
        Location::File("team/jwt-1.0.wasm".to_owned())
    );
    assert_eq!(
        module("configmap://filters/jwt.wasm", "")
            .location
            .to_string(),
        "configmap://shop/filters/jwt.wasm"
    );
    for (url, registry, repository, tag, digest) in [
        (
            "oci://registry.example:5000/filters/jwt:1.0",
            "registry.example:5000",
            "filters/jwt",
            Some("1.0"),
            false,
        ),
        (
            &format!("oci://localhost/jwt@sha256:{DIGEST}"),
            "localhost",
            "jwt",
            None,
            true,
        ),
        (
            &format!("oci://docker.io/jwt:1@sha256:{DIGEST}"),
            "docker.io",
            "library/jwt",
            Some("1"),
            true,
        ),
        ("oci://empire/jwt", "docker.io", "empire/jwt", None, false),
    ] {
        let Location::Oci(reference) = module(url, DIGEST).location else {
            panic!("{url}")
        };
        assert_eq!(
            (&*reference.registry, &*reference.repository),
            (registry, repository)
        );
        assert_eq!(reference.tag.as_deref(), tag);
        assert_eq!(reference.digest.is_some(), digest);
    }
}

#[test]
fn urls_that_lead_elsewhere_are_refused() {
    for (url, told) in [
        ("", "spec.module.url: is required"),
        ("jwt.wasm", "spec.module.url: must begin with file://"),
        (
            "file:///opt/jwt.wasm",
            "spec.module.url: names a path of the node: write file://NAME",
        ),
        (
            "file://../jwt.wasm",
            "spec.module.url: is no name of a file",
        ),
        (
            "file://a/../../jwt.wasm",
            "spec.module.url: is no name of a file",
        ),
        ("file://a//b", "spec.module.url: is no name of a file"),
        ("file://", "spec.module.url: is no name of a file"),
        ("file://a%2e%2e/b", "spec.module.url: is no name of a file"),
        (
            "configmap://bank/filters/jwt.wasm",
            "spec.module.url: names a namespace",
        ),
        (
            "configmap://filters",
            "spec.module.url: must be configmap://NAME/KEY",
        ),
        (
            "configmap://Filters/a",
            "spec.module.url: `Filters` is no name",
        ),
        (
            "configmap://filters/a b",
            "spec.module.url: `a b` is no key",
        ),
        ("http://example.com/a", "spec.module.url: is http://"),
        (
            "https://user:secret@example.com/a",
            "spec.module.url: must not have a user",
        ),
        (
            "https://example.com/a#b",
            "spec.module.url: must not have a fragment",
        ),
        ("https://exa mple.com/", "spec.module.url: is no URL"),
        ("https://example.com/a", "spec.module.sha256: is required"),
        (
            "oci://example.com/a:1",
            "spec.module.sha256: is required: what is fetched",
        ),
        (
            "oci://example.com/A:1",
            "spec.module.url: `A` is no repository",
        ),
        (
            "oci://example.com/../a:1",
            "spec.module.url: `../a` is no repository",
        ),
        ("oci://example.com/a:-1", "spec.module.url: `-1` is no tag"),
        (
            "oci://example.com/a@sha256:00",
            "spec.module.url: must end in @sha256:",
        ),
        ("oci://user@example.com/a", "spec.module.url: must end in"),
        ("ftp://example.com/a", "spec.module.url: must begin with"),
    ] {
        let error = error(json!({ "module": { "url": url } }));
        assert!(error.starts_with(told), "{url}: {error}");
    }
    let long = format!("https://example.com/{}", "a".repeat(3000));
    let error_ = error(json!({ "module": { "url": long } }));
    assert!(error_.contains("more than 2048 bytes"), "{error_}");
    let error_ = error(json!({ "module": { "url": "file://a", "sha256": "abc" } }));
    assert_eq!(
        error_,
        "spec.module.sha256: `abc` is not 64 hexadecimal digits"
    );
}

#[test]
fn a_secret_goes_with_a_registry() {
    let secret = |url: &str, secret: &str| json!({ "module": { "url": url, "sha256": DIGEST, "imagePullSecret": secret } });
    let oci = "oci://example.com/a:1";
    assert_eq!(
        accepted(secret(oci, "pull")).module.pull_secret,
        Some(("shop".to_owned(), "pull".to_owned()))
    );
    for (url, name, told) in [
        (oci, "bank/pull", "names a namespace"),
        (oci, "Pull", "`Pull` is no name of a Secret"),
        ("https://example.com/a", "pull", "goes with an oci://"),
    ] {
        let error = error(secret(url, name));
        assert!(error.contains(told), "{error}");
    }
    let wide = clusterwide(secret(oci, "vault/pull")).unwrap();
    assert_eq!(
        wide.module.pull_secret,
        Some(("vault".to_owned(), "pull".to_owned()))
    );
    let error = clusterwide(secret(oci, "pull")).unwrap_err().to_string();
    assert!(error.contains("must be NAMESPACE/NAME"), "{error}");
}
