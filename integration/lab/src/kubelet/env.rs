//! A container's environment.

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use crate::api::Store;
use crate::state::StateDir;

/// Where programs are looked for behind the lab's own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables of whoever started the lab that the mesh's processes get too:
/// log filters, exporters.
const HANDED_ON: [&str; 3] = ["RUST_", "OTEL_", "WEFT_"];

/// A variable that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnvError {
    #[error(
        "variable {0}: its source is not provided here (fieldRef, configMapKeyRef and secretKeyRef are)"
    )]
    Source(String),
    #[error("variable {name}: no {what}")]
    Missing {
        /// Of the variable.
        name: String,
        /// What it refers to.
        what: String,
    },
}

/// The environment of a container in its pod, with the pod's address known.
pub(super) fn of(
    pod: &Pod,
    container: &Container,
    ip: &str,
    state: &StateDir,
    store: &Store,
) -> Result<Vec<(String, String)>, EnvError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut env = vec![
        (
            "PATH".to_owned(),
            format!("{}:{PATH}", state.programs().display()),
        ),
        ("HOME".to_owned(), "/root".to_owned()),
        ("HOSTNAME".to_owned(), name),
    ];
    if super::image::host_network(pod).is_some() {
        let handed_on = |name: &str| HANDED_ON.iter().any(|prefix| name.starts_with(prefix));
        env.extend(std::env::vars().filter(|(name, _)| handed_on(name)));
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => variable.value.clone().unwrap_or_default(),
            Some(source) => from(pod, &variable.name, source, ip, store)?,
        };
        env.retain(|(name, _)| *name != variable.name);
        env.push((variable.name.clone(), value));
    }
    Ok(env)
}

fn from(
    pod: &Pod,
    variable: &str,
    source: &EnvVarSource,
    ip: &str,
    store: &Store,
) -> Result<String, EnvError> {
    let missing = |what: String| EnvError::Missing {
        name: variable.to_owned(),
        what,
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(field) = &source.field_ref {
        return field_of(pod, &field.field_path, ip)
            .ok_or_else(|| missing(format!("field {}", field.field_path)));
    }
    if let Some(key) = &source.config_map_key_ref {
        let map = store.get::<k8s_openapi::api::core::v1::ConfigMap>(namespace, &key.name);
        let data = map.ok().and_then(|map| map.data?.remove(&key.key));
        return data.ok_or_else(|| missing(format!("key {} in configmap {}", key.key, key.name)));
    }
    if let Some(key) = &source.secret_key_ref {
        let secret = store.get::<k8s_openapi::api::core::v1::Secret>(namespace, &key.name);
        let data = secret.ok().and_then(|secret| secret.data?.remove(&key.key));
        let text = data.and_then(|bytes| String::from_utf8(bytes.0).ok());
        return text.ok_or_else(|| missing(format!("key {} in secret {}", key.key, key.name)));
    }
    Err(EnvError::Source(variable.to_owned()))
}

fn field_of(pod: &Pod, path: &str, ip: &str) -> Option<String> {
    let spec = pod.spec.as_ref();
    match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => spec?.service_account_name.clone(),
        "status.podIP" => Some(ip.to_owned()),
        _ => None,
    }
}
