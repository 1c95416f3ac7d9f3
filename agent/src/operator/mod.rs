//! Cluster-wide work that one process does for all nodes: resource
//! definitions, the status of policies and filters, and identities that nobody uses. Of
//! several operators the one that holds the lease works; all of them answer the API
//! server.

mod admission;
mod crds;
mod filters;
mod identities;
mod lease;
mod not_enforced;
mod status;

use std::time::Duration;

use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cli::OperatorArgs;
use lease::{Candidate, Terms};

pub use crds::ensure as ensure_crds;

/// Runs until `stop` is cancelled.
///
/// # Errors
/// When the API or the sources of modules cannot be configured; an API that is merely
/// away is waited for.
pub async fn run(args: &OperatorArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let client: Client = crate::kube::client(args.kubeconfig.as_deref()).await?;
    let mut tasks = JoinSet::new();
    let admission = admission::serve(&client, args, &stop, &mut tasks)?;
    let mut candidate = Candidate::new(
        client.clone(),
        &args.lease_namespace,
        identity(),
        Terms::lasting(Duration::from_secs(args.lease_duration.into())),
    );
    // Who stands by answers the API server as well.
    tokio::select! {
        () = candidate.take() => {}
        ended = watched(&mut tasks, &stop) => return ended,
    }
    info!("this operator works");
    tasks.spawn(candidate.keep(stop.clone()));
    let installed = Box::pin(stop.run_until_cancelled(ensure_crds(&client))).await;
    if installed.is_some() {
        info!("resource definitions are in place");
    }
    tasks.spawn(not_enforced::tell(client.clone(), stop.clone()));
    status::spawn(&client, &stop, &mut tasks);
    filters::spawn(&client, &stop, &mut tasks);
    admission.register(client.clone(), &stop, &mut tasks);
    let grace = Duration::from_secs(args.identity_grace);
    tasks.spawn(identities::collect(
        client,
        args.cluster.clone(),
        grace,
        stop.clone(),
    ));
    watched(&mut tasks, &stop).await
}

/// Waits until all tasks have ended because `stop` was cancelled.
///
/// # Errors
/// When one ends before: that is a defect, or the lease is lost. End the process, whoever
/// supervises it starts it afresh.
async fn watched(tasks: &mut JoinSet<()>, stop: &CancellationToken) -> anyhow::Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended?;
        if !stop.is_cancelled() {
            stop.cancel();
            anyhow::bail!("a task of the operator ended by itself");
        }
    }
    Ok(())
}

/// A name that no other process has, which says where it runs.
fn identity() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    format!("{host}_{}", uuid::Uuid::new_v4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_by_itself_ends_all_of_them() {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let other = stop.clone();
        tasks.spawn(async move { other.cancelled().await });
        tasks.spawn(async {});
        let ended = watched(&mut tasks, &stop).await;
        assert!(ended.is_err() && stop.is_cancelled());
        assert!(watched(&mut tasks, &stop).await.is_ok());
    }

    #[tokio::test]
    async fn tasks_end_when_they_are_told_to() {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let other = stop.clone();
        tasks.spawn(async move { other.cancelled().await });
        stop.cancel();
        assert!(watched(&mut tasks, &stop).await.is_ok());
    }
}
