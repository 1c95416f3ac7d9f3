//! Functions of the host that nearly every request calls.
//!
//! What `bindgen` makes copies each list out of the filter's memory before the host sees it. These
//! read names and values where they are, and take the place of the ones that it made.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, WasmList};

use super::bindings::weft::filter::types as wit;
use super::convert;
use crate::headers::{self, Put};
use crate::instance::State;
use crate::types::ContextId;

type Store<'a> = StoreContextMut<'a, State<()>>;
type Bytes = WasmList<u8>;

/// Replaces them in a linker that has all functions of the host.
pub(super) fn add_to(linker: &mut Linker<State<()>>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut host = linker.instance("weft:filter/host@0.1.0")?;
    host.func_wrap("get-header", get_header)?;
    host.func_wrap("set-header", |store: Store<'_>, (ctx, of, name, value)| {
        put_header(store, (ctx, of), &name, &value, Put::Replace)
    })?;
    host.func_wrap(
        "append-header",
        |store: Store<'_>, (ctx, of, name, value)| {
            put_header(store, (ctx, of), &name, &value, Put::Append)
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

fn get_header(
    store: Store<'_>,
    (ctx, of, name): (u64, wit::Fields, Bytes),
) -> wasmtime::Result<(Option<Vec<u8>>,)> {
    let name = name.as_le_slice(&store);
    let fields = store.data().fields(ContextId(ctx), convert::fields(of));
    let value = fields.and_then(|fields| headers::values(fields, name).next());
    Ok((value.map(|value| value.as_bytes().to_vec()),))
}

fn put_header(
    mut store: Store<'_>,
    (ctx, of): (u64, wit::Fields),
    name: &Bytes,
    value: &Bytes,
    how: Put,
) -> wasmtime::Result<(bool,)> {
    let (name, value) = (name.as_le_slice(&store), value.as_le_slice(&store));
    let header = store.data().header(name, value);
    let put = header.and_then(|header| {
        let of = convert::fields(of);
        let state = store.data_mut();
        state.put_header(ContextId(ctx), of, header, how)
    });
    Ok((put.is_ok(),))
}
