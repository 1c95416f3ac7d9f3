//! `weft-lab demo`: plays a story on a lab of its own, checking every step.
//!
//! The story is data (`chapters/`): what to say, what to run, what to expect.
//! A step that differs ends the story with a non-zero exit code; the lab is
//! taken down either way. Files of the same form can be played in its place.

mod check;
mod play;
mod script;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::state::StateDir;
use crate::teardown::{self, Lock};

/// What `demo` takes.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Stories to play instead of this one: YAML files with a `title` and
    /// `steps`, each a shell line to `run` and what to `expect` of it. They run
    /// in a folder with the manifests of examples/starwars.
    #[arg(value_name = "FILE")]
    chapters: Vec<PathBuf>,
    /// How packets between nodes travel.
    #[arg(long, value_enum, default_value_t = crate::net::Routing::Vxlan)]
    routing: crate::net::Routing,
    /// Where weft, weft-agent and weft-proxy are; by default beside this program.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Use `weft-lab` for the Kubernetes commands even where kubectl is found.
    #[arg(long)]
    without_kubectl: bool,
    /// Leave the lab up at the end.
    #[arg(long)]
    keep: bool,
}

/// Plays the story.
///
/// # Errors
/// When the lab does not come up or cannot be taken down.
pub async fn demo(lab: &str, args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if StateDir::of(lab).exists() {
        bail!("lab {lab} is there already: take it down first, or give this one another --name");
    }
    let chapters = match args.chapters.is_empty() {
        true => script::chapters()?,
        false => script::read(&args.chapters)?,
    };
    let stage = play::Stage::set(lab, args)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let played = tokio::select! {
        played = play::play(&stage, &chapters, args) => played,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    if args.keep && matches!(played, Ok(true)) {
        println!("\nThe lab is still up: weft-lab --name {lab} down takes it down.");
    } else {
        let down = Lock::take().and_then(|lock| teardown::remove(lab, &lock));
        down.context("take the lab down")?;
        println!(
            "\nThe lab is gone. `weft-lab --name {lab} up` (`make lab`) brings up one that stays."
        );
    }
    Ok(match played? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
