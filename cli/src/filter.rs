//! `weft filter`: started as a program of its own, so that this one need not link what runs
//! WebAssembly.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process;

use clap::{Arg, ArgMatches, Command, value_parser};

use crate::Error;

/// Its name, beside this program or on `PATH`.
const PROGRAM: &str = "weft-filter";

/// The subcommand; what follows it is the other program's.
#[must_use]
pub fn command() -> Command {
    Command::new("filter")
        .about("Make, build, try, look into and ship filters")
        .disable_help_flag(true)
        .arg(
            Arg::new("arguments")
                .num_args(0..)
                .allow_hyphen_values(true)
                .trailing_var_arg(true)
                .value_parser(value_parser!(OsString)),
        )
}

/// Becomes the other program.
///
/// # Errors
/// Where it is not there, or cannot be started.
pub fn run(matches: &ArgMatches) -> Result<(), Error> {
    let arguments = matches.get_many::<OsString>("arguments");
    let program = find().ok_or_else(|| {
        Error::usage(format!(
            "{PROGRAM} is neither beside this program nor on PATH: it comes with weft \
             (cargo build --release -p weft-filter)"
        ))
    })?;
    let error = process::Command::new(&program)
        .args(arguments.into_iter().flatten())
        .exec();
    // Only where it could not be started.
    Err(Error::File {
        path: program.display().to_string(),
        error,
    })
}

fn find() -> Option<PathBuf> {
    let beside = env::current_exe()
        .ok()
        .and_then(|it| Some(it.parent()?.join(PROGRAM)));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join(PROGRAM));
    beside.into_iter().chain(on_path).find(|it| it.is_file())
}
