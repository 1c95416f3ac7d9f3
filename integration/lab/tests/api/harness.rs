//! Runs stock kubectl against the API.
//!
//! Needs kubectl 1.31 or newer in the path (older ones exec over SPDY); says so and
//! passes where there is none.

use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use weft_lab::kubectl;

use crate::support::TestApi;

/// How long any command may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// kubectl and the API that it is to talk to.
pub struct Kubectl {
    /// The API.
    pub api: TestApi,
    home: TempDir,
}

impl Kubectl {
    /// `None`, loudly, where there is no kubectl that is new enough.
    pub async fn start() -> Option<Self> {
        if !kubectl::is_recent() {
            let (oldest, found) = (kubectl::OLDEST_MINOR, kubectl::minor());
            eprintln!(
                "SKIPPED: no kubectl of 1.{oldest} or later (minor version found: {found:?})"
            );
            return None;
        }
        let api = TestApi::start().await;
        let home = TempDir::new().expect("a directory");
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: t, contexts: [{{name: t, context: {{cluster: t, user: t}}}}], users: [{{name: t, user: {{}}}}], clusters: [{{name: t, cluster: {{server: {:?}}}}}]}}",
            api.url
        );
        fs::write(home.path().join("config"), config).expect("written");
        Some(Self { api, home })
    }

    /// A kubectl that is yet to be started.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exec kubectl {line}")])
            .current_dir(self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("HOME", self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn output(&self, line: &str, input: &str) -> Output {
        let mut child = self.command(line).spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("piped");
        let both = async {
            // A command that reads nothing closes its end.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await.expect("an exit")
        };
        tokio::time::timeout(DEADLINE, both)
            .await
            .unwrap_or_else(|_| panic!("kubectl {line} hangs"))
    }

    /// The output of a command that must succeed.
    pub async fn run(&self, line: &str) -> String {
        self.feed(line, "").await
    }

    /// As [`Kubectl::run`], with input.
    pub async fn feed(&self, line: &str, input: &str) -> String {
        let output = self.output(line, input).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "kubectl {line}: {}\n{}",
            output.status,
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Exit code and error output of a command that must fail.
    pub async fn fail(&self, line: &str) -> (i32, String) {
        let output = self.output(line, "").await;
        assert!(!output.status.success(), "kubectl {line} succeeds");
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        (output.status.code().unwrap_or(-1), text)
    }

    /// Writes a file into the directory that commands run in.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, content).expect("written");
        path
    }
}
