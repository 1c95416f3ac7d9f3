//! Flags that ask for something impossible.

#![expect(
    clippy::unwrap_used,
    reason = "what a test needs and does not get fails it"
)]

use std::process::Command;

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
}
