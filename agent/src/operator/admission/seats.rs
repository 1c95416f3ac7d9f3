//! Who may be connected. Who has not shown the token has a little while, and so few
//! connections that others find room; who has shown it does not compete with them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections at a time of those who have shown the token: API servers open one for
/// each review that they wait for.
const KNOWN: usize = 64;
/// Of those who have not, and how many of these from one address: a burst of reviews
/// has to fit.
const STRANGERS: usize = 256;
const OF_ONE: usize = 32;

/// The seats that there are.
#[derive(Clone)]
pub(super) struct Seats {
    strangers: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    known: Arc<Semaphore>,
}

impl Default for Seats {
    fn default() -> Self {
        Self {
            strangers: Arc::default(),
            known: Arc::new(Semaphore::new(KNOWN)),
        }
    }
}

impl Seats {
    /// A seat for a stranger, if there is one.
    pub(super) fn take(&self, address: IpAddr) -> Option<Seat> {
        let address = address.to_canonical();
        let mut strangers = self.strangers();
        let all: usize = strangers.values().sum();
        let of_one = strangers.get(&address).copied().unwrap_or_default();
        if all >= STRANGERS || of_one >= OF_ONE {
            return None;
        }
        strangers.insert(address, of_one + 1);
        let stranger = Stranger {
            seats: self.clone(),
            address,
        };
        Some(Seat {
            known: Arc::clone(&self.known),
            kind: Mutex::new(Kind::Stranger { _seat: stranger }),
            shown: CancellationToken::new(),
        })
    }

    fn strangers(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The seat of a connection.
pub(super) struct Seat {
    known: Arc<Semaphore>,
    kind: Mutex<Kind>,
    shown: CancellationToken,
}

enum Kind {
    Stranger { _seat: Stranger },
    Known { _permit: OwnedSemaphorePermit },
}

impl Seat {
    /// The token was shown. False where too many have shown it.
    pub(super) fn show(&self) -> bool {
        let mut kind = self.kind.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*kind, Kind::Stranger { .. }) {
            let Ok(permit) = Arc::clone(&self.known).try_acquire_owned() else {
                return false;
            };
            *kind = Kind::Known { _permit: permit };
            self.shown.cancel();
        }
        true
    }

    /// Ends once the token was shown.
    pub(super) async fn shown(&self) {
        self.shown.cancelled().await;
    }
}

struct Stranger {
    seats: Seats,
    address: IpAddr,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut strangers = self.seats.strangers();
        if let Some(count) = strangers.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                strangers.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let seats = Seats::default();
        let mut taken: Vec<_> = (0..OF_ONE).map(|_| seats.take(address(1))).collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(seats.take(address(1)).is_none());
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        assert!(seats.take(mapped.into()).is_none());
        assert!(seats.take(address(2)).is_some());
        taken.pop();
        assert!(seats.take(address(1)).is_some());
    }

    #[test]
    fn all_of_them_have_so_many_and_no_more() {
        let seats = Seats::default();
        let of_each = (0..STRANGERS / OF_ONE).flat_map(|number| [number; OF_ONE]);
        let taken: Vec<_> = of_each
            .map(|number| seats.take(address(u8::try_from(number).expect("small"))))
            .collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(seats.take(address(200)).is_none());
        drop(taken);
        assert!(seats.strangers().is_empty());
    }

    #[test]
    fn who_has_shown_the_token_takes_no_strangers_seat() {
        let seats = Seats::default();
        let known: Vec<_> = (0..KNOWN)
            .map(|_| seats.take(address(1)).expect("a seat"))
            .inspect(|seat| assert!(seat.show() && seat.show()))
            .collect();
        let one_more = seats.take(address(1)).expect("a stranger's seat");
        assert!(!one_more.show());
        drop(known);
        assert!(one_more.show());
        assert!(seats.strangers().is_empty());
    }
}
