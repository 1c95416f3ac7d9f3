//! What the API server asks. Of a review only what is looked at is built: what else it has
//! may be made to take a hundred times the memory of its text.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use weft_api::k8s::filter::{Filter, FilterKind};

/// Longest text of a `spec`, of which its `config` may have 256 KiB; see [`length`].
const MAX_SPEC: usize = 512 << 10;
/// Most fields of an object, beside those inside of others.
const MAX_FIELDS: usize = 64;

/// A review, read.
pub(super) struct Asked {
    pub(super) uid: String,
    /// Of whom.
    pub(super) about: About,
    /// Nothing of what is applied is written.
    pub(super) dry_run: bool,
    /// What it says.
    pub(super) object: Object,
}

/// Names an object in the log.
pub(super) struct About {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What is asked about.
pub(super) enum Object {
    /// Nothing that can be wrong: it says what it said before, or is none of ours.
    Same,
    /// It cannot be honoured: each field, and why.
    Wrong(String),
    /// A filter, whose configuration is still to be checked.
    Filter(Box<Filter>),
}

/// Reads a review. It takes a while, so not where others wait.
///
/// # Errors
/// Why it is none.
pub(super) fn read(body: &[u8]) -> Result<Asked, String> {
    let review: Review<'_> = serde_json::from_slice(body)
        .map_err(|error| format!("no AdmissionReview of a filter: {error}\n"))?;
    let request = review.request;
    let object = object(&request);
    Ok(Asked {
        uid: request.uid,
        dry_run: request.dry_run.unwrap_or_default(),
        about: About {
            kind: request.kind.kind,
            namespace: request.namespace.unwrap_or_default(),
            name: request.name.unwrap_or_default(),
        },
        object,
    })
}

fn object(request: &Request<'_>) -> Object {
    let kind = match FilterKind::from_name(&request.kind.kind) {
        Some(kind @ (FilterKind::WeftFilter | FilterKind::WeftClusterFilter)) => kind,
        // Istio's have no configuration whose form is known.
        Some(FilterKind::WasmPlugin) | None => return Object::Same,
    };
    let Some(fields) = &request.object else {
        return Object::Same;
    };
    let before = request.old_object.as_ref().map(|old| text(old.spec));
    let now = text(fields.spec);
    // An object that came to be wrong can still be annotated, and deleted.
    if before == Some(now) {
        return Object::Same;
    }
    let length = length(now);
    if length > MAX_SPEC {
        return Object::Wrong(format!("spec: has {length} bytes, more than {MAX_SPEC}"));
    }
    if fields.names.len() > MAX_FIELDS {
        return Object::Wrong(format!("the object has more than {MAX_FIELDS} fields"));
    }
    let spec: Value = match serde_json::from_str(now) {
        Ok(spec) => spec,
        Err(error) => return Object::Wrong(format!("spec: {error}")),
    };
    let meant = |before: &str| serde_json::from_str::<Value>(before).ok();
    let before = before.filter(|before| self::length(before) <= MAX_SPEC);
    if before.and_then(meant).is_some_and(|before| before == spec) {
        return Object::Same;
    }
    match weft_api::k8s::filter::read(kind, &fields.with(spec, request.namespace.as_deref())) {
        Ok(filter) => Object::Filter(Box::new(filter)),
        Err(errors) => Object::Wrong(errors.to_string()),
    }
}

/// Bytes of a JSON text, as long as we would write it: API servers write `<`, `>`, `&` and
/// a few more characters as six bytes each, which their users do not see.
fn length(text: &str) -> usize {
    let (mut rest, mut spared) = (text, 0);
    while let Some((_, escaped)) = rest.split_once('\\') {
        let code = escaped.strip_prefix('u').and_then(|code| code.get(..4));
        if let Some(code) = code.and_then(|code| u32::from_str_radix(code, 16).ok()) {
            spared += 6 - match code {
                0x08..=0x0a | 0x0c | 0x0d | 0x22 | 0x5c => 2,
                0..=0x1f => 6,
                0x20..=0x7f => 1,
                // Two of these are a character of four bytes.
                0x80..=0x7ff | 0xd800..=0xdfff => 2,
                _ => 3,
            };
        }
        // What is escaped may be a backslash.
        let mut after = escaped.chars();
        after.next();
        rest = after.as_str();
    }
    text.len() - spared
}

fn text(spec: Option<&RawValue>) -> &str {
    spec.map_or("null", RawValue::get)
}

#[derive(Deserialize)]
struct Review<'a> {
    #[serde(borrow)]
    request: Request<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: String,
    kind: Kind,
    name: Option<String>,
    namespace: Option<String>,
    dry_run: Option<bool>,
    #[serde(borrow)]
    object: Option<Fields<'a>>,
    #[serde(borrow)]
    old_object: Option<Old<'a>>,
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

#[derive(Deserialize)]
struct Old<'a> {
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
}

/// An object, with the names of all its fields and what is said in two of them.
#[derive(Default)]
struct Fields<'a> {
    names: Vec<String>,
    metadata: Metadata,
    spec: Option<&'a RawValue>,
}

impl Fields<'_> {
    /// The object as nodes read it, but for values at which nobody looks.
    fn with(&self, spec: Value, namespace: Option<&str>) -> Value {
        let names = self.names.iter().map(|name| (name.clone(), Value::Null));
        let mut object: Map<String, Value> = names.collect();
        let namespace = self.metadata.namespace.as_deref().or(namespace);
        let metadata = json!({"name": self.metadata.name, "namespace": namespace});
        object.insert("metadata".to_owned(), metadata);
        object.insert("spec".to_owned(), spec);
        Value::Object(object)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<String>()? {
            match &*name {
                "metadata" => {
                    let metadata: Option<Metadata> = map.next_value()?;
                    fields.metadata = metadata.unwrap_or_default();
                }
                "spec" => fields.spec = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            // One more says that there are too many.
            if fields.names.len() <= MAX_FIELDS {
                fields.names.push(name);
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(object: &str, old: &str) -> Object {
        let review = format!(
            r#"{{"request": {{"uid": "1", "kind": {{"kind": "WeftFilter"}}, "name": "rates",
                "namespace": "shop", "object": {object}, "oldObject": {old}}}}}"#
        );
        read(review.as_bytes()).expect("a review").object
    }

    fn wrong(object: Object) -> String {
        match object {
            Object::Wrong(why) => why,
            Object::Same => panic!("the same"),
            Object::Filter(filter) => panic!("{filter:?}"),
        }
    }

    const SPEC: &str = r#"{"selector": {}, "module": {"url": "file://a.wasm"}}"#;

    #[test]
    fn of_an_object_its_spec_is_read_and_all_its_fields_are_known() {
        let many = r#"{"":0},"#.repeat(10_000);
        let object = format!(
            r#"{{"metadata": {{"name": "rates", "labels": {{"a": "b"}}}}, "spec": {SPEC},
                "status": [{many} 1]}}"#
        );
        let Object::Filter(filter) = asked(&object, "null") else {
            panic!("it is right");
        };
        assert_eq!(filter.key.to_string(), "WeftFilter shop/rates");
        let object = format!(r#"{{"metadata": {{"name": "rates"}}, "Spec": 1, "spec": {SPEC}}}"#);
        let why = wrong(asked(&object, "null"));
        assert_eq!(why, "Spec: unknown field, did you mean spec");
        for without in ["{}", r#"{"spec": null}"#] {
            assert_eq!(wrong(asked(without, "null")), "spec: is required");
        }
        let fields = (0..1000).map(|number| format!(r#""f{number}": 0"#));
        let fields = fields.collect::<Vec<_>>().join(",");
        let why = wrong(asked(&format!(r#"{{"spec": {SPEC}, {fields}}}"#), "null"));
        assert_eq!(why, "the object has more than 64 fields");
    }

    #[test]
    fn what_is_too_long_to_be_read_is_refused_unless_it_was_there_before() {
        let long = format!(r#"{{"spec": {{"a": "{}"}}}}"#, "x".repeat(MAX_SPEC));
        let why = wrong(asked(&long, &format!(r#"{{"spec": {SPEC}}}"#)));
        assert!(why.starts_with("spec: has 5242"), "{why}");
        assert!(matches!(asked(&long, &long), Object::Same));
        let short = wrong(asked(r#"{"spec": {"a": 1}}"#, &long));
        assert!(short.contains("spec.a: unknown field"), "{short}");
    }

    #[test]
    fn what_api_servers_escape_does_not_count() {
        let with = |config: &str| {
            format!(
                r#"{{"spec": {{"selector": {{}}, "module": {{"url": "file://a.wasm"}},
                    "config": {{"a": "{config}"}}}}}}"#
            )
        };
        let escaped = with(&r"\u003c".repeat(100_000));
        let Object::Filter(filter) = asked(&escaped, "null") else {
            panic!("it is right");
        };
        assert_eq!(filter.config.len(), r#"{"a":""}"#.len() + 100_000);
        // The old one is read all the same.
        let spaced = escaped.replace(r#""config": "#, r#""config":"#);
        assert!(matches!(asked(&spaced, &escaped), Object::Same));
        // It has a limit, and its user is told which.
        let why = wrong(asked(&with(&r"\u003c".repeat(300_000)), "null"));
        assert!(why.starts_with("spec.config: has 300008 bytes"), "{why}");
        let why = wrong(asked(&with(&r"\\u003c".repeat(100_000)), "null"));
        assert!(why.starts_with("spec: has 7000"), "{why}");
    }

    #[test]
    fn a_text_is_as_long_as_it_is_written() {
        for text in [
            "<&>",
            "a\u{2028}\u{2029}",
            "\"\\",
            "\u{8}\t\n\u{c}\r\u{1}\u{7f}",
            "\u{e4}\u{1f600}",
            "\\u003c",
        ] {
            let written = Value::from(text).to_string();
            let units = text.encode_utf16().map(|unit| format!(r"\u{unit:04x}"));
            let escaped = format!("\"{}\"", units.collect::<String>());
            assert_eq!(serde_json::from_str::<Value>(&escaped).expect("JSON"), text);
            assert_eq!(length(&escaped), written.len(), "{escaped}");
            assert_eq!(length(&written), written.len(), "{written}");
        }
    }

    #[test]
    fn a_spec_that_means_the_same_is_the_same() {
        let (one, other) = (
            r#"{"spec": {"a": 1, "b": 2}}"#,
            r#"{"spec": {"b":2,"a":1}}"#,
        );
        assert!(matches!(asked(one, other), Object::Same));
        assert!(matches!(asked("null", one), Object::Same));
    }

    #[test]
    fn what_is_no_review_is_said_to_be_none() {
        for text in ["", "[]", "{}", r#"{"request": {"uid": 1}}"#] {
            let why = read(text.as_bytes()).err().expect("it is none");
            assert!(why.starts_with("no AdmissionReview"), "{why}");
        }
    }
}
