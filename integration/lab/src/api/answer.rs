//! Objects out: in the version and the form that the client asked for.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::object;
use super::request::Form;
use super::resource::ResourceType;
use super::table::{self, Include};

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
