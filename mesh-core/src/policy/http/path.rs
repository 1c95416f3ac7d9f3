//! One form for every path, so that what is judged is what is forwarded.
//!
//! Servers disagree about `//`, `/./`, `%2e`, `\` and friends; a policy that
//! judged the bytes as sent could be passed by a spelling that the server then
//! reads differently. Requests are therefore judged, and sent on, in one form.

use std::borrow::Cow;

/// A request target in its one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalized<'a> {
    /// Path and query; borrowed when nothing had to change. This is what is
    /// judged and what is forwarded.
    pub target: Cow<'a, str>,
    /// The path held an escaped slash or backslash, about which servers
    /// disagree most: when the request is allowed it is not forwarded but
    /// answered with a redirect (307) to `target`. When it is denied, it is
    /// denied.
    pub redirect: bool,
}

/// Why a request target is refused (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NormalizeError {
    /// It does not start with a slash.
    #[error("request target is not a path")]
    NotAbsolute,
    /// `%00`: what comes after it is read by some servers and not by others.
    #[error("null byte in path")]
    Nul,
    /// A percent sign without two hexadecimal digits.
    #[error("invalid percent-encoding in path")]
    BadEscape,
    /// A control character or a space.
    #[error("invalid character in path")]
    BadCharacter,
}

/// Brings a request target (origin form: path and query) into its one form.
///
/// In the path: escapes of unreserved characters are decoded (once), other
/// escapes get upper-case digits, `\` and escaped slashes become `/`, dot
/// segments are resolved (with or without `;parameters`), runs of slashes
/// become one, characters beyond ASCII are escaped. A fragment is cut off. The
/// query stays as it is. `*` (OPTIONS) is passed through.
///
/// # Errors
/// See [`NormalizeError`].
pub fn normalize(target: &str) -> Result<Normalized<'_>, NormalizeError> {
    if target == "*" {
        return Ok(unchanged(target));
    }
    // Byte by byte: targets are short, a search for one byte is for long texts.
    let find = |text: &str, wanted: u8| text.bytes().position(|byte| byte == wanted);
    let whole = find(target, b'#').map_or(target, |at| &target[..at]);
    let (path, query) = whole.split_at(find(whole, b'?').unwrap_or(whole.len()));
    if is_normal(path) {
        return Ok(unchanged(whole));
    }
    if path.is_empty() && !query.is_empty() {
        let target = Cow::Owned(format!("/{query}"));
        return Ok(Normalized {
            target,
            redirect: false,
        });
    }
    if !path.starts_with(['/', '\\']) {
        return Err(NormalizeError::NotAbsolute);
    }
    let decoded = decode(path)?;
    let mut normal = resolve(&decoded.path);
    normal.push_str(query);
    Ok(Normalized {
        target: match normal == whole {
            true => Cow::Borrowed(whole),
            false => Cow::Owned(normal),
        },
        redirect: decoded.escaped_slash,
    })
}

fn unchanged(target: &str) -> Normalized<'_> {
    Normalized {
        target: Cow::Borrowed(target),
        redirect: false,
    }
}

/// Whether a path surely needs no change: the common case, one pass.
fn is_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    let mut after_slash = false;
    for byte in bytes {
        let plain = match byte {
            b'/' | b'.' => !after_slash,
            b'%' | b'\\' => false,
            _ => (0x21..0x7f).contains(byte),
        };
        if !plain {
            return false;
        }
        after_slash = *byte == b'/';
    }
    bytes.first() == Some(&b'/')
}

struct Decoded {
    path: String,
    escaped_slash: bool,
}

fn decode(path: &str) -> Result<Decoded, NormalizeError> {
    let mut decoded = Decoded {
        path: String::with_capacity(path.len()),
        escaped_slash: false,
    };
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => decoded.escape(unescape(&mut bytes)?)?,
            b'\\' => decoded.path.push('/'),
            0..=0x20 | 0x7f => return Err(NormalizeError::BadCharacter),
            0x21..=0x7e => decoded.path.push(char::from(byte)),
            0x80.. => decoded.push_escaped(byte),
        }
    }
    Ok(decoded)
}

fn unescape(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, NormalizeError> {
    let mut digit = || {
        let digit = char::from(bytes.next()?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    match (digit(), digit()) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(NormalizeError::BadEscape),
    }
}

impl Decoded {
    fn escape(&mut self, byte: u8) -> Result<(), NormalizeError> {
        match byte {
            0 => return Err(NormalizeError::Nul),
            b'/' | b'\\' => {
                self.path.push('/');
                self.escaped_slash = true;
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                self.path.push(char::from(byte));
            }
            _ => self.push_escaped(byte),
        }
        Ok(())
    }

    fn push_escaped(&mut self, byte: u8) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        self.path.push('%');
        for digit in [byte >> 4, byte & 0xf] {
            let digit = DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0');
            self.path.push(char::from(digit));
        }
    }
}

/// Resolves dot segments, then merges slashes.
fn resolve(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_slash = true;
    for segment in path.split('/').skip(1) {
        // Some servers cut parameters off before they look at the dots.
        let (name, _) = segment.split_once(';').unwrap_or((segment, ""));
        ends_in_slash = matches!(name, "." | "..") || segment.is_empty();
        match name {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(path.len());
    for segment in segments.iter().filter(|segment| !segment.is_empty()) {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_in_slash {
        normal.push('/');
    }
    normal
}

#[cfg(test)]
mod tests;
