//! What several filters do with text.

/// Percent-encoding undone. Bytes that `decode` says no to stay encoded, and so does what is not
/// encoded as it should be.
///
/// ```
/// use weft_sdk::text::percent_decode;
/// assert_eq!(percent_decode("a%20b%zz%", |_| true), b"a b%zz%");
/// assert_eq!(percent_decode("a%0ab", |byte| !byte.is_ascii_control()), b"a%0ab");
/// ```
#[must_use]
pub fn percent_decode(encoded: impl AsRef<[u8]>, decode: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut rest = encoded.as_ref();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let byte = match (first, after) {
            (b'%', [high, low, ..]) => byte_of(*high, *low).filter(|byte| decode(*byte)),
            _ => None,
        };
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}

fn byte_of(high: u8, low: u8) -> Option<u8> {
    let digit = |letter: u8| char::from(letter).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// A number that stands for some bytes: FNV-1a. Spread well enough to choose by, quick for short
/// texts; whoever wants to finds another text with the same number.
///
/// ```
/// use weft_sdk::text::fnv1a;
/// assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
/// ```
#[must_use]
pub fn fnv1a(bytes: impl AsRef<[u8]>) -> u64 {
    let bytes = bytes.as_ref().iter();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::percent_decode;

    #[test]
    fn only_what_is_encoded_is_decoded() {
        for (encoded, decoded) in [
            ("", ""),
            ("%41%4a%4A", "AJJ"),
            ("%", "%"),
            ("%4", "%4"),
            ("%+4%4 %-1", "%+4%4 %-1"),
            ("%%41", "%A"),
            ("%2541", "%41"),
        ] {
            let found = percent_decode(encoded, |_byte| true);
            assert_eq!(String::from_utf8_lossy(&found), decoded, "{encoded}");
        }
    }
}
