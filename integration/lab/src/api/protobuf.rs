//! The protobuf that kubectl sends for `create namespace|configmap|secret|serviceaccount`
//! and `delete`: an envelope of type and bytes, and the few messages inside, with the
//! field numbers of Kubernetes' `generated.proto` files.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Value, json};

use super::status::ApiError;

/// What the envelope starts with.
const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    generate_name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "14")]
    finalizers: Vec<String>,
}

/// A Namespace or a ServiceAccount: nothing but metadata is ever sent of them.
#[derive(Clone, PartialEq, Message)]
struct Bare {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigMap {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, string", tag = "2")]
    data: BTreeMap<String, String>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    binary_data: BTreeMap<String, Vec<u8>>,
    #[prost(bool, optional, tag = "4")]
    immutable: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct Secret {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, bytes", tag = "2")]
    data: BTreeMap<String, Vec<u8>>,
    #[prost(string, tag = "3")]
    r#type: String,
    #[prost(btree_map = "string, string", tag = "4")]
    string_data: BTreeMap<String, String>,
    #[prost(bool, optional, tag = "5")]
    immutable: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct Preconditions {
    #[prost(string, optional, tag = "1")]
    uid: Option<String>,
    #[prost(string, optional, tag = "2")]
    resource_version: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct DeleteOptions {
    #[prost(int64, optional, tag = "1")]
    grace_period_seconds: Option<i64>,
    #[prost(message, optional, tag = "2")]
    preconditions: Option<Preconditions>,
    #[prost(bool, optional, tag = "3")]
    orphan_dependents: Option<bool>,
    #[prost(string, optional, tag = "4")]
    propagation_policy: Option<String>,
    #[prost(string, repeated, tag = "5")]
    dry_run: Vec<String>,
}

/// The object in an envelope, as JSON.
///
/// # Errors
/// 400 for bytes that are no envelope, 415 for kinds that are not known here.
pub fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let bytes = body
        .strip_prefix(MAGIC)
        .ok_or_else(|| ApiError::bad_request("the protobuf body lacks its k8s prefix"))?;
    let envelope = read::<Unknown>(bytes)?;
    let kind = envelope.type_meta.unwrap_or_default();
    let raw = envelope.raw.as_slice();
    let mut object = match (kind.api_version.as_str(), kind.kind.as_str()) {
        ("v1", "Namespace" | "ServiceAccount") => {
            json!({ "metadata": metadata(read::<Bare>(raw)?.metadata) })
        }
        ("v1", "ConfigMap") => config_map(read(raw)?),
        ("v1", "Secret") => secret(read(raw)?),
        (_, "DeleteOptions") => delete_options(read(raw)?),
        (version, kind) => {
            return Err(ApiError::unsupported_media_type(format!(
                "{version} {kind} is not read as protobuf here: send JSON (kubectl apply does)"
            )));
        }
    };
    object["apiVersion"] = json!(kind.api_version);
    object["kind"] = json!(kind.kind);
    Ok(object)
}

fn read<M: Message + Default>(bytes: &[u8]) -> Result<M, ApiError> {
    M::decode(bytes).map_err(|error| ApiError::bad_request(format!("protobuf: {error}")))
}

fn metadata(meta: Option<ObjectMeta>) -> Value {
    let meta = meta.unwrap_or_default();
    let mut out = json!({});
    for (key, text) in [
        ("name", meta.name),
        ("generateName", meta.generate_name),
        ("namespace", meta.namespace),
    ] {
        if !text.is_empty() {
            out[key] = json!(text);
        }
    }
    for (key, map) in [("labels", meta.labels), ("annotations", meta.annotations)] {
        if !map.is_empty() {
            out[key] = json!(map);
        }
    }
    if !meta.finalizers.is_empty() {
        out["finalizers"] = json!(meta.finalizers);
    }
    out
}

fn base64(map: BTreeMap<String, Vec<u8>>) -> Value {
    let encoded = map.into_iter().map(|(k, v)| (k, json!(STANDARD.encode(v))));
    Value::Object(encoded.collect())
}

fn config_map(map: ConfigMap) -> Value {
    let mut out = json!({ "metadata": metadata(map.metadata) });
    if !map.data.is_empty() {
        out["data"] = json!(map.data);
    }
    if !map.binary_data.is_empty() {
        out["binaryData"] = base64(map.binary_data);
    }
    if let Some(immutable) = map.immutable {
        out["immutable"] = json!(immutable);
    }
    out
}

fn secret(secret: Secret) -> Value {
    let mut out = json!({ "metadata": metadata(secret.metadata), "data": base64(secret.data) });
    if !secret.r#type.is_empty() {
        out["type"] = json!(secret.r#type);
    }
    if !secret.string_data.is_empty() {
        out["stringData"] = json!(secret.string_data);
    }
    if let Some(immutable) = secret.immutable {
        out["immutable"] = json!(immutable);
    }
    out
}

fn delete_options(options: DeleteOptions) -> Value {
    let mut out = json!({ "dryRun": options.dry_run });
    if let Some(grace) = options.grace_period_seconds {
        out["gracePeriodSeconds"] = json!(grace);
    }
    if let Some(policy) = options.propagation_policy {
        out["propagationPolicy"] = json!(policy);
    }
    if let Some(orphan) = options.orphan_dependents {
        out["orphanDependents"] = json!(orphan);
    }
    if let Some(conditions) = options.preconditions {
        out["preconditions"] =
            json!({ "uid": conditions.uid, "resourceVersion": conditions.resource_version });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(kind: &str, message: &impl Message) -> Vec<u8> {
        let unknown = Unknown {
            type_meta: Some(TypeMeta {
                api_version: "v1".to_owned(),
                kind: kind.to_owned(),
            }),
            raw: message.encode_to_vec(),
        };
        [MAGIC, &unknown.encode_to_vec()].concat()
    }

    #[test]
    fn envelopes() {
        let meta = ObjectMeta {
            name: "a".to_owned(),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            ..ObjectMeta::default()
        };
        let map = ConfigMap {
            metadata: Some(meta),
            data: [("x".to_owned(), "1".to_owned())].into(),
            ..ConfigMap::default()
        };
        assert_eq!(
            decode(&envelope("ConfigMap", &map)).expect("decodes"),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"k": "v"}}, "data": {"x": "1"}})
        );
        assert_eq!(
            decode(&envelope("Pod", &map)).expect_err("unknown").code,
            415
        );
        assert_eq!(decode(b"k8s\0\xff\xff").expect_err("broken").code, 400);
        assert_eq!(decode(b"{}").expect_err("no prefix").code, 400);
    }
}
