//! What a filter says of itself: asked of its module, before it is a component.
//!
//! The function `describe` is run in an interpreter, with no proxy around it. What it returns is a
//! `manifest` (wasm-sdk/abi/wit/filter.wit) in the module's memory, as the canonical ABI of
//! components lays out records.

use anyhow::{Context as _, Result, bail};
use wasmi::{
    Config, Engine, Error, Extern, ExternType, Func, Instance, Memory, Module, Store, StoreLimits,
    StoreLimitsBuilder, TrapCode,
};

/// About as many instructions. A schema of 3 KB takes three million; a loop without end is given up
/// after some seconds.
const FUEL: u64 = 1 << 30;
/// Bytes of memory: as many as any filter may have.
const MEMORY: usize = 256 << 20;
/// Calls in each other, and bytes of what is kept for them.
const DEPTH: usize = 10_000;
const STACK: usize = 16 << 20;

/// Where the strings of a `manifest` are: each is a pointer and a length, and `interests`, a byte,
/// is before the last one.
const STRINGS: [(&str, usize); 4] = [
    ("name", 0),
    ("version", 8),
    ("sdk", 16),
    (CONFIG_SCHEMA, 28),
];
const CONFIG_SCHEMA: &str = "config-schema";
/// How a `manifest` is aligned.
const ALIGNMENT: usize = 4;

/// The schema of a filter's configuration; empty where it has none.
///
/// # Errors
/// Where the module cannot be run, or does not return what it should.
pub(crate) fn config_schema(module: &[u8]) -> Result<String> {
    let described = run(module, FUEL)?;
    let memory = described.memory.data(&described.store);
    let mut schema = None;
    for (field, offset) in STRINGS {
        let text = text(memory, described.manifest, offset).with_context(|| {
            format!("what `describe` returned has no text as {field}: was it made with weft's SDK?")
        })?;
        if field == CONFIG_SCHEMA {
            schema = Some(text.to_owned());
        }
    }
    schema.context("it has a schema")
}

/// A module after `describe`.
struct Described {
    store: Store<StoreLimits>,
    memory: Memory,
    /// Where in its memory the manifest is.
    manifest: usize,
}

fn run(module: &[u8], fuel: u64) -> Result<Described> {
    let mut config = Config::default();
    config
        .consume_fuel(true)
        .set_max_recursion_depth(DEPTH)
        .set_max_stack_height(STACK);
    let engine = Engine::new(&config);
    let module = Module::new(&engine, module).context("its module cannot be run")?;
    let limits = StoreLimitsBuilder::new().memory_size(MEMORY).build();
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
            let name = format!("{} of {}", import.name(), import.module());
            let ExternType::Func(of) = import.ty() else {
                bail!("it imports {name}, which is no function");
            };
            let fails = Func::new(&mut *store, of.clone(), move |_, _, _| {
                Err(Error::new(format!(
                    "it calls {name}, and no proxy is there"
                )))
            });
            Ok(Extern::Func(fails))
        })
        .collect()
}

fn failed(error: Error) -> anyhow::Error {
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
