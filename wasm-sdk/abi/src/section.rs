//! What a module carries beside its code. A filter's module carries the schema of its
//! configuration, so that whoever has the bytes can read it and runs nothing.
//!
//! Modules may come from anybody: reading one borrows from it, and takes as long as it has sections.

use std::fmt;

/// Name of the custom section with the JSON schema of a filter's configuration: the text that its
/// manifest has as `config-schema`.
pub const CONFIG_SCHEMA: &str = "weft:config-schema";

/// Longest text of a schema, in bytes. Proxies check configurations against no longer one.
pub const MAX_SCHEMA: usize = 256 << 10;

/// The first bytes of a module.
pub const MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";
/// The first bytes of a component.
pub const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// The kind of custom sections.
pub const CUSTOM: u8 = 0;

/// Why a module, or what it carries, cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// It is neither a module nor a component.
    NoModule,
    /// Its sections are not what they say to be: it was cut off, say.
    Sections,
    /// There is more than one schema.
    Twice,
    /// The schema has more than [`MAX_SCHEMA`] bytes.
    TooLong,
    /// The schema is no UTF-8.
    NoText,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoModule => f.write_str("it is neither a WebAssembly module nor a component"),
            Self::Sections => f.write_str("its sections cannot be read: is all of it there?"),
            Self::Twice => write!(f, "it has more than one section {CONFIG_SCHEMA}"),
            Self::TooLong => write!(
                f,
                "its section {CONFIG_SCHEMA} has more than {MAX_SCHEMA} bytes"
            ),
            Self::NoText => write!(f, "its section {CONFIG_SCHEMA} is no UTF-8"),
        }
    }
}

impl std::error::Error for Malformed {}

/// The schema that a module or a component carries; none, too, where it is empty. Sections of
/// modules inside of a component are not looked at.
///
/// ```
/// use weft_abi::section::{COMPONENT, config_schema, with_config_schema};
///
/// let component = COMPONENT.to_vec();
/// assert_eq!(config_schema(&component), Ok(None));
/// let component = with_config_schema(component, r#"{"type": "object"}"#);
/// assert_eq!(config_schema(&component), Ok(Some(r#"{"type": "object"}"#)));
/// ```
///
/// # Errors
/// What is wrong with the module or with the section.
pub fn config_schema(module: &[u8]) -> Result<Option<&str>, Malformed> {
    let mut found = None;
    for section in sections(module)? {
        let section = section?;
        if section.id != CUSTOM {
            continue;
        }
        let mut content = section.content;
        let name = content.name().ok_or(Malformed::Sections)?;
        if name == CONFIG_SCHEMA.as_bytes() && found.replace(content.0).is_some() {
            return Err(Malformed::Twice);
        }
    }
    match found {
        None | Some([]) => Ok(None),
        Some(schema) if schema.len() > MAX_SCHEMA => Err(Malformed::TooLong),
        Some(schema) => match std::str::from_utf8(schema) {
            Ok(schema) => Ok(Some(schema)),
            Err(_) => Err(Malformed::NoText),
        },
    }
}

/// The module with the section appended. It has none so far; the schema is not longer than
/// [`MAX_SCHEMA`], or it cannot be read again.
///
/// ```
/// use weft_abi::section::{COMPONENT, config_schema, with_config_schema};
///
/// let component = with_config_schema(COMPONENT.to_vec(), "true");
/// assert!(component.starts_with(&COMPONENT));
/// assert_eq!(config_schema(&component), Ok(Some("true")));
/// ```
#[must_use]
pub fn with_config_schema(mut module: Vec<u8>, schema: &str) -> Vec<u8> {
    let mut name = Vec::new();
    write_number(&mut name, CONFIG_SCHEMA.len());
    name.extend_from_slice(CONFIG_SCHEMA.as_bytes());
    module.push(CUSTOM);
    write_number(&mut module, name.len() + schema.len());
    module.extend_from_slice(&name);
    module.extend_from_slice(schema.as_bytes());
    module
}

/// LEB128.
fn write_number(out: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        out.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A section of a module or a component.
#[derive(Debug, Clone)]
pub struct Section<'a> {
    /// Its kind.
    pub id: u8,
    /// What is in it; of a [`CUSTOM`] one the name first.
    pub content: Reader<'a>,
}

/// The sections of a module or a component, in order; the last one may be an error.
///
/// ```
/// use weft_abi::section::{CUSTOM, MODULE, sections};
///
/// let module = [&MODULE[..], &[CUSTOM, 3, 1, b'x', 7]].concat();
/// let mut content = match sections(&module)?.next() {
///     Some(section) => section?.content,
///     None => panic!("there is one"),
/// };
/// assert_eq!(content.name(), Some(&b"x"[..]));
/// assert_eq!(content.byte(), Some(7));
/// # Ok::<_, weft_abi::section::Malformed>(())
/// ```
///
/// # Errors
/// Where it is neither a module nor a component.
pub fn sections(module: &[u8]) -> Result<Sections<'_>, Malformed> {
    let rest = module
        .strip_prefix(&MODULE)
        .or_else(|| module.strip_prefix(&COMPONENT))
        .ok_or(Malformed::NoModule)?;
    Ok(Sections(Reader(rest)))
}

/// See [`sections`].
#[derive(Debug, Clone)]
pub struct Sections<'a>(Reader<'a>);

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let id = self.0.byte()?;
        let length = self.0.number();
        let content = length.and_then(|length| self.0.take(length as usize));
        Some(match content {
            Some(content) => Ok(Section {
                id,
                content: Reader(content),
            }),
            None => {
                self.0 = Reader(&[]);
                Err(Malformed::Sections)
            }
        })
    }
}

/// Reads what WebAssembly's binary format is made of; nothing where the bytes end too early, or
/// are not of the form.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number of at most 32 bits, as LEB128.
    pub fn number(&mut self) -> Option<u32> {
        let mut number = 0_u32;
        for shift in (0..32).step_by(7) {
            let byte = self.byte()?;
            let bits = u32::from(byte & 0x7f);
            if bits.leading_zeros() < shift {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A name: its length, and as many bytes.
    pub fn name(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length as usize)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests;
