//! The programs that images map to, and the few that pods find in their PATH.
//!
//! They are this binary under another first argument (`weft-lab app NAME`), so
//! a lab needs no image, no registry and no other build.

mod deathstar;
mod echo;
mod fortio;
mod http;
mod sleep;

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The built-in programs.
#[derive(Debug, clap::Subcommand)]
pub enum App {
    /// The Death Star's landing service.
    Deathstar {
        /// Address to serve on.
        #[arg(long, default_value = "0.0.0.0:80")]
        listen: SocketAddr,
    },
    /// Answers every request with what it was, as JSON.
    Echo {
        /// Address to serve on.
        #[arg(long, default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
    },
    /// Load generator with fortio's flags and output.
    #[command(disable_help_flag = true)]
    Fortio {
        /// fortio's own arguments, `load -c 4 -qps 0 -n 100 URL` or `server`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Does nothing until it is told to stop.
    Sleep,
}

impl App {
    /// Runs the program to its end.
    ///
    /// # Errors
    /// When it cannot start, for example because its port is taken.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            match self {
                Self::Deathstar { listen } => deathstar::run(listen).await,
                Self::Echo { listen } => echo::run(listen).await,
                Self::Fortio { arguments } => fortio::run(&arguments).await,
                Self::Sleep => sleep::run().await,
            }
        })
    }
}

pub use echo::serve as serve_echo;

/// Programs that a pod has even where the machine does not.
const PROVIDED: [&str; 1] = ["fortio"];

/// Directory names to link the provided programs from, for a pod's PATH.
pub fn provided() -> impl Iterator<Item = &'static str> {
    PROVIDED.into_iter()
}

/// What to really run for a command of a pod: a program of the machine's file
/// system under its own name, or one of ours where the machine has none.
///
/// # Errors
/// When this binary cannot be found.
pub fn resolve(command: &[OsString]) -> std::io::Result<Vec<OsString>> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(Vec::new());
    };
    let name = Path::new(program).file_name().unwrap_or(program);
    let ours = PROVIDED.iter().find(|provided| name == **provided);
    let builtin = match ours {
        Some(app) if !exists(program) => Some((*app, arguments)),
        // `sleep infinite` runs in the containers that manifests are written
        // for; coreutils takes only `infinity`.
        _ if name == "sleep" && arguments == [OsStr::new("infinite")] => Some(("sleep", &[][..])),
        _ => None,
    };
    let Some((app, arguments)) = builtin else {
        return Ok(command.to_vec());
    };
    let mut argv = vec![
        std::env::current_exe()?.into_os_string(),
        OsString::from("app"),
        OsString::from(app),
    ];
    argv.extend_from_slice(arguments);
    Ok(argv)
}

/// Whether execvp would find a program.
fn exists(program: &OsStr) -> bool {
    let runnable = |path: PathBuf| {
        path.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if Path::new(program).components().count() > 1 {
        return runnable(PathBuf::from(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| runnable(dir.join(program)))
}

/// Tells whoever waits at NOTIFY_SOCKET that the program serves now
/// (the protocol of sd_notify; nobody waits when the variable is not set).
fn notify_ready() -> std::io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.send_to(b"READY=1", path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn programs_of_the_machine_run_as_they_are() {
        let curl = argv(&["curl", "-s", "http://deathstar"]);
        assert_eq!(resolve(&curl).unwrap(), curl);
        let sleep = argv(&["sleep", "5"]);
        assert_eq!(resolve(&sleep).unwrap(), sleep);
    }

    #[test]
    fn fortio_is_there_under_any_path() {
        let found = resolve(&argv(&["/nowhere/fortio", "load", "-c", "2"])).unwrap();
        assert_eq!(found[1..], argv(&["app", "fortio", "load", "-c", "2"]));
    }

    #[test]
    fn sleeping_for_ever_has_two_spellings() {
        let found = resolve(&argv(&["sleep", "infinite"])).unwrap();
        assert_eq!(found[1..], argv(&["app", "sleep"]));
    }
}
