//! The nodes that serve flows.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use weft_api::hubble::observer::observer_client::ObserverClient;

/// How long a node may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A dead node is noticed within two of these.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A message of a node's answer.
const MAX_MESSAGE: usize = 64 << 20;

/// An address with `{node}` and `{ip}` for what is different on each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressTemplate(String);

/// The template would give every node the same address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must contain {{node}} or {{ip}}")]
pub struct SameAddress;

impl FromStr for AddressTemplate {
    type Err = SameAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains("{node}") || text.contains("{ip}") {
            Ok(Self(text.to_owned()))
        } else {
            Err(SameAddress)
        }
    }
}

impl AddressTemplate {
    /// The address of one node; none when it needs an IP that is not known.
    pub(super) fn of(&self, node: &str, ip: Option<&str>) -> Option<String> {
        let text = self.0.replace("{node}", node);
        match ip {
            Some(ip) => Some(text.replace("{ip}", ip)),
            None => (!text.contains("{ip}")).then_some(text),
        }
    }
}

/// A node's observer. The connection is made when it is first needed and again
/// whenever it broke.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Name of the node.
    pub name: Arc<str>,
    /// `ip:port` or `unix:///path`.
    pub address: Arc<str>,
    channel: Channel,
}

impl Peer {
    /// # Errors
    /// When the address is none.
    pub(super) fn new(name: &str, address: &str) -> Result<Self, tonic::transport::Error> {
        let uri = if address.starts_with("unix:") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let channel = Endpoint::from_shared(uri)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .connect_lazy();
        Ok(Self {
            name: name.into(),
            address: address.into(),
            channel,
        })
    }

    pub(super) fn client(&self) -> ObserverClient<Channel> {
        ObserverClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

/// Peers by name.
pub(super) type PeerMap = Arc<BTreeMap<Arc<str>, Peer>>;

/// The peers that there are now; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers(Arc<watch::Sender<PeerMap>>);

impl Peers {
    pub(super) fn now(&self) -> PeerMap {
        self.0.borrow().clone()
    }

    pub(super) fn follow(&self) -> watch::Receiver<PeerMap> {
        self.0.subscribe()
    }

    /// Adds a peer or gives it a new address. A connection in use is kept when
    /// the address is the same.
    pub(super) fn put(&self, peer: Peer) {
        self.0.send_if_modified(|peers| {
            let same = peers
                .get(&peer.name)
                .is_some_and(|old| old.address == peer.address);
            if !same {
                Arc::make_mut(peers).insert(peer.name.clone(), peer);
            }
            !same
        });
    }

    /// Forgets the peers that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.0.send_if_modified(|peers| {
            let all = peers.keys().all(|name| keep(name));
            if !all {
                Arc::make_mut(peers).retain(|name, _| keep(name));
            }
            !all
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_name_each_node() {
        let template: AddressTemplate = "unix:///run/{node}/hubble.sock".parse().unwrap();
        assert_eq!(
            template.of("a", None).as_deref(),
            Some("unix:///run/a/hubble.sock")
        );
        let template: AddressTemplate = "{ip}:4244".parse().unwrap();
        assert_eq!(
            template.of("a", Some("10.0.0.1")).as_deref(),
            Some("10.0.0.1:4244")
        );
        assert_eq!(template.of("a", None), None);
        assert_eq!(
            "127.0.0.1:4244".parse::<AddressTemplate>(),
            Err(SameAddress)
        );
    }

    #[tokio::test]
    async fn only_real_changes_are_news() {
        let peers = Peers::default();
        let mut news = peers.follow();
        peers.put(Peer::new("a", "10.0.0.1:4244").unwrap());
        assert!(news.has_changed().unwrap());
        news.mark_unchanged();
        peers.put(Peer::new("a", "10.0.0.1:4244").unwrap());
        peers.retain(|_| true);
        assert!(!news.has_changed().unwrap());
        peers.put(Peer::new("a", "10.0.0.2:4244").unwrap());
        assert_eq!(&*peers.now()["a"].address, "10.0.0.2:4244");
        peers.retain(|name| name != "a");
        assert!(peers.now().is_empty());
    }
}
