//! SPDY/3.1 header blocks: pairs of length-prefixed text, compressed with zlib over the
//! whole life of a connection and starting from a dictionary that the protocol gives.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::spdy::SpdyError;

/// The dictionary's words, each with its length before it; see section 2.6.10.1 of the
/// protocol's third draft.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// The dictionary's end, without lengths.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=\
iso-8859-1,utf-,*,enq=0.";
/// zlib's header of a stream that begins with the dictionary: its Adler-32 at the end.
const PREAMBLE: [u8; 6] = [0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2];
/// How far back deflate can refer.
const WINDOW: usize = 32 * 1024;
/// Room for what one block may come to, beside the window.
const BLOCK: usize = 16 * 1024;

fn dictionary() -> Vec<u8> {
    let mut out = Vec::new();
    for word in WORDS.split_whitespace() {
        let word = word.replace('_', " ");
        out.extend(length(word.len()));
        out.extend(word.as_bytes());
    }
    out.extend(TAIL.as_bytes());
    out
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// Reads the header blocks of one direction.
pub(super) struct HeaderReader {
    inflate: Box<DecompressorOxide>,
    /// What was inflated so far, the dictionary first.
    history: Vec<u8>,
    end: usize,
    begun: bool,
}

impl HeaderReader {
    pub(super) fn new() -> Self {
        let mut history = dictionary();
        let end = history.len();
        history.resize(WINDOW + BLOCK, 0);
        Self {
            inflate: Box::default(),
            history,
            end,
            begun: false,
        }
    }

    /// The pairs of the next block.
    pub(super) fn read(&mut self, mut block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        if !self.begun {
            let (header, rest) = block.split_at_checked(6).ok_or(SpdyError::Headers)?;
            // Level bits may differ; the dictionary's mark and checksum may not.
            let fits =
                header[0] == PREAMBLE[0] && header[1] & 0x20 != 0 && header[2..] == PREAMBLE[2..];
            if !fits {
                return Err(SpdyError::Headers);
            }
            self.begun = true;
            block = rest;
        }
        if self.end > WINDOW {
            self.history.copy_within(self.end - WINDOW..self.end, 0);
            self.end = WINDOW;
        }
        let flags = TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, read, written) =
            decompress(&mut self.inflate, block, &mut self.history, self.end, flags);
        if status != TINFLStatus::NeedsMoreInput || read != block.len() {
            return Err(SpdyError::Headers);
        }
        let plain = &self.history[self.end..self.end + written];
        let pairs = pairs(plain).ok_or(SpdyError::Headers);
        self.end += written;
        pairs
    }
}

fn pairs(plain: &[u8]) -> Option<Vec<(String, String)>> {
    let (count, mut rest) = number(plain)?;
    let mut out = Vec::new();
    for _ in 0..count {
        let (name, after) = text(rest)?;
        let (value, after) = text(after)?;
        out.push((name, value));
        rest = after;
    }
    Some(out)
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_be_bytes(*number)).ok()?, rest))
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = number(bytes)?;
    let (text, rest) = rest.split_at_checked(length)?;
    Some((String::from_utf8(text.to_vec()).ok()?, rest))
}

/// Writes the header blocks of one direction; only empty ones are ever needed.
#[derive(Default)]
pub(super) struct HeaderWriter {
    begun: bool,
}

impl HeaderWriter {
    /// A block without pairs, as a stored (not compressed) deflate block.
    pub(super) fn empty(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.begun {
            out.extend(PREAMBLE);
            self.begun = true;
        }
        out.push(0);
        out.extend(4_u16.to_le_bytes());
        out.extend((!4_u16).to_le_bytes());
        out.extend(0_u32.to_be_bytes());
        // A flush: without it Go's reader looks for the next block and ends for good.
        out.extend([0, 0, 0, 0xff, 0xff]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary {
            a = (a + u32::from(byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!((b << 16 | a).to_be_bytes(), PREAMBLE[2..]);
        assert_eq!(
            (u16::from(PREAMBLE[0]) << 8 | u16::from(PREAMBLE[1])) % 31,
            0
        );
    }

    #[test]
    fn own_blocks_are_read_back() {
        let mut writer = HeaderWriter::default();
        let mut reader = HeaderReader::new();
        for _ in 0..10_000 {
            assert_eq!(reader.read(&writer.empty()).expect("reads"), []);
        }
        assert!(reader.read(b"\xff\xff\xff").is_err());
        assert!(HeaderReader::new().read(b"x\x01").is_err());
    }
}
