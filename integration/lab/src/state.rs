//! A lab's state directory, `/run/weft-lab/<lab>`: enough to find and remove
//! everything of the lab after its daemon was killed.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::host::{self, RUN_DIR};
use crate::net::Plan;
use crate::process::ProcessId;
use crate::teardown::Lock;

/// Where the stock client looks for the merged observer.
const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4245);

/// Paths of a lab.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

/// What the daemon tells everyone about the lab once it is up.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct LabInfo {
    /// Nodes and routing.
    pub plan: Plan,
    /// Whether agents and proxies run.
    pub mesh: bool,
    /// Port of the Kubernetes API on 127.0.0.1, the same everywhere.
    pub api_port: u16,
    /// Address of the merged observer; none without the mesh.
    pub relay: Option<SocketAddr>,
}

/// What the daemon leaves for `exec`: how to get into a pod.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct PodRecord {
    /// The pause process.
    pub sandbox: ProcessId,
    /// Name of the network namespace; none for the machine's own.
    pub netns: Option<String>,
    /// What each container has.
    pub containers: Vec<ContainerRecord>,
}

/// A container as `exec` needs it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct ContainerRecord {
    /// Its name.
    pub name: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its environment.
    pub env: Vec<(String, String)>,
}

impl StateDir {
    /// The directory of a lab, existing or not.
    pub fn of(lab: &str) -> Self {
        Self {
            root: Path::new(RUN_DIR).join(lab),
        }
    }

    /// Claims the lab's name: false when a lab of that name has its state here.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn claim(&self) -> io::Result<bool> {
        fs::create_dir_all(RUN_DIR)?;
        match fs::create_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            other => other?,
        }
        for dir in [self.logs(), self.pods(), self.programs()] {
            fs::create_dir(dir)?;
        }
        Ok(true)
    }

    /// Claims an address for the lab's observer: the usual one unless another
    /// lab has it, which may have only just begun, or another program listens.
    ///
    /// # Errors
    /// When no port is free or the claim cannot be written.
    pub fn claim_relay(&self, _lock: &Lock) -> io::Result<SocketAddr> {
        let claimed: Vec<_> = host::labs()?
            .filter_map(|lab| Self::of(&lab).relay())
            .collect();
        let mut wanted = RELAY;
        loop {
            let free = TcpListener::bind(wanted).and_then(|socket| socket.local_addr());
            match free {
                Ok(address) if !claimed.contains(&address) => {
                    write_json(&self.relay_claim(), &address)?;
                    return Ok(address);
                }
                Err(e) if wanted.port() == 0 => return Err(e),
                _ => wanted.set_port(0),
            }
        }
    }

    fn relay(&self) -> Option<SocketAddr> {
        serde_json::from_slice(&fs::read(self.relay_claim()).ok()?).ok()
    }

    fn relay_claim(&self) -> PathBuf {
        self.root.join("relay.json")
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.root.exists()
    }

    /// Removes it with all that is in it. A missing one is fine.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Process of the daemon.
    pub fn daemon(&self) -> PathBuf {
        self.root.join("daemon.json")
    }

    /// Where the daemon answers `status`, `restart` and the like.
    pub fn control_socket(&self) -> PathBuf {
        self.root.join("lab.sock")
    }

    /// For kubectl.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Logs of containers and of the daemon.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Log of the daemon.
    pub fn daemon_log(&self) -> PathBuf {
        self.logs().join("lab.log")
    }

    /// Logs of one container, a file for each of its runs.
    pub fn container_logs(
        &self,
        namespace: &str,
        pod: &str,
        uid: &str,
        container: &str,
    ) -> PathBuf {
        self.logs()
            .join(format!("{namespace}_{pod}_{uid}"))
            .join(container)
    }

    /// One directory a pod.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Files of one pod.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// How to get into a pod.
    pub fn pod_record(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("record.json")
    }

    /// Programs that every pod finds in its PATH.
    pub fn programs(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// Files and sockets of one node's agent and proxy.
    pub fn node(&self, node: &str) -> PathBuf {
        self.root.join(node)
    }

    /// Notes the name of a namespace before it is made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_netns(&self, name: &str) -> io::Result<()> {
        append_line(&self.netns_journal(), name)
    }

    /// Names of all namespaces that the lab ever made.
    pub fn netns_names(&self) -> Vec<String> {
        let text = fs::read_to_string(self.netns_journal()).unwrap_or_default();
        let mut names: Vec<_> = text.lines().map(str::to_owned).collect();
        names.sort();
        names.dedup();
        names
    }

    fn netns_journal(&self) -> PathBuf {
        self.root.join("netns")
    }

    fn info_path(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    /// Writes what the lab is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_info(&self, info: &LabInfo) -> io::Result<()> {
        write_json(&self.info_path(), info)
    }

    /// Reads what the lab is.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn read_info(&self) -> io::Result<LabInfo> {
        Ok(serde_json::from_slice(&fs::read(self.info_path())?)?)
    }
}

/// Writes a value as JSON; a reader sees the old file or the new one.
///
/// # Errors
/// When it cannot be written.
pub fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut staged = path.to_path_buf().into_os_string();
    staged.push(".new");
    fs::write(&staged, serde_json::to_vec_pretty(value)?)?;
    fs::rename(&staged, path)
}

/// Adds a line to a journal. Pods come up side by side: a line and its end are
/// one write, or two lines would mix and name what never was.
///
/// # Errors
/// When it cannot be written.
pub fn append_line(journal: &Path, line: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(journal)?
        .write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_noted_at_once_stay_apart() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir {
            root: dir.path().to_owned(),
        };
        let mut noted: Vec<_> = (0..8)
            .flat_map(|pod| (0..500).map(move |n| format!("lab-default-pod{pod}-{n}")))
            .collect();
        std::thread::scope(|scope| {
            for names in noted.chunks(500) {
                let state = &state;
                scope.spawn(move || {
                    for name in names {
                        state.note_netns(name).unwrap();
                    }
                });
            }
        });
        noted.sort();
        assert_eq!(state.netns_names(), noted);
    }
}
