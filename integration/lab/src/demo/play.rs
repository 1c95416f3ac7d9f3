//! Playing the story on a terminal.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::process::Command;

use super::DemoArgs;
use super::check::{differences, telling};
use super::script::{Chapter, FILES, Step};
use crate::kubectl;
use crate::state::StateDir;

/// Longest output that is shown whole.
const MOST_LINES: usize = 12;
/// Between two tries of a step.
const RETRY: Duration = Duration::from_millis(100);

/// What the commands of the story find around them.
pub(super) struct Stage {
    lab: String,
    exe: PathBuf,
    bin_dir: PathBuf,
    kubectl: bool,
    /// Working directory with the manifests; goes with the lab.
    directory: PathBuf,
    colours: bool,
}

impl Stage {
    /// Finds the programs.
    pub fn set(lab: &str, args: &DemoArgs) -> anyhow::Result<Self> {
        let exe = std::env::current_exe()?;
        let bin_dir = match &args.bin_dir {
            Some(dir) => dir
                .canonicalize()
                .with_context(|| dir.display().to_string())?,
            None => exe
                .parent()
                .context("this program has no directory")?
                .to_path_buf(),
        };
        for (program, why) in [
            ("curl", "the ships call with it"),
            ("jq", "flows are cut with it"),
        ] {
            if !is_in_path(program) {
                bail!("{program} is not installed ({why}): apt-get install {program}");
            }
        }
        if !bin_dir.join("weft").is_file() {
            bail!(
                "{} is missing: cargo build --workspace",
                bin_dir.join("weft").display()
            );
        }
        Ok(Self {
            lab: lab.to_owned(),
            exe,
            bin_dir,
            kubectl: !args.without_kubectl && kubectl::is_recent(),
            directory: StateDir::of(lab).root().join("story"),
            colours: std::io::stdout().is_terminal(),
        })
    }

    /// Writes the manifests that the commands name.
    fn lay_out(&self) -> anyhow::Result<()> {
        for (path, text) in FILES {
            let path = self.directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            std::fs::write(path, text)?;
        }
        Ok(())
    }

    /// The command line that is run for a step.
    fn line(&self, step: &Step) -> String {
        match self.kubectl {
            true => step.run.clone(),
            false => step.run.replace("kubectl ", "weft-lab "),
        }
    }

    async fn run(&self, line: &str) -> anyhow::Result<Ran> {
        let mut path = self.bin_dir.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin")));
        let info = StateDir::of(&self.lab).read_info()?;
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir(&self.directory)
            .env("PATH", path)
            .env("KUBECONFIG", StateDir::of(&self.lab).kubeconfig())
            .env("WEFT_LAB_NAME", &self.lab)
            .env(
                "WEFT_SERVER",
                info.relay
                    .map(|relay| relay.to_string())
                    .unwrap_or_default(),
            )
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("run sh")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran {
            exit: i32::from(crate::sandbox::exit_code(output.status)),
            output: text(&output.stdout),
            errors: text(&output.stderr),
        })
    }

    fn paint(&self, colour: u8, text: &str) -> String {
        match self.colours {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// What came of a command.
struct Ran {
    exit: i32,
    output: String,
    errors: String,
}

/// Plays all chapters; false when a step differed.
pub(super) async fn play(
    stage: &Stage,
    chapters: &[Chapter],
    args: &DemoArgs,
) -> anyhow::Result<bool> {
    match stage.kubectl {
        true => println!("Kubernetes commands run through kubectl."),
        false => println!(
            "No kubectl of version 1.{} or later is used: the same steps run through weft-lab.",
            kubectl::OLDEST_MINOR
        ),
    }
    let begin = Instant::now();
    bring_up(stage, args).await?;
    stage.lay_out()?;
    println!("up after {:.1} s", begin.elapsed().as_secs_f64());
    let mut checked = 0;
    for (number, chapter) in chapters.iter().enumerate() {
        println!(
            "\n{}",
            stage.paint(1, &format!("{}. {}", number + 1, chapter.title))
        );
        for step in &chapter.steps {
            if !play_step(stage, step).await? {
                println!(
                    "\n{}",
                    stage.paint(31, "The story ends here: this step differed.")
                );
                return Ok(false);
            }
            checked += 1;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let end = format!("All {checked} steps came out as they should ({seconds:.0} s).");
    println!("\n{}", stage.paint(32, &end));
    Ok(true)
}

async fn bring_up(stage: &Stage, args: &DemoArgs) -> anyhow::Result<()> {
    let status = Command::new(&stage.exe)
        .args(["--name", &stage.lab, "up"])
        .args(["--routing", &args.routing.to_string()])
        .arg("--bin-dir")
        .arg(&stage.bin_dir)
        .kill_on_drop(true)
        .status()
        .await?;
    if !status.success() {
        bail!("the lab did not come up");
    }
    Ok(())
}

async fn play_step(stage: &Stage, step: &Step) -> anyhow::Result<bool> {
    if !step.say.is_empty() {
        println!("\n{}", step.say.trim_end());
    }
    let line = stage.line(step);
    println!("\n{}", stage.paint(36, &format!("$ {}", line.trim_end())));
    let deadline = Instant::now() + Duration::from_secs(step.within);
    loop {
        let ran = stage.run(&line).await?;
        let found = differences(&step.expect, ran.exit, &ran.output);
        if found.is_empty() || Instant::now() >= deadline {
            show(stage, step, &ran, found.is_empty());
            for difference in &found {
                println!("{}", stage.paint(31, &format!("✗ {difference}")));
            }
            if found.is_empty() {
                println!("{}", stage.paint(32, "✓"));
            }
            return Ok(found.is_empty());
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Shows an output; of a long one that is as it should be, what tells most.
fn show(stage: &Stage, step: &Step, ran: &Ran, well: bool) {
    let telling = telling(&step.expect, &ran.output);
    let lines = ran.output.lines().count();
    if well && lines > MOST_LINES && !telling.is_empty() {
        for line in &telling {
            println!("{line}");
        }
        let others = format!("... and {} other lines", lines - telling.len());
        println!("{}", stage.paint(2, &others));
        return;
    }
    print!("{}", ran.output);
    if !ran.output.is_empty() && !ran.output.ends_with('\n') {
        println!();
    }
    print!("{}", ran.errors);
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
