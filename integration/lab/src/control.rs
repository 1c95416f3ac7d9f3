//! What users ask of the running lab itself, over a Unix socket.

use std::sync::Arc;

use anyhow::Context;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use k8s_openapi::api::core::v1::Pod;

use crate::api::Store;
use crate::cluster::{Component, SYSTEM};
use crate::kubelet::{Held, Kubelet};
use crate::serve::{component_pod, is_ready};
use crate::state::{LabInfo, StateDir};

/// How a lab is.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// What it is.
    pub info: LabInfo,
    /// One entry a node.
    pub nodes: Vec<NodeStatus>,
    /// Parts that the cluster has one of.
    pub parts: Vec<(Component, Health)>,
}

/// How a node is.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its agent.
    pub agent: Health,
    /// Its proxy.
    pub proxy: Health,
    /// Pods on it that have a network of their own: all, and ready.
    pub pods: (usize, usize),
}

/// How a part of the mesh is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It serves.
    Ready,
    /// It runs or is about to, and does not serve.
    Unready,
    /// The lab has none.
    None,
}

/// What to do with a part of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// End it; it starts again at once.
    Restart,
    /// End it; it stays ended.
    Stop,
    /// Start it after a stop.
    Start,
}

#[derive(serde::Deserialize)]
struct How {
    #[serde(default)]
    kill: bool,
}

#[derive(Clone)]
struct Control {
    info: Arc<LabInfo>,
    store: Store,
    kubelet: Arc<Kubelet>,
}

/// Serves on the lab's socket.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn serve(
    state: &StateDir,
    info: LabInfo,
    store: Store,
    kubelet: Arc<Kubelet>,
    tasks: &mut tokio::task::JoinSet<()>,
) -> anyhow::Result<()> {
    let path = state.control_socket();
    let listener = tokio::net::UnixListener::bind(&path)
        .with_context(|| format!("listen on {}", path.display()))?;
    let router = Router::new()
        .route("/status", get(status))
        .route("/components/{node}/{component}/{action}", post(act))
        .with_state(Control {
            info: Arc::new(info),
            store,
            kubelet,
        });
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "control socket");
        }
    });
    Ok(())
}

async fn status(State(control): State<Control>) -> Json<Status> {
    let pods = control.store.list::<Pod>(None);
    let health = |component, node: &str| match component_pod(&control.store, component, node) {
        Some(pod) if is_ready(&pod) => Health::Ready,
        Some(_) => Health::Unready,
        None => Health::None,
    };
    let nodes = control.info.plan.nodes.iter().map(|node| {
        let here: Vec<_> = pods
            .iter()
            .filter(|pod| {
                pod.spec.as_ref().is_some_and(|spec| {
                    spec.node_name.as_deref() == Some(&node.name) && spec.host_network != Some(true)
                })
            })
            .collect();
        let ready = here.iter().filter(|pod| is_ready(pod)).count();
        NodeStatus {
            name: node.name.clone(),
            agent: health(Component::Agent, &node.name),
            proxy: health(Component::Proxy, &node.name),
            pods: (here.len(), ready),
        }
    });
    let single = Component::ALL
        .into_iter()
        .filter(|part| !part.is_per_node());
    Json(Status {
        nodes: nodes.collect(),
        parts: single.map(|part| (part, health(part, ""))).collect(),
        info: (*control.info).clone(),
    })
}

async fn act(
    State(control): State<Control>,
    Path((node, component, action)): Path<(String, Component, Action)>,
    Query(How { kill }): Query<How>,
) -> Response {
    match try_act(&control, &node, component, action, kill).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => (StatusCode::CONFLICT, format!("{error:#}")).into_response(),
    }
}

async fn try_act(
    control: &Control,
    node: &str,
    component: Component,
    action: Action,
    kill: bool,
) -> anyhow::Result<()> {
    let pod = component_pod(&control.store, component, node)
        .with_context(|| format!("{node} has no {component:?}"))?;
    if action == Action::Start && is_ready(&pod) {
        return Ok(());
    }
    let name = pod.metadata.name.unwrap_or_default();
    let held = match action {
        Action::Stop => Held::Yes,
        Action::Restart | Action::Start => Held::No,
    };
    control.kubelet.stop(SYSTEM, &name, kill, held).await
}
