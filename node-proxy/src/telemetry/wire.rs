//! Protobuf written field by field, without a message that is built first and
//! taken apart again.

/// The two wire types that records need.
const VARINT: u32 = 0;
const DELIMITED: u32 = 2;

/// Appends fields to a buffer. As the format wants it, a field that has its
/// default value is left out.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    /// With room for so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            buffer: Vec::with_capacity(bytes),
        }
    }

    /// A number or the value of an enumeration.
    pub fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(u64::from(field << 3 | VARINT));
            self.varint(value);
        }
    }

    /// A string.
    pub fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.delimited(field, |writer| writer.put(text.as_bytes()));
        }
    }

    /// A string or message that `write` appends. Present even when empty.
    pub fn delimited(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        self.varint(u64::from(field << 3 | DELIMITED));
        // The length stands before what it counts. One byte is kept for it,
        // which is enough for nearly all; a longer one moves what it counts.
        let place = self.buffer.len();
        self.buffer.push(0);
        write(self);
        let length = self.buffer.len() - place - 1;
        match u8::try_from(length) {
            Ok(short @ 0..=0x7f) => self.buffer[place] = short,
            _ => {
                let mut digits = Self::default();
                digits.varint(length as u64);
                self.buffer.splice(place..=place, digits.buffer);
            }
        }
    }

    /// Bytes so far.
    #[must_use]
    pub fn size(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes inside of a field.
    pub fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// All that was written so far.
    #[must_use]
    pub fn written(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// The whole message.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.buffer
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use weft_api::node::{Header, Http};

    use super::Writer;

    #[test]
    fn everyone_reads_what_is_written() {
        for length in [0, 1, 127, 128, 300, 16_383, 16_384, 70_000] {
            let expected = Http {
                code: u32::try_from(length).expect("small"),
                url: "u".repeat(length),
                headers: vec![Header {
                    key: String::new(),
                    value: "v".repeat(length),
                }],
                ..Default::default()
            };
            let mut writer = Writer::default();
            writer.number(1, length as u64);
            writer.text(3, &expected.url);
            writer.delimited(5, |writer| writer.text(2, &expected.headers[0].value));
            let bytes = writer.finish();
            assert_eq!(bytes, expected.encode_to_vec(), "{length}");
        }
    }
}
