//! `exec`, `node`, `port-forward`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use tokio::net::TcpListener;

use super::target::{Api, entrance, info};
use crate::net::NetNs;

/// What `exec` takes.
#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    /// Namespace of the pod.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Container, when not the first.
    #[arg(short, long)]
    container: Option<String>,
    /// POD, deploy/NAME, ds/NAME or svc/NAME.
    target: String,
    /// The command with its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the command: its input, output and exit code are this process's.
pub(super) fn exec(lab: &str, args: &ExecArgs) -> anyhow::Result<ExitCode> {
    let api = Api::of(lab)?;
    let pod = super::block_on(api.pod(&args.namespace, &args.target))?;
    let (record, container) = entrance(lab, &pod, args.container.as_deref())?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("enter")
        .args(["--pid", &record.sandbox.pid.to_string()])
        .args(["--start-time", &record.sandbox.start_time.to_string()])
        .arg("--cgroup")
        .arg(&container.cgroup)
        .arg("--")
        .args(&args.command)
        .env_clear()
        .envs(container.env);
    if let Some(term) = std::env::var_os("TERM") {
        command.env("TERM", term);
    }
    Err(command.exec()).context("enter the pod")
}

/// What `node` takes.
#[derive(Debug, clap::Args)]
pub(super) struct NodeArgs {
    /// Name of a node, or `world`, or `fabric`.
    node: String,
    /// The command with its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the command, inside a node's network namespace and nothing else.
pub(super) fn node(lab: &str, args: &NodeArgs) -> anyhow::Result<ExitCode> {
    let plan = info(lab)?.plan;
    let name = match args.node.as_str() {
        "world" => plan.world_netns(),
        "fabric" => plan.fabric_netns(),
        node => {
            let known = plan.node(node).with_context(|| {
                let names: Vec<_> = plan.nodes.iter().map(|n| n.name.as_str()).collect();
                format!("no node {node}: there are {}", names.join(", "))
            })?;
            plan.node_netns(&known.name)
        }
    };
    let Some((program, arguments)) = args.command.split_first() else {
        bail!("no command");
    };
    // Only the thread that runs this is inside; it becomes the command.
    let error = NetNs::open(&name)?.run(|| {
        let mut command = Command::new(program);
        command.args(arguments).exec()
    })?;
    Err(error).with_context(|| format!("run {}", program.to_string_lossy()))
}

/// What `port-forward` takes.
#[derive(Debug, clap::Args)]
pub(super) struct PortForwardArgs {
    /// Namespace of the pod.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// POD, deploy/NAME, ds/NAME or svc/NAME.
    target: String,
    /// LOCAL:REMOTE, or one number for both; LOCAL 0 takes any free port.
    ports: String,
}

pub(super) async fn port_forward(lab: &str, args: &PortForwardArgs) -> anyhow::Result<ExitCode> {
    let (local, remote) = parse_ports(&args.ports)?;
    let pod = Api::of(lab)?.pod(&args.namespace, &args.target).await?;
    let (record, _) = entrance(lab, &pod, None)?;
    let listener = TcpListener::bind(("127.0.0.1", local))
        .await
        .with_context(|| format!("listen on 127.0.0.1:{local}"))?;
    println!("Forwarding from {} -> {remote}", listener.local_addr()?);
    loop {
        let (mut here, client) = listener.accept().await?;
        let netns = record.netns.clone();
        tokio::spawn(async move {
            match crate::kubelet::dial(netns, remote).await {
                Ok(mut there) => {
                    // Either side's end or error ends the other's.
                    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                }
                Err(error) => eprintln!("{client}: {error:#}"),
            }
        });
    }
}

fn parse_ports(text: &str) -> anyhow::Result<(u16, u16)> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    match (local.parse(), remote.parse()) {
        (Ok(local), Ok(remote)) if remote != 0 => Ok((local, remote)),
        _ => bail!("{text:?} is not LOCAL:REMOTE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_alone_or_in_pairs() {
        assert_eq!(parse_ports("80").unwrap(), (80, 80));
        assert_eq!(parse_ports("0:80").unwrap(), (0, 80));
        assert!(parse_ports("80:0").is_err());
        assert!(parse_ports("http").is_err());
    }
}
