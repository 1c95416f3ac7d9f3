//! `weft`: see what the mesh does.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_cli::main(std::env::args_os())
}
