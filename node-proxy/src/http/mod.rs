//! HTTP as the proxy speaks it: bodies on their way through, answers of its
//! own, and the strict reading of what clients send.

pub mod body;
pub mod chunked;
pub mod respond;
pub mod strict;
pub mod trailers;
pub mod upgrade;

/// Whether `byte` may stand in a token: methods and field names (RFC 9110,
/// section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

const TOKEN: [bool; 256] = alphanumeric_and(b"!#$%&'*+-.^_`|~");

/// A table for characters that are looked up one by one: letters, digits and
/// these.
pub(crate) const fn alphanumeric_and(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
}

/// A number as `Content-Length` writes it: digits alone, no sign, no space, no
/// list. `None` when it is anything else or does not fit.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
