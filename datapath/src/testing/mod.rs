//! Runs the programs on crafted packets (`BPF_PROG_TEST_RUN`), with maps of
//! their own.
//!
//! What needs sockets or a second interface (redirects to the proxy, delivery)
//! shows only as far as the program itself goes: a redirect without a listener
//! is a drop that carries the mark.

mod calls;
mod fill;
mod packet;
mod probe;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use aya::TestRun as _;
use aya::programs::TestRunOptions;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::geteuid;

pub use calls::bpf_calls;
pub use fill::{Filled, fill};
pub use packet::{Packet, checksums_hold};
pub use probe::{PolicyProbe, Probed, Tuple};

use crate::{Config, Datapath, Endpoint, Error, Event, Events, TableSizes, ensure_bpffs};

/// Bytes of the kernel's `struct __sk_buff`, and where two of its fields lie.
const SKB_LEN: usize = 192;
const SKB_MARK: usize = 8;
const SKB_IFINDEX: usize = 40;

/// The loopback device, which every network namespace has: the one interface
/// that a test run can pretend to be.
pub const LOOPBACK: u32 = 1;

/// Room enough for a test: the usual tables are made for a busy node.
pub const SMALL_TABLES: TableSizes = TableSizes {
    conntrack: 4096,
    nat: 2048,
};

/// `TC_ACT_*`: what became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Pass,
    /// It was dropped.
    Drop,
    /// It was redirected to another interface.
    Redirect,
}

/// Result of one run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What became of the packet.
    pub outcome: Outcome,
    /// The packet's mark afterwards.
    pub mark: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Time per run, in nanoseconds.
    pub nanos: u64,
}

/// The object with the programs, as the compiler made it.
pub fn object() -> &'static [u8] {
    crate::loader::OBJECT
}

/// A BPF file system of one's own, unmounted when dropped.
pub struct TempBpffs(PathBuf);

impl TempBpffs {
    /// Mounts one on a new folder.
    ///
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("weft-bpffs-{}-{count}", process::id()));
        if !geteuid().is_root() {
            return Err(Error::Invalid(
                "running eBPF programs needs root".to_owned(),
            ));
        }
        ensure_bpffs(&path)?;
        Ok(Self(path))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempBpffs {
    fn drop(&mut self) {
        if unmount(&self.0, UnmountFlags::DETACH).is_ok() {
            // Nothing is left to do if the folder stays.
            let _ = fs::remove_dir(&self.0);
        }
    }
}

/// The programs with maps of their own, not attached to anything.
pub struct Bench {
    /// The datapath under test.
    pub datapath: Datapath,
    events: Events,
    // Dropped last.
    _bpffs: TempBpffs,
}

impl Bench {
    /// Loads the programs.
    ///
    /// # Errors
    /// Without root, or when the kernel refuses the programs.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let bpffs = TempBpffs::new()?;
        let datapath = Datapath::load(&bpffs.path().join("node"), config)?;
        let events = datapath.events()?;
        Ok(Self {
            datapath,
            events,
            _bpffs: bpffs,
        })
    }

    /// Announces a pod behind the interface that test runs pretend to be.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn announce(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        self.datapath.update_endpoint(endpoint)
    }

    /// Runs a program on a packet that came without a mark.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn run(&mut self, program: &'static str, packet: &[u8]) -> Result<Run, Error> {
        self.run_marked(program, packet, 0, 1)
    }

    /// Runs a program `repeat` times on a packet with this mark.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn run_marked(
        &mut self,
        program: &'static str,
        packet: &[u8],
        mark: u32,
        repeat: u32,
    ) -> Result<Run, Error> {
        let mut context = [0; SKB_LEN];
        context[SKB_MARK..SKB_MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        context[SKB_IFINDEX..SKB_IFINDEX + 4].copy_from_slice(&LOOPBACK.to_ne_bytes());
        let mut context_out = [0; SKB_LEN];
        let mut data_out = vec![0; packet.len() + 64];
        let result = self
            .datapath
            .program(program)?
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut data_out),
                ctx_in: Some(&context),
                ctx_out: Some(&mut context_out),
                repeat,
                ..TestRunOptions::default()
            })
            .map_err(Error::program(program))?;
        data_out.truncate(result.data_size_out as usize);
        let mut mark = [0; 4];
        mark.copy_from_slice(&context_out[SKB_MARK..SKB_MARK + 4]);
        Ok(Run {
            outcome: match result.return_value {
                0 => Outcome::Pass,
                2 => Outcome::Drop,
                7 => Outcome::Redirect,
                other => return Err(Error::Invalid(format!("{program} returned {other}"))),
            },
            mark: u32::from_ne_bytes(mark),
            packet: data_out,
            nanos: u64::try_from(result.duration.as_nanos()).unwrap_or(u64::MAX),
        })
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.next()).collect()
    }
}

/// A pod for tests, behind [`LOOPBACK`], with MACs made from its number and no
/// policy.
pub fn endpoint(id: u32, identity: u32, addr: Ipv4Addr) -> Endpoint {
    let [.., high, low] = id.to_be_bytes();
    Endpoint {
        id,
        identity,
        addr,
        ifindex: LOOPBACK,
        mac: [2, 0, 0, 0, high, low],
        host_mac: [2, 1, 0, 0, high, low],
        default_deny_ingress: false,
        default_deny_egress: false,
        policed: false,
    }
}
