//! What a filter says of itself: asked of its module, before it is a component.
//!
//! The function `describe` is run in an interpreter, with no proxy around it. What it returns is a
//! `manifest` (wasm-sdk/abi/wit/filter.wit) in the module's memory, as the canonical ABI of
//! components lays out records.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use wasmi::errors::HostError;
use wasmi::{
    Config, Engine, Error, Extern, ExternType, Func, Instance, Memory, Module, Store, StoreLimits,
    StoreLimitsBuilder, TrapCode,
};

/// About as many instructions. A schema of 3 KB takes three million; a loop without end is given up
/// after some seconds.
const FUEL: u64 = 1 << 30;
/// Bytes of memory: as many as any filter may have.
const MEMORY: usize = 256 << 20;
/// Elements of a table, each of which takes memory too: proxies allow fewer.
const TABLE: usize = 1 << 20;
/// Calls in each other, and bytes of what is kept for them.
const DEPTH: usize = 10_000;
const STACK: usize = 16 << 20;

/// Where a string of a `manifest` is, as a pointer and a length.
type Field = (&'static str, usize);

/// Those before `interests`, which are a byte, and the one after it.
const BEFORE: [Field; 3] = [("name", 0), ("version", 8), ("sdk", 16)];
const CONFIG_SCHEMA: Field = ("config-schema", 28);
/// How a `manifest` is aligned.
const ALIGNMENT: usize = 4;

/// What a module says of its filter's configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Schema {
    /// Its schema; empty where it has none.
    Said(String),
    /// It says so only where a proxy is.
    Unsaid(NoProxy),
}

/// What only a proxy has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoProxy {
    /// This function of the host, which was called.
    Host(String),
    /// An engine that runs the module: the interpreter does not, for this reason.
    Engine(String),
}

impl fmt::Display for NoProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(f, "`describe` calls {name}"),
            Self::Engine(why) => write!(f, "the interpreter of the build cannot run it: {why}"),
        }
    }
}

impl std::error::Error for NoProxy {}
impl HostError for NoProxy {}

/// The schema of a filter's configuration.
///
/// # Errors
/// Where the module cannot be run, or does not return what it should.
pub(crate) fn schema(module: &[u8]) -> Result<Schema> {
    let described = match run(module, FUEL) {
        Ok(described) => described,
        Err(error) => return error.downcast().map(Schema::Unsaid),
    };
    // Who has no text where another one should be has no schema there either.
    for field in BEFORE {
        described.text(field)?;
    }
    let schema = described.text(CONFIG_SCHEMA)?;
    Ok(Schema::Said(schema.to_owned()))
}

/// A module after `describe`.
struct Described {
    store: Store<StoreLimits>,
    memory: Memory,
    /// Where in its memory the manifest is.
    manifest: usize,
}

impl Described {
    fn text(&self, (field, offset): Field) -> Result<&str> {
        let memory = self.memory.data(&self.store);
        text(memory, self.manifest, offset).with_context(|| {
            format!("what `describe` returned has no text as {field}: was it made with weft's SDK?")
        })
    }
}

fn run(module: &[u8], fuel: u64) -> Result<Described> {
    let mut config = Config::default();
    config
        .consume_fuel(true)
        .set_max_recursion_depth(DEPTH)
        .set_max_stack_height(STACK);
    let engine = Engine::new(&config);
    let module =
        Module::new(&engine, module).map_err(|error| NoProxy::Engine(error.to_string()))?;
    let limits = StoreLimitsBuilder::new()
        .memory_size(MEMORY)
        .table_elements(TABLE)
        .build();
    let mut store = Store::new(&engine, limits);
    store.limiter(|limits| limits);
    store.set_fuel(fuel).context("its module cannot be run")?;
    let imports = imports(&module, &mut store)?;
    let instance = Instance::new(&mut store, &module, &imports).map_err(failed)?;
    if instance.get_func(&store, "_initialize").is_some() {
        instance
            .get_typed_func::<(), ()>(&store, "_initialize")
            .and_then(|initialize| initialize.call(&mut store, ()))
            .map_err(failed)?;
    }
    let describe = instance
        .get_typed_func::<(), u32>(&store, "describe")
        .context("its module has no function `describe` that returns a manifest")?;
    let manifest = describe.call(&mut store, ()).map_err(failed)? as usize;
    if !manifest.is_multiple_of(ALIGNMENT) {
        bail!("what `describe` returned is no manifest: it is not aligned");
    }
    let memory = instance
        .get_memory(&store, "memory")
        .context("its module exports no memory")?;
    Ok(Described {
        store,
        memory,
        manifest,
    })
}

/// What there is where no proxy is: functions that fail.
fn imports(module: &Module, store: &mut Store<StoreLimits>) -> Result<Vec<Extern>> {
    module
        .imports()
        .map(|import| {
            let (module, name) = (import.module(), import.name());
            let ExternType::Func(of) = import.ty() else {
                bail!("it imports {name} of {module}, which is no function");
            };
            let called = NoProxy::Host(name.to_owned());
            let fails = Func::new(&mut *store, of.clone(), move |_, _, _| {
                Err(Error::host(called.clone()))
            });
            Ok(Extern::Func(fails))
        })
        .collect()
}

fn failed(error: Error) -> anyhow::Error {
    if let Some(called) = error.downcast_ref::<NoProxy>() {
        return anyhow::Error::new(called.clone());
    }
    match error.as_trap_code() {
        Some(TrapCode::OutOfFuel) => anyhow::anyhow!("`describe` does not come to an end"),
        Some(TrapCode::UnreachableCodeReached) => {
            anyhow::anyhow!("`describe` panics (it reached `unreachable`)")
        }
        _ => anyhow::Error::new(error).context("`describe` fails"),
    }
}

/// The text of a field of a record at `record`.
fn text(memory: &[u8], record: usize, offset: usize) -> Option<&str> {
    let at = record.checked_add(offset)?;
    let start = number(memory, at)?;
    let length = number(memory, at.checked_add(4)?)?;
    let bytes = memory.get(start..start.checked_add(length)?)?;
    std::str::from_utf8(bytes).ok()
}

fn number(memory: &[u8], at: usize) -> Option<usize> {
    let bytes = memory.get(at..at.checked_add(4)?)?;
    let bytes: [u8; 4] = bytes.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

#[cfg(test)]
mod tests;
