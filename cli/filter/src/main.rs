//! `weft-filter`: makes, builds, tries, looks into and ships filters.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_filter::main(std::env::args_os())
}
