//! The frames of SPDY/3.1 that a port-forward uses.

use tokio_util::bytes::{Buf, Bytes, BytesMut};

use super::headers::{HeaderReader, HeaderWriter};

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpdyError {
    /// A frame of another protocol or version.
    #[error("not a SPDY/3.1 frame")]
    Frame,
    /// A header block that does not unpack.
    #[error("a broken header block")]
    Headers,
}

const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FIN: u8 = 1;
const ID: u32 = 0x7fff_ffff;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream.
    Open {
        id: u32,
        headers: Vec<(String, String)>,
        /// The client will send nothing on it.
        fin: bool,
    },
    /// Bytes of a stream.
    Data { id: u32, payload: Bytes, fin: bool },
    /// A stream is over, in both directions.
    Reset { id: u32 },
    /// To be sent back.
    Ping { id: u32 },
    /// The client leaves.
    GoAway,
    /// Nothing that matters here.
    Other,
}

/// Takes the next whole frame off the buffer.
pub(super) fn next(
    buffer: &mut BytesMut,
    headers: &mut HeaderReader,
) -> Result<Option<Frame>, SpdyError> {
    let Some(head) = buffer.first_chunk::<8>() else {
        return Ok(None);
    };
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let flags = head[4];
    let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
    if buffer.len() < 8 + length {
        return Ok(None);
    }
    buffer.advance(8);
    let mut body = buffer.split_to(length).freeze();
    let fin = flags & FIN != 0;
    if first & !ID == 0 {
        return Ok(Some(Frame::Data {
            id: first,
            payload: body,
            fin,
        }));
    }
    let [version, kind] = [(first >> 16) as u16, (first & 0xffff) as u16];
    if version != CONTROL {
        return Err(SpdyError::Frame);
    }
    let number = |body: &mut Bytes| body.try_get_u32().map_err(|_| SpdyError::Frame);
    Ok(Some(match kind {
        SYN_STREAM => {
            let id = number(&mut body)? & ID;
            // The stream it belongs to, priority and slot.
            number(&mut body)?;
            body.try_get_u16().map_err(|_| SpdyError::Frame)?;
            Frame::Open {
                id,
                headers: headers.read(&body)?,
                fin,
            }
        }
        // Not needed, but part of the compressed stream.
        SYN_REPLY | HEADERS => {
            number(&mut body)?;
            headers.read(&body)?;
            Frame::Other
        }
        RST_STREAM => Frame::Reset {
            id: number(&mut body)? & ID,
        },
        PING => Frame::Ping {
            id: number(&mut body)?,
        },
        GOAWAY => Frame::GoAway,
        _ => Frame::Other,
    }))
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(8 + body.len());
    out.extend(CONTROL.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(u32::try_from(body.len()).unwrap_or(0).to_be_bytes());
    out.extend(body);
    Bytes::from(out)
}

/// Accepts a stream.
pub(super) fn accept(id: u32, headers: &mut HeaderWriter) -> Bytes {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(headers.empty());
    control(SYN_REPLY, &body)
}

/// Refuses a stream.
pub(super) fn refuse(id: u32) -> Bytes {
    const REFUSED: u32 = 3;
    control(
        RST_STREAM,
        &[id.to_be_bytes(), REFUSED.to_be_bytes()].concat(),
    )
}

/// Answers a ping.
pub(super) fn pong(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

/// Bytes on a stream, the last ones with `fin`. At most 2^24 - 1.
pub(super) fn data(id: u32, payload: &[u8], fin: bool) -> Bytes {
    let mut out = Vec::with_capacity(8 + payload.len());
    out.extend((id & ID).to_be_bytes());
    let length = u32::try_from(payload.len()).unwrap_or(0);
    out.extend((u32::from(u8::from(fin)) << 24 | length).to_be_bytes());
    out.extend(payload);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_or_not_at_all() {
        let mut reader = HeaderReader::new();
        let mut writer = HeaderWriter::default();
        let sent = [
            accept(1, &mut writer),
            data(3, b"hello", true),
            pong(7),
            refuse(5),
        ]
        .concat();
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in sent {
            buffer.extend([byte]);
            seen.extend(next(&mut buffer, &mut reader).expect("fine"));
        }
        let hello = Frame::Data {
            id: 3,
            payload: Bytes::from_static(b"hello"),
            fin: true,
        };
        assert_eq!(
            seen,
            [
                Frame::Other,
                hello,
                Frame::Ping { id: 7 },
                Frame::Reset { id: 5 }
            ]
        );
        assert!(buffer.is_empty());
        let mut other = BytesMut::from(&b"\x80\x02\x00\x06\x00\x00\x00\x00"[..]);
        assert_eq!(next(&mut other, &mut reader), Err(SpdyError::Frame));
    }
}
