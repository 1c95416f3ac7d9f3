//! HTTP as the proxy speaks it: bodies on their way through, answers of its
//! own, and the strict reading of what clients send.

pub mod body;
pub mod chunked;
pub mod respond;
pub mod strict;

/// Whether `byte` may stand in a token: methods and field names (RFC 9110,
/// section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
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
