//! fortio's `load` and `server`, as far as the documents that use them go:
//! same flags, same closing lines.

mod args;
mod report;
mod run;
mod stats;

use std::net::SocketAddr;
use std::process::ExitCode;

use args::{Command, LoadArgs};

/// fortio's default port for its echo server.
const SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8080);

/// Runs a fortio command line (without the program's name).
pub(super) async fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    match args::parse(arguments) {
        Ok(Command::Server) => super::echo::run(SERVER).await,
        Ok(Command::Load(load)) => load_test(load).await,
        Err(e) => {
            eprintln!("fortio: {e}");
            Ok(ExitCode::from(1))
        }
    }
}

async fn load_test(load: LoadArgs) -> anyhow::Result<ExitCode> {
    let opening = report::opening(&load);
    print!("{opening}");
    let outcome = run::run(&load).await?;
    print!("{}", report::closing(&load, &outcome));
    // As fortio does: a run in which nothing was answered has failed.
    let answered = outcome.codes.keys().any(|code| *code > 0);
    Ok(if answered {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}
