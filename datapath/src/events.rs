//! Reading the programs' reports.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use weft_datapath_common::{RawEvent, map_names};

use crate::event::Event;
use crate::pins::Pins;
use crate::{Error, conntrack};

/// Events that nobody read for so long tell of another time.
const STALE_NANOS: u64 = 1_000_000_000;

/// The programs' reports. The descriptor is readable while events wait.
///
/// There must be one reader only: what is read is gone.
pub struct Events {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    since: u64,
}

impl Events {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            ring: pins.open(map_names::EVENTS)?,
            lost: pins.open(map_names::LOST)?,
            since: conntrack::now().saturating_sub(STALE_NANOS),
        })
    }

    /// Events that were lost because the ring was full, since the maps were
    /// made.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn lost(&self) -> Result<u64, Error> {
        let lost = self.lost.get(&0, 0).map_err(Error::map(map_names::LOST))?;
        Ok(lost.iter().sum())
    }

    /// The next event, or `None` when all are read. Leaves out what waited in
    /// the ring since long before it was opened.
    #[expect(
        clippy::should_implement_trait,
        reason = "the end of an iterator is final, this is not"
    )]
    pub fn next(&mut self) -> Option<Event> {
        while let Some(item) = self.ring.next() {
            let event = read(&item)
                .filter(|raw| raw.time >= self.since)
                .and_then(|raw| Event::from_raw(&raw));
            if event.is_some() {
                return event;
            }
        }
        None
    }
}

#[expect(
    unsafe_code,
    reason = "bytes of the ring are an event that the programs wrote"
)]
fn read(bytes: &[u8]) -> Option<RawEvent> {
    if bytes.len() < size_of::<RawEvent>() {
        return None;
    }
    // SAFETY: long enough, read without regard to alignment, and made of
    // integers only, of which every bit pattern is one.
    Some(unsafe { bytes.as_ptr().cast::<RawEvent>().read_unaligned() })
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_fd().as_raw_fd()
    }
}
