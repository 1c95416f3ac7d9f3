//! Finding what a command is about.

use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::header::{ACCEPT, HeaderName};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::client::Server;
use crate::state::{ContainerRecord, LabInfo, PodRecord, StateDir};

/// How long the API may take for one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What the lab is.
///
/// # Errors
/// When it is not up.
pub(super) fn info(lab: &str) -> anyhow::Result<LabInfo> {
    let info = StateDir::of(lab).read_info();
    info.with_context(|| format!("lab {lab} is not up (weft-lab --name {lab} up)"))
}

/// The names of its nodes.
///
/// # Errors
/// When it is not up.
pub(super) fn nodes(lab: &str) -> anyhow::Result<Vec<String>> {
    let nodes = info(lab)?.plan.nodes;
    Ok(nodes.into_iter().map(|node| node.name).collect())
}

/// The lab's Kubernetes API.
#[derive(Debug, Clone)]
pub(super) struct Api(Server);

impl Api {
    /// The API of a lab.
    pub fn of(lab: &str) -> anyhow::Result<Self> {
        Ok(Self(Server::Loopback(info(lab)?.api_port)))
    }

    /// One request; an answer that is an error becomes one here, with the
    /// API's own words.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: String,
    ) -> anyhow::Result<Value> {
        let call = self.0.call(method, path, headers, body);
        let (status, body) = tokio::time::timeout(PATIENCE, call)
            .await
            .with_context(|| format!("no answer within {PATIENCE:?}"))??;
        let value: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{status}: {}", String::from_utf8_lossy(&body)))?;
        if !status.is_success() {
            let reason = value["reason"].as_str().unwrap_or("Error");
            let message = value["message"].as_str().unwrap_or_default();
            bail!("Error from server ({reason}): {message}");
        }
        Ok(value)
    }

    /// `GET path` as plain JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let accept = [(ACCEPT, "application/json")];
        self.call(Method::GET, path, &accept, String::new()).await
    }

    /// Copies the answer to `GET path` to standard output as it comes.
    pub async fn stream(&self, path: &str) -> anyhow::Result<()> {
        use std::io::Write;
        let request = hyper::Request::get(path)
            .header(hyper::header::HOST, "localhost")
            .body(http_body_util::Full::default())?;
        let response = self.0.send(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let body = body.collect().await?.to_bytes();
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        let mut out = std::io::stdout().lock();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                out.write_all(&data)?;
                out.flush()?;
            }
        }
        Ok(())
    }

    /// The pod that `POD`, `pod/NAME`, `deploy/NAME`, `ds/NAME` or `svc/NAME`
    /// means: the first one that is ready.
    pub async fn pod(&self, namespace: &str, target: &str) -> anyhow::Result<Pod> {
        let (kind, name) = target.split_once('/').unwrap_or(("pod", target));
        let core = format!("/api/v1/namespaces/{namespace}");
        let apps = format!("/apis/apps/v1/namespaces/{namespace}");
        let (owner, selector) = match kind {
            "pod" | "po" | "pods" => {
                let pod = self.get(&format!("{core}/pods/{name}")).await?;
                return Ok(serde_json::from_value(pod)?);
            }
            "deploy" | "deployment" | "deployments" => (
                format!("{apps}/deployments/{name}"),
                "/spec/selector/matchLabels",
            ),
            "ds" | "daemonset" | "daemonsets" => (
                format!("{apps}/daemonsets/{name}"),
                "/spec/selector/matchLabels",
            ),
            "svc" | "service" | "services" => (format!("{core}/services/{name}"), "/spec/selector"),
            other => bail!("{other}/...: a pod, deploy, ds or svc has pods"),
        };
        let owner = self.get(&owner).await?;
        let labels = owner.pointer(selector).and_then(Value::as_object);
        let labels = labels.with_context(|| format!("{target} selects no pods"))?;
        let selector: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let query = selector
            .join(",")
            .replace('/', "%2F")
            .replace(',', "%2C")
            .replace('=', "%3D");
        let mut list = self
            .get(&format!("{core}/pods?labelSelector={query}"))
            .await?;
        let pods: Vec<Pod> = serde_json::from_value(list["items"].take())?;
        let ready = pods.iter().position(crate::serve::is_ready).unwrap_or(0);
        let chosen = pods.into_iter().nth(ready);
        chosen.with_context(|| format!("{target} has no pods in namespace {namespace}"))
    }
}

/// How to get into a pod's container: the named one, or the first.
pub(super) fn entrance(
    lab: &str,
    pod: &Pod,
    container: Option<&str>,
) -> anyhow::Result<(PodRecord, ContainerRecord)> {
    let meta = &pod.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let uid = meta.uid.as_deref().unwrap_or_default();
    let record = std::fs::read(StateDir::of(lab).pod_record(uid))
        .with_context(|| format!("pod {name} does not run (yet)"))?;
    let record: PodRecord = serde_json::from_slice(&record)?;
    let found = match container {
        None => record.containers.first(),
        Some(wanted) => record.containers.iter().find(|c| c.name == wanted),
    };
    let found = found.cloned().with_context(|| {
        let names: Vec<_> = record.containers.iter().map(|c| c.name.as_str()).collect();
        format!("pod {name} has the containers {}", names.join(", "))
    })?;
    Ok((record, found))
}
