//! The command line.

mod components;
mod lab;
mod objects;
mod rollout;
mod run;
mod target;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::apps::App;
use crate::control::Action;
use crate::demo::{DemoArgs, demo};
use crate::sandbox::EnterArgs;
use crate::{apps, sandbox, serve};

/// A Kubernetes cluster of network namespaces on this machine, with weft in it.
#[derive(Debug, Parser)]
#[command(name = "weft-lab", version)]
struct Cli {
    /// Which lab: several can be up at once.
    #[arg(long, global = true, default_value = "weft", env = "WEFT_LAB_NAME")]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the lab up; nothing happens when it is.
    Up(lab::UpArgs),
    /// Remove everything of the lab, also after a crash.
    Down,
    /// How the lab and its parts are.
    Status,
    /// Print the path of a kubeconfig.
    Kubeconfig,
    /// Create or change the objects in files, as `kubectl apply` does.
    Apply(objects::ApplyArgs),
    /// Show objects.
    Get(objects::GetArgs),
    /// Delete objects.
    Delete(objects::DeleteArgs),
    /// Wait until a deployment or daemon set runs as it should.
    #[command(subcommand)]
    Rollout(rollout::Rollout),
    /// Run a command in a pod.
    Exec(run::ExecArgs),
    /// Run a command in a node's network namespace (also `world`, `fabric`).
    Node(run::NodeArgs),
    /// Show the log of a part of the mesh.
    Logs(components::LogsArgs),
    /// Forward a port of this machine to one of a pod.
    PortForward(run::PortForwardArgs),
    /// Restart a part of the mesh.
    Restart(components::ActArgs),
    /// Play the Star Wars story on a lab of its own, checking every step.
    Demo(DemoArgs),
    /// Stop a part of the mesh until it is started again.
    Stop(components::ActArgs),
    /// Start a part of the mesh after `stop`.
    Start(components::ActArgs),

    /// The lab's daemon.
    #[command(hide = true)]
    Serve {
        /// What to bring up, as JSON.
        order: String,
    },
    /// Makes and holds a pod's namespaces.
    #[command(hide = true)]
    Sandbox {
        /// What to make, as a JSON file.
        spec: PathBuf,
    },
    /// First process of a pod.
    #[command(hide = true)]
    Pause,
    /// Runs a command in a sandbox.
    #[command(hide = true)]
    Enter(EnterArgs),
    /// Runs a built-in program.
    #[command(hide = true)]
    App {
        #[command(subcommand)]
        app: App,
    },
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    // Under the name of a provided program it is that program.
    let called = words.first().map(PathBuf::from).unwrap_or_default();
    let called = called.file_name().and_then(|name| name.to_str());
    if let Some(program) = apps::provided().find(|name| called == Some(name)) {
        words.splice(0..1, ["weft-lab", "app", program].map(OsString::from));
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let cli = Cli::try_parse_from(&words).unwrap_or_else(|error| {
        // Nobody hears it when the output is closed.
        let _closed = error.print();
        if let Some(nodes) = nodes_for(&error, &words) {
            eprintln!("\nNodes: {}", nodes.join(", "));
        }
        std::process::exit(error.exit_code())
    });
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The nodes to choose from, when none was named and the lab is up.
fn nodes_for(error: &clap::Error, words: &[OsString]) -> Option<Vec<String>> {
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    if !missing.iter().any(|argument| argument == "<NODE>") {
        return None;
    }
    let named = words.iter().skip_while(|word| *word != "--name").nth(1);
    let lab = named.cloned().or_else(|| std::env::var_os("WEFT_LAB_NAME"));
    let lab = lab.unwrap_or_else(|| "weft".into());
    target::nodes(lab.to_str()?).ok()
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let lab = cli.name.as_str();
    crate::net::plan::check_name(lab)?;
    match cli.command {
        Command::Up(args) => lab::up(lab, &args),
        Command::Down => lab::down(lab),
        Command::Status => lab::status(lab),
        Command::Kubeconfig => lab::kubeconfig(lab),
        Command::Apply(args) => block_on(objects::apply(lab, &args)),
        Command::Get(args) => block_on(objects::get(lab, &args)),
        Command::Delete(args) => block_on(objects::delete(lab, &args)),
        Command::Rollout(rollout) => block_on(rollout::run(lab, &rollout)),
        Command::Exec(args) => run::exec(lab, &args),
        Command::Node(args) => run::node(lab, &args),
        Command::PortForward(args) => block_on(run::port_forward(lab, &args)),
        Command::Logs(args) => block_on(components::logs(lab, &args)),
        Command::Restart(args) => block_on(components::act(lab, &args, Action::Restart)),
        Command::Stop(args) => block_on(components::act(lab, &args, Action::Stop)),
        Command::Start(args) => block_on(components::act(lab, &args, Action::Start)),
        Command::Demo(args) => block_on(demo(lab, &args)),
        Command::Serve { order } => serve::serve(&serde_json::from_str(&order)?),
        Command::Sandbox { spec } => sandbox::sandbox(&spec),
        Command::Pause => sandbox::pause(),
        Command::Enter(args) => sandbox::enter(&args),
        Command::App { app } => app.run(),
    }
}

/// Runs a command that waits for others. One thread: some go on to enter
/// namespaces, which takes a process that has no other.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(future)
}
