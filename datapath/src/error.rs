//! What can go wrong with the kernel.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;

/// Why the kernel could not be brought into the wanted state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object could not be loaded: no permission, a kernel too old, or pins
    /// of another layout.
    #[error("cannot load the eBPF object: {0}")]
    Load(#[from] Box<EbpfError>),
    /// The kernel refused a program.
    #[error("program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// The object lacks a program. Cannot happen with the object that this
    /// crate embeds.
    #[error("the eBPF object has no program {0}")]
    MissingProgram(&'static str),
    /// A map could not be opened, read or written.
    #[error("map {name}: {source}")]
    Map {
        /// The map.
        name: &'static str,
        /// Why.
        source: Box<MapError>,
    },
    /// A pinned link is unusable.
    #[error("link {path}: {source}", path = path.display())]
    Link {
        /// Its pin.
        path: PathBuf,
        /// Why.
        source: LinkError,
    },
    /// A link could not be pinned.
    #[error("cannot pin {path}: {source}", path = path.display())]
    Pin {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: PinError,
    },
    /// There is no such interface in this network namespace.
    #[error("no interface {0} in this network namespace")]
    NoInterface(String),
    /// The pins' folder is not on a BPF file system.
    #[error("{0} is not on a BPF file system: mount bpffs on /sys/fs/bpf first")]
    NotBpffs(PathBuf),
    /// The kernel lacks what the programs are attached with.
    #[error("Linux {found} is too old: the datapath needs {needed} or newer (TCX links)")]
    OldKernel {
        /// Release of the running kernel.
        found: String,
        /// First release that will do.
        needed: &'static str,
    },
    /// A map is full.
    #[error("no room for {0}")]
    Full(&'static str),
    /// Something that cannot be put into a map.
    #[error("{0}")]
    Invalid(String),
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a route, a rule or their listing.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn map(name: &'static str) -> impl Fn(MapError) -> Self {
        move |source| Self::Map {
            name,
            source: Box::new(source),
        }
    }

    /// Of a call on a whole table.
    pub(crate) fn table(name: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Map {
            name,
            source: Box::new(MapError::IoError(error)),
        }
    }

    pub(crate) fn program(name: &'static str) -> impl Fn(ProgramError) -> Self {
        move |source| Self::Program {
            name,
            source: Box::new(source),
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Whether the entry was not there, which for a removal is as good.
pub(crate) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}
