use serde_json::json;

use super::*;

fn one(text: &str) -> Value {
    let mut all = documents(text).expect(text);
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

#[test]
fn scalars_as_kubectl_reads_them() {
    for (text, value) in [
        ("80", json!(80)),
        ("\"80\"", json!("80")),
        ("'yes'", json!("yes")),
        ("yes", json!(true)),
        ("off", json!(false)),
        ("True", json!(true)),
        ("0777", json!(511)),
        ("0o777", json!(511)),
        ("0x1F", json!(31)),
        ("1_000", json!(1000)),
        ("1e3", json!(1000)),
        ("-1.5", json!(-1.5)),
        (".5", json!(0.5)),
        ("18446744073709551615", json!(u64::MAX)),
        ("~", Value::Null),
        ("2001-12-14", json!("2001-12-14")),
        ("10.96.0.1", json!("10.96.0.1")),
        ("25%", json!("25%")),
        ("0891", json!(891)),
        ("1.2.3", json!("1.2.3")),
        ("+", json!("+")),
        (".", json!(".")),
        ("1.", json!(1)),
        ("y", json!(true)),
        ("-0x10", json!(-16)),
        ("0b11", json!(3)),
        ("0o8", json!("0o8")),
        ("1:30", json!("1:30")),
        ("1e25", json!(1e25)),
        ("1e-7", json!(1e-7)),
        ("=", json!("=")),
        ("9007199254740993", json!(9_007_199_254_740_993_u64)),
        ("e3", json!("e3")),
        ("0x", json!("0x")),
        ("!!str 80", json!("80")),
        ("!!binary aGk=", json!("hi")),
        ("org=empire", json!("org=empire")),
    ] {
        assert_eq!(one(&format!("a: {text}"))["a"], value, "{text}");
    }
    assert_eq!(one("a:"), json!({ "a": null }));
    for bad in ["a: !!int x", "a: .inf", "a: -.NaN", "a: !!binary _", "~: a"] {
        assert!(documents(bad).is_err(), "{bad}");
    }
}

#[test]
fn documents_lists_and_keys() {
    let text = "# first\n---\na: 1\n---\n---\n# nothing\n---\napiVersion: v1\nkind: List\nitems:\n- b: 2\n- c: 3\n...\n";
    assert_eq!(
        documents(text).expect("reads"),
        [json!({"a": 1}), json!({"b": 2}), json!({"c": 3})]
    );
    assert_eq!(
        one("80: a\ntrue: b\n\"x y\": c"),
        json!({"80": "a", "true": "b", "x y": "c"})
    );
    let text = "z: 1\nw:\n  x: [a, {w: b}]\n  v: |\n    line\n";
    assert_eq!(
        one(text).to_string(),
        r#"{"z":1,"w":{"x":["a",{"w":"b"}],"v":"line\n"}}"#
    );
}

#[test]
fn anchors_and_merges() {
    let text = "base: &b {a: 1, c: 2}\nuse:\n  <<: *b\n  c: 3\nsame: *b";
    assert_eq!(
        one(text),
        json!({"base": {"a": 1, "c": 2}, "use": {"c": 3, "a": 1}, "same": {"a": 1, "c": 2}})
    );
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..9 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(",");
        bomb.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    assert!(documents(&bomb).is_err());
}

#[test]
fn mistakes_are_told_with_their_line() {
    let error = documents("a: 1\nb: 2\na: 3\n").expect_err("twice the same key");
    assert_eq!(error.to_string(), "line 3: key \"a\" already set in map");
    assert!(documents("a: [1").is_err());
    assert!(documents("a: b: c").is_err());
    assert!(documents("? [a]\n: b").is_err());
}
