//! `up`, `down`, `status`, `kubeconfig`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::client::Server;
use crate::control::{Health, Status};
use crate::net::{Plan, Routing};
use crate::process::{self, ProcessId};
use crate::serve::{News, Order};
use crate::state::{LabInfo, StateDir, write_json};
use crate::teardown::{self, Lock};

/// What `up` takes.
#[derive(Debug, clap::Args)]
pub(super) struct UpArgs {
    /// Number of nodes.
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// How packets between nodes travel.
    #[arg(long, value_enum, default_value_t = Routing::Vxlan)]
    routing: Routing,
    /// Where weft-agent and weft-proxy are; by default beside this program.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// A cluster without weft: pods reach each other by address, services do
    /// not work. What the mesh is measured against.
    #[arg(long)]
    no_mesh: bool,
    /// Seconds that everything may take to get ready.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

/// Refuses to go on without root, for which there is this reason.
fn need_root(reason: &str) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this needs root, {reason}: run it with sudo");
    }
    Ok(())
}

pub(super) fn up(lab: &str, args: &UpArgs) -> anyhow::Result<ExitCode> {
    need_root("to make network namespaces and load eBPF programs")?;
    let begin = Instant::now();
    let plan = Plan::new(lab, args.nodes, args.routing)?;
    let state = StateDir::of(lab);
    let lock = Lock::take()?;
    if state.exists() {
        if daemon_lives(&state) {
            drop(lock);
            return already_up(&state, &plan, !args.no_mesh);
        }
        eprintln!("lab {lab} was not taken down properly: removing what is left of it");
        teardown::remove(lab, &lock)?;
        drop(lock);
        return up(lab, args);
    }
    let bin_dir = match &args.bin_dir {
        Some(dir) => dir
            .canonicalize()
            .with_context(|| dir.display().to_string())?,
        None => {
            let exe = std::env::current_exe()?;
            exe.parent()
                .context("this program has no directory")?
                .to_path_buf()
        }
    };
    state.claim()?;
    match spawn(&state, plan, args, bin_dir, &lock) {
        Ok(daemon) => {
            drop(lock);
            follow(&state, lab, daemon, begin)
        }
        Err(error) => {
            teardown::remove(lab, &lock)?;
            Err(error)
        }
    }
}

/// Starts the daemon and notes it.
fn spawn(
    state: &StateDir,
    plan: Plan,
    args: &UpArgs,
    bin_dir: PathBuf,
    lock: &Lock,
) -> anyhow::Result<Child> {
    let order = Order {
        plan,
        mesh: !args.no_mesh,
        bin_dir,
        relay: state.claim_relay(lock)?,
        patience: Duration::from_secs(args.timeout),
    };
    let daemon = Command::new(std::env::current_exe()?)
        .arg("serve")
        .arg(serde_json::to_string(&order)?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(state.daemon_log())?)
        .current_dir("/")
        .spawn()
        .context("start the lab's daemon")?;
    let process = ProcessId::of(daemon.id().cast_signed())?;
    write_json(&state.daemon(), &process)?;
    Ok(daemon)
}

/// Follows the daemon until the lab is up. Its standard input stays open so
/// long: its end would tell it that nobody wants the lab any more.
fn follow(
    state: &StateDir,
    lab: &str,
    mut daemon: Child,
    begin: Instant,
) -> anyhow::Result<ExitCode> {
    let output = daemon.stdout.take().context("the daemon has no output")?;
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line?)? {
            News::Step(what) => eprintln!("  {what}"),
            News::Ready(info) => {
                eprintln!("  ready after {:.1} s", begin.elapsed().as_secs_f64());
                println!("{}", describe(&info, state));
                return Ok(ExitCode::SUCCESS);
            }
            News::Failed(why) => {
                // It has removed everything; its end closes the matter.
                daemon.wait()?;
                bail!("lab {lab} did not come up: {why}");
            }
        }
    }
    let status = daemon.wait()?;
    let log = std::fs::read_to_string(state.daemon_log()).unwrap_or_default();
    teardown::remove(lab, &Lock::take()?)?;
    bail!("the lab's daemon ended ({status}):\n{}", log.trim_end());
}

fn daemon_lives(state: &StateDir) -> bool {
    let daemon = process::read(&state.daemon());
    daemon.is_ok_and(|daemon| daemon.is_some_and(|daemon| daemon.is_alive()))
}

/// The lab is there: is it the one that is wanted?
fn already_up(state: &StateDir, plan: &Plan, mesh: bool) -> anyhow::Result<ExitCode> {
    let Ok(info) = state.read_info() else {
        bail!("lab {} is being brought up by another command", plan.lab);
    };
    let there = (info.plan.nodes.len(), info.plan.routing, info.mesh);
    if there != (plan.nodes.len(), plan.routing, mesh) {
        let mesh = if info.mesh { "" } else { ", without the mesh" };
        bail!(
            "lab {} is up with {} nodes and {} routing{mesh}: take it down first",
            plan.lab,
            there.0,
            there.1
        );
    }
    println!("{}", describe(&info, state));
    Ok(ExitCode::SUCCESS)
}

fn describe(info: &LabInfo, state: &StateDir) -> String {
    let plan = &info.plan;
    let nodes: Vec<_> = plan
        .nodes
        .iter()
        .map(|node| format!("{} {}", node.name, node.ip))
        .collect();
    let mut text = format!(
        "lab {} is up: {} ({} routing)\nkubeconfig  {}\n",
        plan.lab,
        nodes.join(", "),
        plan.routing,
        state.kubeconfig().display(),
    );
    match &info.relay {
        Some(relay) => {
            text += &format!("observer    {relay} (all nodes)\n");
            for node in &plan.nodes {
                let socket = state.node(&node.name).join("hubble.sock");
                text += &format!("            unix://{} ({})\n", socket.display(), node.name);
            }
        }
        None => text += "observer    none: the mesh is not installed\n",
    }
    text.trim_end().to_owned()
}

pub(super) fn down(lab: &str) -> anyhow::Result<ExitCode> {
    need_root("to remove network namespaces and eBPF programs")?;
    let existed = StateDir::of(lab).exists();
    teardown::remove(lab, &Lock::take()?)?;
    println!(
        "lab {lab} {}",
        if existed { "is gone" } else { "was not up" }
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) fn kubeconfig(lab: &str) -> anyhow::Result<ExitCode> {
    super::target::info(lab)?;
    println!("{}", StateDir::of(lab).kubeconfig().display());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn status(lab: &str) -> anyhow::Result<ExitCode> {
    let state = StateDir::of(lab);
    if !state.exists() {
        println!("lab {lab} is not up");
        return Ok(ExitCode::FAILURE);
    }
    if !daemon_lives(&state) {
        println!("lab {lab} is broken: its daemon is gone; `weft-lab down` removes what is left");
        return Ok(ExitCode::FAILURE);
    }
    let control = Server::Socket(state.control_socket());
    let answer = super::block_on(control.get("/status", Duration::from_secs(5)));
    let status: Status = serde_json::from_slice(&answer?.1)?;
    println!("{}\n\n{}", describe(&status.info, &state), table(&status));
    let whole = status
        .nodes
        .iter()
        .flat_map(|node| [node.agent, node.proxy]);
    let whole = whole.chain(status.parts.iter().map(|(_, health)| *health));
    Ok(
        match whole.into_iter().any(|health| health == Health::Unready) {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        },
    )
}

fn table(status: &Status) -> String {
    let word = |health| match health {
        Health::Ready => "ready",
        Health::Unready => "NOT READY",
        Health::None => "-",
    };
    let mut text = format!("{:<16}{:<11}{:<11}PODS\n", "NODE", "AGENT", "PROXY");
    for node in &status.nodes {
        let (all, ready) = node.pods;
        text += &format!(
            "{:<16}{:<11}{:<11}{ready}/{all}\n",
            node.name,
            word(node.agent),
            word(node.proxy),
        );
    }
    for (part, health) in &status.parts {
        let name = format!("{part:?}").to_lowercase();
        text += &format!("{name:<16}{}\n", word(*health));
    }
    text.trim_end().to_owned()
}
