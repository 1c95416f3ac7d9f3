//! `weft-lab`: see [`weft_lab`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_lab::cli::main()
}
