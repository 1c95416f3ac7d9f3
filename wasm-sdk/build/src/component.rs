//! What a module is, and the component that is made of it.

use anyhow::{Context as _, Result, bail};
use wit_component::ComponentEncoder;

/// For whom a filter is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    /// A component of the world `weft:filter`.
    Weft,
    /// A module for proxies that know proxy-wasm.
    ProxyWasm,
}

/// The first bytes of a module, and of a component.
const MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";
/// Where wit-bindgen leaves the types of imports and exports.
const TYPES: &str = "component-type";
const CUSTOM: u8 = 0;
const EXPORTS: u8 = 7;

/// Makes a component of a module that was made with the SDK; what is a component already, or a
/// proxy-wasm module, stays as it is.
///
/// # Errors
/// Where it is none of them.
pub fn finish(bytes: Vec<u8>) -> Result<(Abi, Vec<u8>)> {
    if bytes.starts_with(&COMPONENT) {
        return Ok((Abi::Weft, bytes));
    }
    if !bytes.starts_with(&MODULE) {
        bail!("it is no WebAssembly");
    }
    let names = Names::of(&bytes).context("it cannot be read")?;
    if names.custom.iter().any(|name| name.starts_with(TYPES)) {
        let component = ComponentEncoder::default()
            .validate(true)
            .module(&bytes)
            .and_then(|mut encoder| encoder.encode())
            .context("no component can be made of it")?;
        return Ok((Abi::Weft, component));
    }
    if names
        .exports
        .iter()
        .any(|name| name.starts_with("proxy_abi_version_"))
    {
        return Ok((Abi::ProxyWasm, bytes));
    }
    bail!("it exports no filter: is #[weft_sdk::filter] on the impl, and the crate's type cdylib?")
}

/// Names in a module.
#[derive(Default)]
struct Names {
    custom: Vec<String>,
    exports: Vec<String>,
}

impl Names {
    fn of(module: &[u8]) -> Option<Self> {
        let mut names = Self::default();
        let mut rest = Bytes(module.get(MODULE.len()..)?);
        while let Some(id) = rest.byte() {
            let length = rest.number()?;
            let mut section = Bytes(rest.take(length)?);
            match id {
                CUSTOM => names.custom.push(section.name()?),
                EXPORTS => {
                    for _ in 0..section.number()? {
                        names.exports.push(section.name()?);
                        section.byte()?;
                        section.number()?;
                    }
                }
                _ => {}
            }
        }
        Some(names)
    }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// LEB128, of at most 32 bits.
    fn number(&mut self) -> Option<usize> {
        let mut number = 0_usize;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn name(&mut self) -> Option<String> {
        let length = self.number()?;
        Some(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}
