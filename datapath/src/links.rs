//! Attaching programs with pinned TCX links.

use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use tracing::debug;

use crate::Error;
use crate::pins::Pins;

/// A program and the side of an interface where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) program: &'static str,
    pub(crate) ingress: bool,
}

/// Every program of the object.
pub(crate) const HOOKS: [Hook; 6] = [
    Hook {
        program: "from_pod",
        ingress: true,
    },
    Hook {
        program: "to_pod",
        ingress: false,
    },
    Hook {
        program: "from_net",
        ingress: true,
    },
    Hook {
        program: "to_net",
        ingress: false,
    },
    Hook {
        program: "from_overlay",
        ingress: true,
    },
    Hook {
        program: "to_overlay",
        ingress: false,
    },
];

/// The two programs of a pod's host veth.
pub(crate) const POD: [&str; 2] = ["from_pod", "to_pod"];
/// The two programs of the uplink.
pub(crate) const UPLINK: [&str; 2] = ["from_net", "to_net"];
/// The two programs of the overlay device.
pub(crate) const OVERLAY: [&str; 2] = ["from_overlay", "to_overlay"];

pub(crate) fn pin(pins: &Pins, program: &str, ifindex: u32) -> PathBuf {
    pins.links().join(format!("{program}-{ifindex}"))
}

/// Program and interface of a link's pin.
pub(crate) fn parse_pin(path: &Path) -> Option<(&'static str, u32)> {
    let (program, ifindex) = path.file_name()?.to_str()?.rsplit_once('-')?;
    let hook = HOOKS.iter().find(|hook| hook.program == program)?;
    Some((hook.program, ifindex.parse().ok()?))
}

/// Attaches the program to an interface: a live link gets the program in place
/// of its old one, without a packet in between; a defunct one, left by an
/// interface that is gone, is replaced. A loader that dies before it pins a new
/// link takes the link along.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    hook: Hook,
    ifindex: u32,
    pins: &Pins,
) -> Result<(), Error> {
    let path = pin(pins, hook.program, ifindex);
    if path.exists() && replace(program, hook, &path)? {
        return Ok(());
    }
    let name = interface_name(ifindex)?;
    let side = match hook.ingress {
        true => TcAttachType::Ingress,
        false => TcAttachType::Egress,
    };
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let failed = Error::program(hook.program);
    let id = program
        .attach_with_options(&name, side, options)
        .map_err(&failed)?;
    let link = program.take_link(id).map_err(&failed)?;
    let link = FdLink::try_from(link).map_err(|source| Error::Link {
        path: path.clone(),
        source,
    })?;
    // The descriptor goes, the pin keeps the link.
    link.pin(&path)
        .map(drop)
        .map_err(|source| Error::Pin { path, source })
}

/// Puts the program into a pinned link. If the link's interface is gone, the
/// pin is removed instead, and the answer is `false`. Any other failure leaves
/// the old program where it is.
pub(crate) fn replace(
    program: &mut SchedClassifier,
    hook: Hook,
    path: &Path,
) -> Result<bool, Error> {
    let failed = |source| Error::Link {
        path: path.to_owned(),
        source,
    };
    let pinned = PinnedLink::from_pin(path).map_err(failed)?;
    let link = SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(failed)?;
    let id = match program.attach_to_link(link) {
        Err(error) if is_defunct(&error) => {
            debug!(path = %path.display(), "removing a defunct link");
            return remove(path).map(|()| false);
        }
        id => id.map_err(Error::program(hook.program))?,
    };
    // Only the descriptor is given up; the pin keeps the link.
    program
        .take_link(id)
        .map(|_link| true)
        .map_err(Error::program(hook.program))
}

fn is_defunct(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOLINK),
        _ => false,
    }
}

/// Removes a pin, and with it the link.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

fn control_socket() -> Result<OwnedFd, Error> {
    socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| Error::Netlink {
        what: "open a socket",
        source: error.into(),
    })
}

fn interface_name(ifindex: u32) -> Result<String, Error> {
    netdevice::index_to_name(control_socket()?, ifindex)
        .map_err(|_| Error::NoInterface(format!("with index {ifindex}")))
}

pub(crate) fn interface_index(name: &str) -> Result<u32, Error> {
    netdevice::name_to_index(control_socket()?, name)
        .map_err(|_| Error::NoInterface(name.to_owned()))
}
