//! The changes, on a list of headers in place of a host.

use filter_proxy_headers::Config;
use filter_proxy_headers::Headers;

#[derive(Default)]
struct List(Vec<(String, Vec<u8>)>);

impl List {
    fn of(pairs: &[(&str, &str)]) -> Self {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
        Self(pairs.iter().map(pair).collect())
    }

    fn shown(&self) -> Vec<String> {
        let line = |(name, value): &(String, Vec<u8>)| {
            format!("{name}: {}", String::from_utf8_lossy(value))
        };
        self.0.iter().map(line).collect()
    }
}

impl Headers for List {
    fn values(&self, name: &str) -> Vec<Vec<u8>> {
        let found = self.0.iter().filter(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).collect()
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), value.to_vec()));
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| key != name);
    }
}

#[test]
fn changes_are_made_in_order() {
    let config = Config::read(
        br#"{"request": {
            "rename": {"X-Old": "X-New"},
            "remove": ["Cookie"],
            "set": {"X-Env": "prod"},
            "add": {"via": "weft"}
        }}"#,
    )
    .expect("it is good");
    let mut headers = List::of(&[
        ("x-old", "1"),
        ("cookie", "a=b"),
        ("x-env", "dev"),
        ("via", "edge"),
    ]);
    config.request.apply(&mut headers);
    assert_eq!(
        headers.shown(),
        ["via: edge", "x-new: 1", "x-env: prod", "via: weft"]
    );
    let mut untouched = List::of(&[("cookie", "a=b")]);
    config.response.apply(&mut untouched);
    assert_eq!(untouched.shown(), ["cookie: a=b"]);
}

#[test]
fn nothing_is_an_empty_configuration() {
    assert_eq!(Config::read(b" \n"), Ok(Config::default()));
    assert_eq!(Config::read(b"{}"), Ok(Config::default()));
}

#[test]
fn a_wrong_configuration_says_why() {
    for (json, named) in [
        (&br#"{"request": {"sett": {}}}"#[..], "sett"),
        (br#"{"request": {"set": {"x-a": 1}}}"#, "string"),
        (
            br#"{"response": {"add": {"X-A": "a\r\nb: c"}}}"#,
            "response.add.x-a: a header's value",
        ),
        (
            br#"{"request": {"set": {"x a": "1"}}}"#,
            "request.set.x a: \"x a\" is no name",
        ),
        (
            br#"{"request": {"rename": {"x-a": ""}}}"#,
            "request.rename.x-a: ",
        ),
        (
            br#"{"response": {"remove": ["a", "b:"]}}"#,
            "response.remove[1]: ",
        ),
        (b"{", "EOF"),
    ] {
        let err = Config::read(json).expect_err("it is refused");
        assert!(err.contains(named), "{err}");
    }
}
