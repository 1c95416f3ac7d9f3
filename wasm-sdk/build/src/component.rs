//! What a module is, and the component that is made of it.

use anyhow::{Context as _, Result, bail};
use weft_abi::section::{
    COMPONENT, CUSTOM, MAX_SCHEMA, MODULE, Malformed, Section, sections, with_config_schema,
};
use wit_component::ComponentEncoder;

use crate::describe::{self, Schema};

/// For whom a filter is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    /// A component of the world `weft:filter`.
    Weft,
    /// A module for proxies that know proxy-wasm.
    ProxyWasm,
}

/// A filter as it is shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What it is.
    pub abi: Abi,
    /// The module or component.
    pub bytes: Vec<u8>,
    /// What it is not, though it is a filter: one line for its author.
    pub remark: Option<String>,
}

impl Finished {
    fn as_it_is(abi: Abi, bytes: Vec<u8>) -> Self {
        Self {
            abi,
            bytes,
            remark: None,
        }
    }
}

/// Where wit-bindgen leaves the types of imports and exports.
const TYPES: &str = "component-type";
const EXPORTS: u8 = 7;

/// Makes a component of a module that was made with the SDK, which carries the schema of its
/// configuration unless only proxies can ask for it; what is a component already, or a proxy-wasm module, stays as it is.
///
/// # Errors
/// Where it is none of them, or cannot say what it is.
pub fn finish(bytes: Vec<u8>) -> Result<Finished> {
    if bytes.starts_with(&COMPONENT) {
        return Ok(Finished::as_it_is(Abi::Weft, bytes));
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
        return with_schema(component, &bytes);
    }
    if names
        .exports
        .iter()
        .any(|name| name.starts_with("proxy_abi_version_"))
    {
        return Ok(Finished::as_it_is(Abi::ProxyWasm, bytes));
    }
    bail!("it exports no filter: is #[weft_sdk::filter] on the impl, and the crate's type cdylib?")
}

/// The component with the schema that the module says, if it has one.
fn with_schema(component: Vec<u8>, module: &[u8]) -> Result<Finished> {
    let mut finished = Finished::as_it_is(Abi::Weft, component);
    let said = describe::schema(module)
        .context("it cannot say what it is, so that no proxy could load it")?;
    match said {
        Schema::Said(schema) if schema.is_empty() => {}
        Schema::Said(schema) if schema.len() <= MAX_SCHEMA => {
            finished.bytes = with_config_schema(finished.bytes, &schema);
        }
        Schema::Said(schema) => bail!(
            "the schema of its configuration has {} bytes, more than the {MAX_SCHEMA} that proxies \
             check against",
            schema.len()
        ),
        Schema::Unsaid(why) => {
            finished.remark = Some(format!(
                "its schema cannot be read without a proxy ({why}): nodes check its configuration, \
                 kubectl apply does not"
            ));
        }
    }
    Ok(finished)
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
