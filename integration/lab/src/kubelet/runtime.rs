//! What the API asks of the kubelet: exec, logs, port-forward.

use std::process::Stdio;
use std::sync::Arc;

use axum::body::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::container::enter_command;
use super::record::{ContainerState, PodState};
use super::{Kubelet, logs};
use crate::api::{ContainerRef, ExecRequest, ExecSession, LogOptions, PodRuntime, RuntimeError};
use crate::sandbox::exit_code;

impl PodRuntime for Arc<Kubelet> {
    fn exec(
        &self,
        target: ContainerRef,
        request: ExecRequest,
    ) -> BoxFuture<'_, Result<ExecSession, RuntimeError>> {
        async move {
            let command = self.enter(&target)?;
            match request.tty {
                true => super::terminal::exec(command, &request),
                false => exec(command, &request),
            }
        }
        .boxed()
    }

    fn logs(
        &self,
        target: ContainerRef,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, std::io::Result<Bytes>>, RuntimeError>> {
        async move {
            let (entry, place, container) = self.container(&target)?;
            let run = match options.previous {
                false => container.restarts,
                true => container.restarts.checked_sub(1).ok_or_else(|| {
                    let name = &target.container;
                    RuntimeError::NotFound(format!("container {name} has no previous run"))
                })?,
            };
            let (namespace, name) = (&target.namespace, &target.pod);
            let state = &self.config.state;
            let dir = state.container_logs(namespace, name, &target.uid, &target.container);
            Ok(logs::read(logs::path_of(&dir, run), options, place, run, entry).await?)
        }
        .boxed()
    }

    fn connect(
        &self,
        target: ContainerRef,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, RuntimeError>> {
        async move {
            let (state, ..) = self.container(&target)?;
            let netns = state.borrow().netns.clone();
            let dialed = super::dial(netns, port).await;
            dialed.map_err(|error| RuntimeError::Command(format!("{error:#}")))
        }
        .boxed()
    }
}

type Found = (
    tokio::sync::watch::Receiver<PodState>,
    usize,
    ContainerState,
);

impl Kubelet {
    fn container(&self, target: &ContainerRef) -> Result<Found, RuntimeError> {
        let entry = self.entry(&target.uid).ok_or_else(|| {
            RuntimeError::NotRunning(format!("pod {} does not run (yet)", target.pod))
        })?;
        let state = entry.state;
        let found = state
            .borrow()
            .containers
            .iter()
            .enumerate()
            .find(|(_, container)| container.name == target.container)
            .map(|(place, container)| (place, container.clone()));
        let (place, container) = found.ok_or_else(|| {
            RuntimeError::NotRunning(format!("container {} does not run", target.container))
        })?;
        Ok((state, place, container))
    }

    /// A command that enters a container; what to run is yet to be added.
    fn enter(&self, target: &ContainerRef) -> Result<Enter, RuntimeError> {
        let (state, _, container) = self.container(target)?;
        let sandbox = state.borrow().sandbox;
        let not_running =
            || RuntimeError::NotRunning(format!("container {} does not run", target.container));
        let sandbox = sandbox
            .filter(|_| container.is_running())
            .ok_or_else(not_running)?;
        let mut command = enter_command(&self.config.exe, sandbox, &container.cgroup);
        command.env_clear().envs(container.env).kill_on_drop(true);
        Ok(Enter(command))
    }
}

/// See [`Kubelet::enter`].
pub(super) struct Enter(pub Command);

fn exec(Enter(mut command): Enter, request: &ExecRequest) -> Result<ExecSession, RuntimeError> {
    let stream = |wanted| match wanted {
        true => Stdio::piped(),
        false => Stdio::null(),
    };
    command
        .arg("--")
        .args(&request.command)
        .stdin(stream(request.stdin))
        .stdout(stream(request.stdout))
        .stderr(stream(request.stderr));
    let mut child = command.spawn()?;
    Ok(ExecSession {
        stdin: child.stdin.take().map(|io| Box::new(io) as _),
        stdout: child.stdout.take().map(|io| Box::new(io) as _),
        stderr: child.stderr.take().map(|io| Box::new(io) as _),
        resize: None,
        exit: exit(child),
    })
}

/// Waits for the end. The process goes when this is dropped.
pub(super) fn exit(mut child: Child) -> BoxFuture<'static, std::io::Result<i32>> {
    async move { Ok(i32::from(exit_code(child.wait().await?))) }.boxed()
}
