//! The chunked transfer coding (RFC 9112, section 7.1), read strictly.
//!
//! Only finds boundaries: it is shown the bytes that are there and says what
//! the first of them are. A lenient reading of these lines is how requests are
//! smuggled past a proxy, so nothing but the grammar passes: no bare LF, no
//! sign, no space, no underscore.

use thiserror::Error;

use super::trailers;

/// Longest size line, extensions included, without its CRLF. Extensions have
/// no known use; a line past this is an attempt to hide bytes in them.
const MAX_SIZE_LINE: usize = 4 * 1024;

/// All the extensions of one body together.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Largest trailer section.
const MAX_TRAILERS: usize = 16 * 1024;

/// What is wrong with a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// A size that is no plain hexadecimal number, or too large.
    #[error("chunk size")]
    Size,
    /// Too much chunk extension, or a control character in it.
    #[error("chunk extension")]
    Extension,
    /// A line that does not end in CRLF.
    #[error("bare CR or LF in chunked body")]
    LineEnd,
    /// A trailer section that is malformed, too large, or holds a field that
    /// may not be in one.
    #[error("trailer")]
    Trailer,
}

/// What the bytes shown to [`Chunked::next`] begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Cannot be told yet: show more.
    More,
    /// This many bytes of framing.
    Framing(usize),
    /// This many bytes of content, at least one.
    Data(usize),
    /// This many bytes that end the body: the trailer section with its last
    /// CRLF. Without trailers that CRLF is all.
    End(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// Where in a chunked body the reader stands.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    extensions: usize,
}

impl Default for Chunked {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunked {
    /// Before the first chunk.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Size,
            extensions: 0,
        }
    }

    /// Whether the end was passed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What `bytes`, the part of the body not passed yet, begins with; moves
    /// past it.
    ///
    /// # Errors
    /// The body is malformed; nothing after this point can be trusted.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Piece, ChunkError> {
        match self.state {
            State::Size => self.size_line(bytes),
            State::Data(left) => Ok(self.data(bytes, left)),
            State::DataEnd => self.data_end(bytes),
            State::Trailers => self.trailers(bytes),
            State::Done => Ok(Piece::More),
        }
    }

    fn size_line(&mut self, bytes: &[u8]) -> Result<Piece, ChunkError> {
        let Some(line) = line(bytes, MAX_SIZE_LINE, ChunkError::Extension)? else {
            return Ok(Piece::More);
        };
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let extension = &line[digits..];
        if !(extension.is_empty() || extension[0] == b';') {
            return Err(ChunkError::Size);
        }
        if extension
            .iter()
            .any(|b| b.is_ascii_control() && *b != b'\t')
        {
            return Err(ChunkError::Extension);
        }
        self.extensions += extension.len();
        if self.extensions > MAX_EXTENSIONS {
            return Err(ChunkError::Extension);
        }
        let size = hex(&line[..digits]).ok_or(ChunkError::Size)?;
        self.state = if size == 0 {
            State::Trailers
        } else {
            State::Data(size)
        };
        Ok(Piece::Framing(line.len() + 2))
    }

    fn data(&mut self, bytes: &[u8], left: u64) -> Piece {
        if bytes.is_empty() {
            return Piece::More;
        }
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - here as u64;
        self.state = if left == 0 {
            State::DataEnd
        } else {
            State::Data(left)
        };
        Piece::Data(here)
    }

    fn data_end(&mut self, bytes: &[u8]) -> Result<Piece, ChunkError> {
        match bytes {
            [] | [b'\r'] => Ok(Piece::More),
            [b'\r', b'\n', ..] => {
                self.state = State::Size;
                Ok(Piece::Framing(2))
            }
            _ => Err(ChunkError::LineEnd),
        }
    }

    fn trailers(&mut self, bytes: &[u8]) -> Result<Piece, ChunkError> {
        let mut length = 0;
        loop {
            let Some(line) = line(&bytes[length..], MAX_TRAILERS, ChunkError::Trailer)? else {
                return Ok(Piece::More);
            };
            length += line.len() + 2;
            if length > MAX_TRAILERS {
                return Err(ChunkError::Trailer);
            }
            if line.is_empty() {
                self.state = State::Done;
                return Ok(Piece::End(length));
            }
            check_trailer(line)?;
        }
    }
}

/// The first line of `bytes` without its CRLF; `None` while it is not
/// complete.
fn line(bytes: &[u8], longest: usize, too_long: ChunkError) -> Result<Option<&[u8]>, ChunkError> {
    let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) else {
        return if bytes.len() > longest {
            Err(too_long)
        } else {
            Ok(None)
        };
    };
    if end > longest {
        return Err(too_long);
    }
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', None) => Ok(None),
        (b'\r', Some(b'\n')) => Ok(Some(&bytes[..end])),
        _ => Err(ChunkError::LineEnd),
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let mut value = 0_u64;
    for digit in digits {
        let digit = char::from(*digit).to_digit(16)?;
        value = (value << 4) | u64::from(digit);
    }
    Some(value)
}

fn check_trailer(line: &[u8]) -> Result<(), ChunkError> {
    let colon = memchr::memchr(b':', line).ok_or(ChunkError::Trailer)?;
    let (name, value) = line.split_at(colon);
    let valid = !name.is_empty()
        && name.iter().all(|b| super::is_token(*b))
        && value.iter().all(|b| !b.is_ascii_control() || *b == b'\t');
    if valid && !trailers::is_framing(name) {
        Ok(())
    } else {
        Err(ChunkError::Trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::{ChunkError, Chunked, Piece};

    /// The content of a whole body, shown in steps of `step` bytes.
    fn read(body: &[u8], step: usize) -> Result<(Vec<u8>, usize), ChunkError> {
        let mut chunked = Chunked::new();
        let (mut content, mut at, mut seen) = (Vec::new(), 0, step.min(body.len()));
        while !chunked.is_done() {
            match chunked.next(&body[at..seen])? {
                Piece::More if seen == body.len() => break,
                Piece::More => seen = (seen + step).min(body.len()),
                Piece::Data(n) => {
                    content.extend_from_slice(&body[at..at + n]);
                    at += n;
                }
                Piece::Framing(n) | Piece::End(n) => at += n,
            }
        }
        Ok((content, at))
    }

    #[test]
    fn a_body_reads_the_same_however_it_arrives() {
        let body = b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\nGET /";
        for step in 1..body.len() {
            let (content, end) = read(body, step).expect("valid");
            assert_eq!(content, b"hello world");
            assert_eq!(&body[end..], b"GET /");
        }
    }

    #[test]
    fn sizes_are_plain_hexadecimal() {
        for size in [
            "0_2e",
            "-1",
            "+1",
            "0x5",
            "",
            " 5",
            "5 ",
            "10000000000000000",
        ] {
            let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
            assert_eq!(read(body.as_bytes(), 64), Err(ChunkError::Size), "{size:?}");
        }
    }

    #[test]
    fn lines_end_in_crlf() {
        for body in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\rhello\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"0\r\nx: 1\n\r\n",
        ] {
            assert_eq!(read(body, 64), Err(ChunkError::LineEnd), "{body:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let one = format!("1;{}\r\nx\r\n", "e".repeat(4_000));
        assert_eq!(
            read(one.repeat(5).as_bytes(), 1 << 20),
            Err(ChunkError::Extension)
        );
        let endless = vec![b'1'; 5_000];
        assert_eq!(read(&endless, 1 << 20), Err(ChunkError::Extension));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(3_000));
        assert_eq!(read(trailers.as_bytes(), 1 << 20), Err(ChunkError::Trailer));
    }

    #[test]
    fn trailers_cannot_change_framing() {
        for field in [
            "Content-Length: 3",
            "transfer-encoding: chunked",
            "host: a",
            "no colon",
        ] {
            let body = format!("0\r\n{field}\r\n\r\n");
            assert_eq!(read(body.as_bytes(), 64), Err(ChunkError::Trailer));
        }
    }
}
