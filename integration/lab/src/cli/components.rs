//! `logs`, `restart`, `stop`, `start`: the parts of the mesh.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::Method;

use super::target::{self, Api};
use crate::client::Server;
use crate::cluster::{Component, SYSTEM};
use crate::control::Action;
use crate::state::StateDir;

/// Longer than the daemon waits for the part to be ready again.
const PATIENCE: Duration = Duration::from_secs(20);

/// What `logs` takes.
#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// Name of the node.
    node: String,
    /// Which part; relay and operator are the cluster's, whatever the node.
    #[arg(value_name = "agent|proxy|relay|operator")]
    component: Component,
    /// Go on until the part ends.
    #[arg(short, long)]
    follow: bool,
    /// Only so many lines from the end.
    #[arg(long)]
    tail: Option<u64>,
    /// The run before the last restart.
    #[arg(short, long)]
    previous: bool,
}

fn check_node(lab: &str, node: &str, component: Component) -> anyhow::Result<()> {
    let nodes = target::nodes(lab)?;
    if component.is_per_node() && !nodes.iter().any(|one| one == node) {
        bail!("lab {lab} has no node {node}, only {}", nodes.join(", "));
    }
    Ok(())
}

pub(super) async fn logs(lab: &str, args: &LogsArgs) -> anyhow::Result<ExitCode> {
    let api = Api::of(lab)?;
    check_node(lab, &args.node, args.component)?;
    let (key, value) = args.component.label();
    let pods = format!("/api/v1/namespaces/{SYSTEM}/pods");
    let list = api
        .get(&format!("{pods}?labelSelector={key}%3D{value}"))
        .await?;
    let pods_of_part = list["items"].as_array().context("no list of pods")?;
    let pod = pods_of_part
        .iter()
        .find(|pod| !args.component.is_per_node() || pod["spec"]["nodeName"] == args.node.as_str())
        .with_context(|| format!("{} has no {:?}", args.node, args.component))?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let tail = args
        .tail
        .map(|n| format!("&tailLines={n}"))
        .unwrap_or_default();
    api.stream(&format!(
        "{pods}/{name}/log?container={}&follow={}&previous={}{tail}",
        args.component.container(),
        args.follow,
        args.previous
    ))
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// What `restart`, `stop` and `start` take.
#[derive(Debug, clap::Args)]
pub(super) struct ActArgs {
    /// Name of the node.
    node: String,
    /// Which part; relay and operator are the cluster's, whatever the node.
    #[arg(value_name = "agent|proxy|relay|operator")]
    component: Component,
    /// SIGKILL instead of SIGTERM.
    #[arg(long)]
    kill: bool,
}

pub(super) async fn act(lab: &str, args: &ActArgs, action: Action) -> anyhow::Result<ExitCode> {
    check_node(lab, &args.node, args.component)?;
    let control = Server::Socket(StateDir::of(lab).control_socket());
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let path = format!(
        "/components/{}/{}/{}?kill={}",
        args.node,
        word(serde_json::to_value(args.component)?),
        word(serde_json::to_value(action)?),
        args.kill
    );
    let call = control.call(Method::POST, &path, &[], "");
    let (status, body) = tokio::time::timeout(PATIENCE, call)
        .await
        .context("no answer from the lab")?
        .with_context(|| format!("lab {lab} is not up"))?;
    if !status.is_success() {
        bail!("{}", String::from_utf8_lossy(&body));
    }
    Ok(ExitCode::SUCCESS)
}
