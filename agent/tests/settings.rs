//! Flags that ask for something impossible.

#![expect(
    clippy::unwrap_used,
    reason = "what a test needs and does not get fails it"
)]

use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use weft_agent::cli::Cli;

/// An agent that is started with this variable ends at once and says why.
fn refused(variable: &str, value: &str) -> String {
    let state = tempfile::tempdir().unwrap();
    let untouched = state.path().join("state");
    let output = Command::new(env!("CARGO_BIN_EXE_weft-agent"))
        .args(["run", "--node", "a", "--state-dir"])
        .arg(&untouched)
        .env(variable, value)
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(!untouched.exists(), "nothing was done yet");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_impossible_setting_of_the_proxy_ends_the_start_by_name() {
    let said = refused("WEFT_PROXY_SEND_BUFFER", "1Ki");
    assert!(
        said.contains(
            "--proxy-send-buffer (or WEFT_PROXY_SEND_BUFFER): \
             must be from 16384 to 16777216, not 1024"
        ),
        "{said}"
    );
    let said = refused("WEFT_PROXY_IDLE_TIMEOUT", "soon");
    assert!(said.contains("--proxy-idle-timeout"), "{said}");
    assert!(said.contains("10s"), "{said}");
    assert!(said.contains("WEFT_PROXY_IDLE_TIMEOUT"), "{said}");
}

#[test]
fn an_impossible_setting_of_the_node_ends_the_start_by_name() {
    for (variable, value) in [
        ("WEFT_PROXY_PORT", "1"),
        ("WEFT_CONNTRACK_ENTRIES", "10"),
        ("WEFT_MARK_TO_PROXY", "0x1000"),
        ("WEFT_PROXY_TABLE", "255"),
    ] {
        let said = refused(variable, value);
        let flag = variable.trim_start_matches("WEFT_").replace('_', "-");
        let flag = format!("--{}", flag.to_lowercase());
        assert!(said.contains(&flag) && said.contains(variable), "{said}");
    }
}

#[test]
fn the_page_on_configuration_has_every_flag_with_its_default() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIGURATION.md");
    let page = std::fs::read_to_string(page).unwrap();
    let command = Cli::command();
    let mut seen = 0;
    for role in ["run", "operator", "relay"] {
        let role_command = command.find_subcommand(role).unwrap();
        for flag in role_command.get_arguments() {
            let Some(name) = flag.get_long().filter(|name| *name != "help") else {
                continue;
            };
            seen += 1;
            if role != "run" && name == "kubeconfig" {
                assert!(page.contains("Both take `--kubeconfig`"));
                continue;
            }
            let default = match flag.get_default_values() {
                [value] => format!("`{}`", value.to_string_lossy()),
                _ => "none".to_owned(),
            };
            let of = match role {
                "run" => String::new(),
                role => format!("{role} | "),
            };
            let row = format!("| `--{name}` | {of}{default} | ");
            assert!(page.contains(&row), "no row {row}");
            let variable = flag.get_env().unwrap().to_string_lossy().into_owned();
            let usual = format!("WEFT_{}", name.replace('-', "_").to_uppercase());
            assert!(
                variable == usual || page.contains(&format!("`{variable}`")),
                "{variable}"
            );
        }
    }
    assert!(seen > 30, "{seen}");
}
