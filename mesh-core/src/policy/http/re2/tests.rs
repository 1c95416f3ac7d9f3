use super::*;

fn pattern(text: &str) -> String {
    translate(text).unwrap().pattern
}

fn refused(text: &str) -> String {
    translate(text).unwrap_err()
}

#[test]
fn shapes() {
    let shape = |text: &str| translate(text).unwrap().shape;
    assert_eq!(shape("/v1/x"), Shape::Literal("/v1/x".into()));
    assert_eq!(shape(r"a\.b\x2f\Q.*\E"), Shape::Literal("a.b/.*".into()));
    assert_eq!(shape("/v1/.*"), Shape::Prefix("/v1/".into()));
    assert_eq!(shape(".*"), Shape::Prefix(String::new()));
    assert_eq!(shape(r"/a\\.*"), Shape::Prefix(r"/a\".into()));
    for general in [r"/a\.*", "/a|b.*", "a+", "[a]", "^a", "a.*b", "(a)"] {
        assert_eq!(shape(general), Shape::General, "{general}");
    }
}

#[test]
fn classes_hold_plain_characters() {
    assert_eq!(pattern("[[a]"), r"[\[a]");
    assert_eq!(pattern("[a&&b]"), r"[a\&\&b]");
    assert_eq!(pattern("[a~~b]"), r"[a\~\~b]");
    assert_eq!(pattern("[+--b]"), r"[\+-\-b]");
    assert_eq!(pattern("[]a]"), r"[\]a]");
    assert_eq!(pattern("[^]a]"), r"[^\]a]");
    assert_eq!(pattern("[a-]"), r"[a\-]");
    assert_eq!(pattern("[[:alpha:]_]"), "[[:alpha:]_]");
    assert_eq!(pattern("[[:a]"), r"[\[\:a]");
    assert_eq!(pattern(r"[\d-]"), r"[0-9\-]");
    assert_eq!(pattern(r"[^\D]"), "[^[^0-9]]");
}

#[test]
fn escapes() {
    assert_eq!(pattern(r"\<\>"), "<>");
    assert_eq!(pattern(r"\d\W"), "[0-9][^0-9A-Za-z_]");
    assert_eq!(pattern(r"\101\x41\x{41}"), "AAA");
    assert_eq!(pattern(r"\p{Greek}\PN"), r"\p{Greek}\PN");
    for bad in [
        r"\",
        r"\y",
        r"\1",
        r"\C",
        r"\x4",
        r"\x{}",
        r"\x{110000}",
        r"[\b]",
        r"[\Q]",
        "[a--b]",
    ] {
        refused(bad);
    }
}

#[test]
fn repetitions() {
    assert_eq!(pattern("a{2,3}?b{4}c{5,}"), "a{2,3}?b{4}c{5,}");
    assert_eq!(pattern("a{,3}"), r"a\{\,3\}");
    assert_eq!(pattern("a{"), r"a\{");
    for bad in [
        "a**",
        "a+?+",
        "a{2}{3}",
        "a*{2}",
        "a{1001}",
        "a{1,1001}",
        &format!("a{{{}}}", "1".repeat(99)),
    ] {
        refused(bad);
    }
}

#[test]
fn groups() {
    for good in ["(?:a)", "(?i)a", "(?i-s:a)", "(?P<x>a)", "(?<x>a)"] {
        assert_eq!(pattern(good), good);
    }
    for bad in ["(?=a)", "(?<!a)", "(?x) a", "(?u:a)", "(?"] {
        assert!(
            translate(bad).is_err() || super::super::automaton::cost(bad).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn what_is_translated_compiles() {
    for text in [
        "[+--]",
        "[!-~]",
        "[[-]]",
        "[a-c-e]",
        r"[\]-a]",
        "a]b}",
        "/~user/.*",
    ] {
        super::super::automaton::cost(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}
