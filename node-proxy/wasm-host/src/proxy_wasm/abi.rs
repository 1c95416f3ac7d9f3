//! Numbers and forms of proxy-wasm 0.2.0 and 0.2.1.

use wasmtime::Error;

use crate::headers::Refusal;
use crate::types::{FetchError, Fields, Level, Side};

/// Most pairs that a filter may give at once; no message has as many.
const MAX_PAIRS: usize = 4096;
/// Most bytes of them.
const MAX_PAIRS_BYTES: usize = 2 << 20;

/// What a host function answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Status {
    Ok = 0,
    NotFound = 1,
    BadArgument = 2,
    ParseFailure = 4,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    InternalFailure = 10,
    Unimplemented = 12,
}

/// Why a host function does not do what it was asked.
#[derive(Debug)]
pub(super) enum Stop {
    Status(Status),
    /// The filter itself trapped, in its allocator.
    Trap(Error),
}

pub(super) type Answer = Result<(), Stop>;

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Refusal> for Stop {
    fn from(_refusal: Refusal) -> Self {
        Self::Status(Status::BadArgument)
    }
}

impl From<FetchError> for Stop {
    fn from(error: FetchError) -> Self {
        Self::Status(match error {
            FetchError::Invalid(_) => Status::BadArgument,
            _ => Status::InternalFailure,
        })
    }
}

/// What is written on the wire between filter and host.
pub(super) fn finish(answer: Answer) -> wasmtime::Result<u32> {
    match answer {
        Ok(()) => Ok(Status::Ok as u32),
        Err(Stop::Status(status)) => Ok(status as u32),
        Err(Stop::Trap(error)) => Err(error),
    }
}

/// Which headers are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Map {
    Exchange(Fields),
    GrpcInitial,
    GrpcTrailing,
    CallHeaders,
    CallTrailers,
}

impl Map {
    pub(super) const fn new(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::Exchange(Fields::RequestHeaders),
            1 => Self::Exchange(Fields::RequestTrailers),
            2 => Self::Exchange(Fields::ResponseHeaders),
            3 => Self::Exchange(Fields::ResponseTrailers),
            4 => Self::GrpcInitial,
            5 => Self::GrpcTrailing,
            6 => Self::CallHeaders,
            7 => Self::CallTrailers,
            _ => return Err(Status::BadArgument),
        })
    }
}

/// Which bytes are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Buffer {
    Body(Side),
    CallBody,
    GrpcMessage,
    VmConfig,
    PluginConfig,
}

impl Buffer {
    pub(super) const fn new(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::Body(Side::Request),
            1 => Self::Body(Side::Response),
            // Of TCP filters and of foreign functions; there are none here.
            2 | 3 | 8 => return Err(Status::NotFound),
            4 => Self::CallBody,
            5 => Self::GrpcMessage,
            6 => Self::VmConfig,
            7 => Self::PluginConfig,
            _ => return Err(Status::BadArgument),
        })
    }
}

pub(super) const fn stream(number: u32) -> Result<Side, Status> {
    match number {
        0 => Ok(Side::Request),
        1 => Ok(Side::Response),
        _ => Err(Status::BadArgument),
    }
}

pub(super) const fn level(number: u32) -> Result<Level, Status> {
    Ok(match number {
        0 => Level::Trace,
        1 => Level::Debug,
        2 => Level::Info,
        3 => Level::Warn,
        4 | 5 => Level::Error,
        _ => return Err(Status::BadArgument),
    })
}

/// Names and values in one piece: how many, the lengths of each, and the bytes, each with a 0 after.
pub(super) fn serialize(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let size: usize = pairs.iter().map(|(k, v)| 10 + k.len() + v.len()).sum();
    let mut bytes = Vec::with_capacity(4 + size);
    // Headers are far from 4 GiB.
    let number = |bytes: &mut Vec<u8>, number: usize| {
        bytes.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    };
    number(&mut bytes, pairs.len());
    for (name, value) in pairs {
        number(&mut bytes, name.len());
        number(&mut bytes, value.len());
    }
    for (name, value) in pairs {
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend_from_slice(value);
        bytes.push(0);
    }
    bytes
}

/// The reverse; none if a length leads out of it, or if it is too much. Nothing at all is no pairs.
pub(super) fn deserialize(bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let number = |at: usize| {
        let four = bytes.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(four.try_into().ok()?)).ok()
    };
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let count = number(0)?;
    if count > MAX_PAIRS || bytes.len() > MAX_PAIRS_BYTES {
        return None;
    }
    let mut at = count.checked_mul(8)?.checked_add(4)?;
    if at > bytes.len() {
        return None;
    }
    let mut take = |length: usize| {
        let end = at.checked_add(length)?;
        // With the 0 after it.
        let piece = bytes.get(at..=end)?.split_last()?.1;
        at = end.checked_add(1)?;
        Some(piece)
    };
    (0..count)
        .map(|pair| {
            let name = take(number(4 + 8 * pair)?)?;
            let value = take(number(8 + 8 * pair)?)?;
            Some((name, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{MAX_PAIRS, MAX_PAIRS_BYTES, deserialize, serialize};

    #[test]
    fn pairs_come_back_as_they_were() {
        let pairs: [(&[u8], &[u8]); 3] = [(b":path", b"/"), (b"empty", b""), (b"x", b"\xff\x00")];
        let bytes = serialize(&pairs);
        assert_eq!(bytes[..12], [3, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(deserialize(&bytes).as_deref(), Some(&pairs[..]));
        assert_eq!(serialize(&[]), [0; 4]);
        assert_eq!(deserialize(&[]), Some(vec![]));
    }

    #[test]
    fn pairs_are_bounded() {
        let pairs: Vec<(&[u8], &[u8])> = vec![(b"x", b""); MAX_PAIRS + 1];
        assert!(deserialize(&serialize(&pairs[1..])).is_some());
        assert_eq!(deserialize(&serialize(&pairs)), None);
        // A count, two lengths, the name and two zeros beside the value.
        let value = vec![b'v'; MAX_PAIRS_BYTES - 15];
        assert!(deserialize(&serialize(&[(b"x", &value)])).is_some());
        assert_eq!(deserialize(&serialize(&[(b"xx", &value)])), None);
    }

    #[test]
    fn lengths_that_lead_out_are_refused() {
        let good = serialize(&[(b"name", b"value")]);
        for end in 1..good.len() {
            assert_eq!(deserialize(&good[..end]), None, "{end} bytes");
        }
        for (at, value) in [(0, 0xff), (3, 0xff), (4, 0xff), (7, 0x80), (8, 0x06)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(deserialize(&bad), None, "byte {at}");
        }
    }
}
