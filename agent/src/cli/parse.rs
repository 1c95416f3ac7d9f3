//! Reading the command line: what clap says of a wrong value, and besides the
//! variable that it may have come from.

use clap::error::{ContextKind, ContextValue};
use clap::{Command, CommandFactory as _, Parser as _};

use super::Cli;

impl Cli {
    /// The command line of this process, and its variables. Ends the process
    /// where something is wrong with them.
    #[must_use]
    pub fn of_process() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            // Nobody hears it when the output is closed.
            let _closed = error.print();
            if let Some(variable) = variable_of(&error) {
                eprintln!("\nThe variable {variable} sets the same.");
            }
            std::process::exit(error.exit_code())
        })
    }
}

/// The variable of the flag that an error is about.
fn variable_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    // With the name of its value behind it.
    let name = flag.split([' ', '=']).next()?.strip_prefix("--")?;
    find(&Cli::command(), name)
}

fn find(command: &Command, name: &str) -> Option<String> {
    let mut flags = command.get_arguments();
    let flag = flags.find(|flag| flag.get_long() == Some(name));
    let variable = flag.and_then(|flag| flag.get_env());
    variable
        .map(|variable| variable.to_string_lossy().into_owned())
        .or_else(|| command.get_subcommands().find_map(|role| find(role, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_has_its_variable_named() {
        let variable = |words: &[&str]| {
            let words = [&["weft-agent"], words].concat();
            variable_of(&Cli::try_parse_from(words).unwrap_err())
        };
        for (flag, expected) in [
            ("--proxy-port=1", "WEFT_PROXY_PORT"),
            ("--proxy-idle-timeout=soon", "WEFT_PROXY_IDLE_TIMEOUT"),
            ("--mark-mask=0xyz", "WEFT_MARK_MASK"),
            ("--hubble-listen=here", "WEFT_HUBBLE_LISTEN"),
        ] {
            let found = variable(&["run", "--node", "a", flag]);
            assert_eq!(found.as_deref(), Some(expected), "{flag}");
        }
        let lease = variable(&["operator", "--lease-duration=1"]);
        assert_eq!(lease.as_deref(), Some("WEFT_LEASE_DURATION"));
        assert_eq!(variable(&["run", "--no-such-flag"]), None);
        assert_eq!(variable(&["dance"]), None);
    }
}
