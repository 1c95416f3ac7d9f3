//! What handing packets to the proxy needs of the node's network namespace: a
//! rule and a route that take marked packets to local sockets, and a few
//! sysctls.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::{fs, io};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleHeader, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use serde::{Deserialize, Serialize};

use crate::{Error, Marks, links};

/// Routing table that takes marked packets to local sockets.
pub const PROXY_TABLE: u32 = 2004;
/// Preference of the rule that sends marked packets there: after the one for
/// local addresses (0), before the one for the main table (32766).
pub const PROXY_RULE_PREFERENCE: u32 = 9;

/// `default`, `main` and `local`.
const KERNEL_TABLES: RangeInclusive<u32> = 253..=255;
/// Behind the rule for local addresses, before the one for the main table.
const PREFERENCES: RangeInclusive<u32> = 1..=32765;

const SYSCTLS: &str = "/proc/sys/net/ipv4";

/// What the node's namespace is set to. Everything works on the namespace of
/// the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSettings {
    mark: u32,
    mask: u32,
    table: u32,
    preference: u32,
}

/// What was there before, kept in a file until it is put back.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    settings: NodeSettings,
    sysctls: BTreeMap<PathBuf, String>,
}

impl NodeSettings {
    /// For these marks, with the usual table and preference.
    pub fn new(marks: &Marks) -> Self {
        Self {
            mark: marks.to_proxy,
            mask: marks.mask,
            table: PROXY_TABLE,
            preference: PROXY_RULE_PREFERENCE,
        }
    }

    /// Another routing table, and another preference of the rule that leads to
    /// it: where the usual ones are somebody else's.
    ///
    /// # Errors
    /// A table that is the kernel's own (local, main, default, or none), or a
    /// preference that does not come between the kernel's rules for local
    /// addresses and the main table.
    pub fn routing(self, table: u32, preference: u32) -> Result<Self, Error> {
        let wrong = if table == 0 || KERNEL_TABLES.contains(&table) {
            format!("routing table {table} is the kernel's own, take another")
        } else if !PREFERENCES.contains(&preference) {
            let (first, last) = (PREFERENCES.start(), PREFERENCES.end());
            format!("rule preference {preference} is not between {first} and {last}")
        } else {
            return Ok(Self {
                table,
                preference,
                ..self
            });
        };
        Err(Error::Invalid(wrong))
    }

    /// Applies the settings; previous values of sysctls go to `state_file`,
    /// unless an earlier call left them there. Repeating it is harmless.
    ///
    /// - `ip_forward` on: the node routes for its pods.
    /// - `tcp_early_demux`, `udp_early_demux` off: a socket of the proxy with
    ///   the addresses of a forwarded packet, even one in `TIME_WAIT`, would
    ///   swallow it.
    /// - `tcp_max_tw_buckets` 0: no socket stays in `TIME_WAIT`. The proxy's
    ///   have the pods' own addresses and ports. When a pod takes such a port
    ///   again, the programs do see the old socket's state and assign the SYN
    ///   to the listener instead, but the kernel drops it all the same, for up
    ///   to a minute: the listener's request has the tuple of the old socket,
    ///   and only a listener that the stack finds by itself may take its place.
    /// - `rp_filter` off: the proxy's answers come from addresses that are
    ///   routed elsewhere.
    ///
    /// # Errors
    /// When the file cannot be written, or the kernel refuses.
    pub fn apply(&self, state_file: &Path) -> Result<(), Error> {
        let mut saved = read(state_file)?.unwrap_or_else(|| Saved {
            settings: *self,
            sysctls: BTreeMap::new(),
        });
        if saved.settings != *self {
            saved.settings.remove_routing()?;
            saved.settings = *self;
        }
        let wanted = wanted_sysctls()?;
        for (path, _) in &wanted {
            let value = fs::read_to_string(path).map_err(Error::io(path))?;
            saved
                .sysctls
                .entry(path.clone())
                .or_insert_with(|| value.trim().to_owned());
        }
        // Before anything is changed: a crash in between must not lose what was
        // there.
        write(state_file, &saved)?;
        for (path, value) in &wanted {
            fs::write(path, value).map_err(Error::io(path))?;
        }
        self.add_routing()
    }

    /// Puts back what [`NodeSettings::apply`] changed, and removes the file.
    /// Without the file there is nothing to do.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn restore(state_file: &Path) -> Result<(), Error> {
        let Some(saved) = read(state_file)? else {
            return Ok(());
        };
        saved.settings.remove_routing()?;
        for (path, value) in &saved.sysctls {
            match fs::write(path, value) {
                // The interface is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(Error::io(path))?,
            }
        }
        fs::remove_file(state_file).map_err(Error::io(state_file))
    }

    fn add_routing(&self) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let exists = io::ErrorKind::AlreadyExists;
        request(
            RouteNetlinkMessage::NewRoute(self.route()?),
            flags,
            exists,
            "add the proxy's route",
        )?;
        request(
            RouteNetlinkMessage::NewRule(self.rule()),
            flags,
            exists,
            "add the proxy's rule",
        )
    }

    fn remove_routing(&self) -> Result<(), Error> {
        let missing = io::ErrorKind::NotFound;
        request(
            RouteNetlinkMessage::DelRule(self.rule()),
            0,
            missing,
            "remove the proxy's rule",
        )?;
        let route = RouteNetlinkMessage::DelRoute(self.route()?);
        request(route, 0, missing, "remove the proxy's route")
    }

    fn rule(&self) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header = RuleHeader {
            family: AddressFamily::Inet,
            action: RuleAction::ToTable,
            ..RuleHeader::default()
        };
        rule.attributes = vec![
            RuleAttribute::Table(self.table),
            RuleAttribute::Priority(self.preference),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(self.mask),
        ];
        rule
    }

    fn route(&self) -> Result<RouteMessage, Error> {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: AddressFamily::Inet,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Host,
            kind: RouteType::Local,
            ..RouteHeader::default()
        };
        route.attributes = vec![
            RouteAttribute::Table(self.table),
            RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::UNSPECIFIED)),
            RouteAttribute::Oif(links::interface_index("lo")?),
        ];
        Ok(route)
    }
}

fn wanted_sysctls() -> Result<Vec<(PathBuf, &'static str)>, Error> {
    let folder = Path::new(SYSCTLS);
    let mut wanted = vec![
        (folder.join("ip_forward"), "1"),
        (folder.join("tcp_early_demux"), "0"),
        (folder.join("udp_early_demux"), "0"),
        (folder.join("tcp_max_tw_buckets"), "0"),
    ];
    let interfaces = folder.join("conf");
    for entry in fs::read_dir(&interfaces).map_err(Error::io(&interfaces))? {
        let path = entry
            .map_err(Error::io(&interfaces))?
            .path()
            .join("rp_filter");
        wanted.push((path, "0"));
    }
    Ok(wanted)
}

fn read(file: &Path) -> Result<Option<Saved>, Error> {
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::io(file)(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(file)(error)),
    }
}

/// Written beside and renamed: half a file would lose the values.
fn write(file: &Path, saved: &Saved) -> Result<(), Error> {
    let bytes = serde_json::to_vec_pretty(saved).map_err(|error| Error::io(file)(error.into()))?;
    let new = file.with_extension("new");
    fs::write(&new, bytes).map_err(Error::io(&new))?;
    fs::rename(&new, file).map_err(Error::io(file))
}

/// Sends one request and waits for its acknowledgement; `fine` is as good.
fn request(
    message: RouteNetlinkMessage,
    flags: u16,
    fine: io::ErrorKind,
    what: &'static str,
) -> Result<(), Error> {
    match exchange(message, flags) {
        Err(error) if error.kind() == fine || no_such_process(fine, &error) => Ok(()),
        result => result.map_err(|source| Error::Netlink { what, source }),
    }
}

/// A missing route is reported as ESRCH.
fn no_such_process(fine: io::ErrorKind, error: &io::Error) -> bool {
    fine == io::ErrorKind::NotFound && error.raw_os_error() == Some(libc::ESRCH)
}

fn exchange(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer =
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        NetlinkPayload::Error(_) => Ok(()),
        _ => Err(io::Error::other("the kernel did not acknowledge")),
    }
}
