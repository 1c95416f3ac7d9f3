//! The command line for filters. `weft filter` starts it: a program of its own, so that `weft` need
//! not link what runs WebAssembly.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod config;
mod inspect;
mod make;
mod push;
mod run;

/// Make, build, try, look into and ship filters.
#[derive(Debug, Parser)]
#[command(
    name = "weft filter",
    bin_name = "weft filter",
    version,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new filter: a crate that builds, and whose test passes
    New(make::NewArgs),
    /// Build filters to modules
    Build(make::BuildArgs),
    /// Run a filter's tests natively, without a proxy
    Test(make::TestArgs),
    /// Run a module on one request, and print what it did
    ///
    /// Nothing is sent anywhere: what the filter asks of other services is answered by --fetch, and
    /// its clock jumps to whatever it waits for. Exits with 0 if the request (and the response to it)
    /// went on, with 3 if the filter answered, with 1 if something failed.
    Run(Box<run::RunArgs>),
    /// Print what a module is: ABI, what it wants to see, schema, imports, costs
    Inspect(inspect::InspectArgs),
    /// Push a module to an OCI registry, and print the reference for a manifest
    Push(push::PushArgs),
}

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// As wanted.
    Well,
    /// The filter answered the request.
    Answered,
    /// It was printed what went wrong.
    Badly,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Well => Self::SUCCESS,
            Ended::Answered => Self::from(3),
            Ended::Badly => Self::FAILURE,
        }
    }
}

/// Runs the command line: errors go to standard error, and the exit code is 1 when there was one.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(args);
    match execute(cli.command) {
        Ok(ended) => ended.into(),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<Ended> {
    let out = &mut io::stdout().lock();
    match command {
        Command::New(args) => make::new(&args, out),
        Command::Build(args) => make::build(&args, out),
        Command::Test(args) => make::test(&args),
        Command::Run(args) => run::run(&args, out),
        Command::Inspect(args) => inspect::inspect(&args, out),
        Command::Push(args) => push::push(&args, out),
    }
}

/// The reader of our output went away (`| head`), which is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
