//! Names of network interfaces.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

/// A name is asked for again after this long: numbers are rarely given to
/// another interface, but they are.
const FRESH: Duration = Duration::from_secs(10);
/// More numbers than this are not remembered at once.
const MAX_NAMES: usize = 4096;

/// Names by number, as this network namespace has them.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    /// The kernel answers through any socket of the namespace.
    socket: Option<OwnedFd>,
    names: HashMap<u32, (String, Instant)>,
}

impl Interfaces {
    /// The name, empty when there is no such interface (any more).
    pub(super) fn name(&mut self, index: u32) -> String {
        if let Some((name, asked)) = self.names.get(&index)
            && asked.elapsed() < FRESH
        {
            return name.clone();
        }
        let name = self.ask(index).unwrap_or_default();
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        self.names.insert(index, (name.clone(), Instant::now()));
        name
    }

    fn ask(&mut self, index: u32) -> Option<String> {
        if self.socket.is_none() {
            let socket = socket_with(
                AddressFamily::INET,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC,
                None,
            );
            self.socket = socket.ok();
        }
        netdevice::index_to_name(self.socket.as_ref()?, index).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_everywhere_and_zero_nowhere() {
        let mut interfaces = Interfaces::default();
        assert_eq!(interfaces.name(1), "lo");
        assert_eq!(interfaces.name(1), "lo", "remembered");
        assert_eq!(interfaces.name(0), "");
    }
}
