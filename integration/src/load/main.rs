//! `weft-load`: what the tests run inside pods. Clients that tell what came of
//! every single request, and servers for what curl cannot ask a Death Star.
//!
//! Clients print a line per event, `MICROSECONDS WORD`, with the time since the
//! Unix epoch, and end with their standard input.
#![forbid(unsafe_code)]

mod client;
mod server;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "weft-load", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers every HTTP request: `GET /bytes/N` with N bytes, `GET /drip`
    /// slowly and for ever, anything else with the length of its body.
    Http {
        /// Addresses to serve on.
        #[arg(required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Sends back whatever it gets.
    Echo {
        /// Addresses to serve on.
        #[arg(required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Requests, one after the other; prints the status of each, or what went
    /// wrong.
    Requests(client::Requests),
    /// One connection to an echo server; prints `echo` for each answer,
    /// `silence` when none came, and how it ended.
    Stream(client::Stream),
    /// Reads an answer without an end; prints `data` whenever more came,
    /// `silence` when nothing did, and how it ended.
    Drip(client::Drip),
    /// Sends a text, prints what comes back and how it ended.
    Raw(client::Raw),
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Http { listen } => server::serve(&listen, server::http),
        Command::Echo { listen } => server::serve(&listen, server::echo),
        Command::Requests(requests) => requests.run(),
        Command::Stream(stream) => stream.run(),
        Command::Drip(drip) => drip.run(),
        Command::Raw(raw) => raw.run(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints an event with its time.
fn tell(what: &str) -> std::io::Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut output = std::io::stdout().lock();
    writeln!(output, "{} {what}", since.unwrap_or_default().as_micros())?;
    output.flush()
}

/// Ends the program when its input does, so that none outlives its test.
fn end_with_input() {
    std::thread::spawn(|| {
        let mut nothing = [0; 64];
        while std::io::stdin().read(&mut nothing).is_ok_and(|n| n > 0) {}
        std::process::exit(0);
    });
}

/// Keeps a pace: waits for the rest of a period that began some time ago.
struct Pace {
    period: Duration,
    next: std::time::Instant,
}

impl Pace {
    fn new(milliseconds: u64) -> Self {
        Self {
            period: Duration::from_millis(milliseconds),
            next: std::time::Instant::now(),
        }
    }

    fn wait(&mut self) {
        self.next += self.period;
        let now = std::time::Instant::now();
        match self.next.checked_duration_since(now) {
            Some(rest) => std::thread::sleep(rest),
            // Late: go on from here instead of making up for it in a burst.
            None => self.next = now,
        }
    }
}
