//! Objects out: in the version and the form that the client asked for.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use super::object;
use super::request::Form;
use super::resource::ResourceType;
use super::table::{self, Include};

/// Characters of one warning, and of all warnings of an answer, as Kubernetes bounds them.
const WARNING: usize = 256;
const ALL_WARNINGS: usize = 4096;

/// Adds `Warning` headers, which kubectl prints; each text once. Long ones are cut only
/// where all together are too long.
pub(super) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let length = |text: &str| text.chars().count();
    let total: usize = warnings.iter().map(|w| length(w)).sum();
    let most = if total > ALL_WARNINGS {
        WARNING
    } else {
        usize::MAX
    };
    let mut room = ALL_WARNINGS;
    for (i, warning) in warnings.iter().enumerate() {
        if warnings.iter().take(i).any(|earlier| earlier == warning) {
            continue;
        }
        let text: String = warning.chars().take(most).collect();
        let Some(rest) = room.checked_sub(length(&text)) else {
            return;
        };
        room = rest;
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - {}", quoted(&text)).as_bytes()) {
            headers.append("Warning", value);
        }
    }
}

/// A quoted string of HTTP: no line ends in it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// How a client sees a resource.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// The resource.
    pub info: Arc<ResourceType>,
    /// The version in the path.
    pub version: String,
    /// Objects, tables or metadata.
    pub form: Form,
}

impl View {
    /// The object in the client's version.
    fn versioned<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        let wanted = self.info.api_version(&self.version);
        if object["apiVersion"] == wanted {
            return Cow::Borrowed(object);
        }
        let mut copy = object.clone();
        copy["apiVersion"] = json!(wanted);
        Cow::Owned(copy)
    }

    /// One object.
    pub fn one(&self, object: &Value) -> Value {
        let object = self.versioned(object);
        match self.form {
            Form::Objects => object.into_owned(),
            Form::Partial => table::partial(&object),
            Form::Table(include) => {
                let metadata =
                    json!({ "resourceVersion": object::meta(&object, "resourceVersion") });
                self.table(include, std::iter::once(&*object), metadata)
            }
        }
    }

    /// A list; `metadata` has its version and, with paging, where to go on.
    pub fn many(&self, objects: &[Arc<Value>], metadata: Value) -> Value {
        let items = objects.iter().map(|o| self.versioned(o));
        match self.form {
            Form::Table(include) => {
                let items: Vec<Cow<'_, Value>> = items.collect();
                self.table(include, items.iter().map(|i| &**i), metadata)
            }
            Form::Objects => json!({
                "kind": self.info.list_kind, "apiVersion": self.info.api_version(&self.version),
                "metadata": metadata, "items": items.collect::<Vec<_>>(),
            }),
            Form::Partial => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items.map(|i| table::partial(&i)).collect::<Vec<_>>(),
            }),
        }
    }

    /// What a bookmark carries.
    pub fn bookmark(&self, revision: u64, annotations: Value) -> Value {
        let mut metadata =
            json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if !annotations.is_null() {
            metadata["annotations"] = annotations;
        }
        match self.form {
            Form::Table(include) => {
                let mut object = self.empty(metadata.clone());
                object["metadata"]["name"] = json!("");
                self.table(include, std::iter::once(&object), metadata)
            }
            Form::Partial => table::partial(&self.empty(metadata)),
            Form::Objects => self.empty(metadata),
        }
    }

    fn empty(&self, metadata: Value) -> Value {
        json!({
            "kind": self.info.kind, "apiVersion": self.info.api_version(&self.version), "metadata": metadata,
        })
    }

    fn table<'a>(
        &self,
        include: Include,
        objects: impl Iterator<Item = &'a Value>,
        metadata: Value,
    ) -> Value {
        table::table(&self.info, &self.version, objects, include, metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(texts: &[String]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        warn(&mut headers, texts);
        let all = headers.get_all("warning").iter();
        all.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect()
    }

    #[test]
    fn warnings_are_one_line_each() {
        let texts = ["a \"b\"", "é\nc\\", "a \"b\""].map(str::to_owned);
        assert_eq!(warnings(&texts), [r#"299 - "a \"b\"""#, r#"299 - "é c\\""#]);
    }

    #[test]
    fn warnings_are_bounded() {
        let long = vec!["x".repeat(4096)];
        assert_eq!(warnings(&long)[0].len(), 4096 + "299 - ".len() + 2);
        let many: Vec<String> = (0..100)
            .map(|i| format!("{i}{}", "x".repeat(300)))
            .collect();
        let shown = warnings(&many);
        assert_eq!(shown.len(), 16);
        assert!(shown.iter().all(|w| w.len() == 256 + "299 - ".len() + 2));
    }
}
