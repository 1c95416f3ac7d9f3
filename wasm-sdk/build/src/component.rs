//! What a module is, and the component that is made of it.

use anyhow::{Context as _, Result, bail};
use weft_abi::section::{
    COMPONENT, CUSTOM, MAX_SCHEMA, MODULE, Malformed, Section, sections, with_config_schema,
};
use wit_component::ComponentEncoder;

use crate::describe;

/// For whom a filter is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    /// A component of the world `weft:filter`.
    Weft,
    /// A module for proxies that know proxy-wasm.
    ProxyWasm,
}

/// Where wit-bindgen leaves the types of imports and exports.
const TYPES: &str = "component-type";
const EXPORTS: u8 = 7;

/// Makes a component of a module that was made with the SDK, which carries the schema of its
/// configuration; what is a component already, or a proxy-wasm module, stays as it is.
///
/// # Errors
/// Where it is none of them, or cannot say what it is.
pub fn finish(bytes: Vec<u8>) -> Result<(Abi, Vec<u8>)> {
    if bytes.starts_with(&COMPONENT) {
        return Ok((Abi::Weft, bytes));
    }
    if !bytes.starts_with(&MODULE) {
        bail!("it is no WebAssembly");
    }
    let names = Names::of(&bytes)?;
    if names.custom.iter().any(|name| name.starts_with(TYPES)) {
        let component = ComponentEncoder::default()
            .validate(true)
            .module(&bytes)
            .and_then(|mut encoder| encoder.encode())
            .context("no component can be made of it")?;
        return Ok((Abi::Weft, with_schema(component, &bytes)?));
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

/// The component with the schema that the module says, if it has one.
fn with_schema(component: Vec<u8>, module: &[u8]) -> Result<Vec<u8>> {
    let schema = describe::config_schema(module)
        .context("it cannot say what it is, so that no proxy could load it")?;
    match schema.len() {
        0 => Ok(component),
        1..=MAX_SCHEMA => Ok(with_config_schema(component, &schema)),
        bytes => bail!(
            "the schema of its configuration has {bytes} bytes, more than the {MAX_SCHEMA} that \
             proxies check against"
        ),
    }
}

/// Names in a module.
#[derive(Default)]
struct Names {
    custom: Vec<String>,
    exports: Vec<String>,
}

impl Names {
    fn of(module: &[u8]) -> Result<Self, Malformed> {
        let mut names = Self::default();
        for section in sections(module)? {
            names.add(section?).ok_or(Malformed::Sections)?;
        }
        Ok(names)
    }

    fn add(&mut self, section: Section<'_>) -> Option<()> {
        let mut content = section.content;
        let text = |name| String::from_utf8_lossy(name).into_owned();
        match section.id {
            CUSTOM => self.custom.push(text(content.name()?)),
            EXPORTS => {
                for _ in 0..content.number()? {
                    self.exports.push(text(content.name()?));
                    content.byte()?;
                    content.number()?;
                }
            }
            _ => {}
        }
        Some(())
    }
}
