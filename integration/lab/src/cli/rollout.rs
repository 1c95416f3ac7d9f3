//! `rollout status`, for scripts that also run with kubectl.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use super::target::Api;

/// How often to look.
const LOOK: Duration = Duration::from_millis(50);

/// What can be done about a rollout.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Rollout {
    /// Wait until it is complete.
    Status {
        /// deployment/NAME or daemonset/NAME.
        target: String,
        /// Namespace of it.
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// How long to wait, in seconds.
        #[arg(long, default_value = "60s", value_parser = seconds)]
        timeout: Duration,
    },
}

pub(super) async fn run(lab: &str, rollout: &Rollout) -> anyhow::Result<ExitCode> {
    let Rollout::Status {
        target,
        namespace,
        timeout,
    } = rollout;
    let (kind, name) = target
        .split_once('/')
        .context("deployment/NAME or daemonset/NAME")?;
    let (plural, singular) = match kind {
        "deployment" | "deployments" | "deploy" => ("deployments", "deployment"),
        "daemonset" | "daemonsets" | "ds" => ("daemonsets", "daemon set"),
        other => bail!("{other} has no rollout: deployments and daemonsets have"),
    };
    let api = Api::of(lab)?;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/{plural}/{name}");
    let complete = async {
        loop {
            if is_complete(&api.get(&path).await?) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(*timeout, complete)
        .await
        .with_context(|| format!("{singular} {name:?} is not complete after {timeout:?}"))??;
    println!("{singular} {name:?} successfully rolled out");
    Ok(ExitCode::SUCCESS)
}

/// Whether the controllers have seen the newest spec and every pod of it runs.
fn is_complete(object: &Value) -> bool {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let seen = number("/status/observedGeneration") >= number("/metadata/generation");
    let (wanted, updated, available) = match object.pointer("/spec/replicas") {
        Some(replicas) => (
            replicas.as_i64().unwrap_or(1),
            number("/status/updatedReplicas"),
            number("/status/availableReplicas"),
        ),
        None => (
            number("/status/desiredNumberScheduled"),
            number("/status/updatedNumberScheduled"),
            number("/status/numberAvailable"),
        ),
    };
    seen && updated >= wanted
        && available >= wanted
        && number("/status/replicas") <= wanted.max(updated)
}

/// `20s` or `20`.
fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    let number = text.strip_suffix('s').unwrap_or(text);
    Ok(Duration::from_secs(number.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rollout_is_complete_when_every_pod_is_there() {
        let deployment = |generation: i64, available: i64| {
            json!({
                "metadata": {"generation": generation},
                "spec": {"replicas": 2},
                "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2,
                    "availableReplicas": available},
            })
        };
        assert!(is_complete(&deployment(1, 2)));
        assert!(!is_complete(&deployment(1, 1)), "a pod is missing");
        assert!(!is_complete(&deployment(2, 2)), "the change was not seen");
        let daemons = json!({"metadata": {"generation": 1}, "spec": {}, "status": {
            "observedGeneration": 1, "desiredNumberScheduled": 2,
            "updatedNumberScheduled": 2, "numberAvailable": 1}});
        assert!(!is_complete(&daemons));
    }

    #[test]
    fn timeouts_are_seconds() {
        assert_eq!(seconds("20s"), Ok(Duration::from_secs(20)));
        assert!(seconds("soon").is_err());
    }
}
