//! The command line of the mesh.
//!
//! `weft observe`, `status` and `list` take the flags of the stock `hubble`
//! client and print the same lines, so scripts work with either. `weft filter` is
//! a program of its own, which this one starts.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{ArgMatches, Command};

pub mod filter;
pub mod list;
pub mod observe;
pub mod print;
pub mod server;
pub mod status;

/// Why a command ended early. The text is what the user sees.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments contradict each other or cannot be parsed.
    #[error("{0}")]
    Usage(String),
    /// The server answered with an error, or could not be reached.
    #[error("{}", server::describe(.0))]
    Status(#[from] Box<tonic::Status>),
    /// The server could not be dialled.
    #[error("{0}")]
    Connect(#[from] server::ConnectError),
    /// A file could not be read.
    #[error("{path}: {error}")]
    File {
        /// Its name.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A filter that cannot be honoured.
    #[error("{0}")]
    Filter(#[from] weft_api::hubble::filter::FilterError),
    /// The output could not be written.
    #[error("failed to write: {0}")]
    Output(#[from] io::Error),
    /// A message could not be written as JSON.
    #[error("failed to write as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The server is up but says that it is not well.
    #[error("not healthy")]
    Unhealthy,
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Error {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// The reader of our output went away (`| head`), which is no failure.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The whole command line.
#[must_use]
pub fn command() -> Command {
    Command::new("weft")
        .about("See what the mesh does, and write filters for it")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args(server::args())
        .subcommand(observe::command())
        .subcommand(status::command())
        .subcommand(list::command())
        .subcommand(filter::command())
}

/// Runs the command line: errors go to standard error, and the exit code is 1
/// when there was one.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = command().get_matches_from(args);
    match run(&matches, &mut io::stdout().lock(), &mut io::stderr()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs parsed arguments.
///
/// # Errors
/// Whatever the command could not do.
pub fn run(matches: &ArgMatches, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Error> {
    if let Some(("filter", matches)) = matches.subcommand() {
        return filter::run(matches);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match matches.subcommand() {
            Some(("observe", matches)) => observe::run(matches, out, err).await,
            Some(("status", matches)) => status::run(matches, out).await,
            Some(("list", matches)) => list::run(matches, out).await,
            _ => Err(Error::usage("no such command")),
        }
    })
}
