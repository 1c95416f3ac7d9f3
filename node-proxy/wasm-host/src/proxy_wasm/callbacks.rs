//! Functions that a module exports, looked up once for each instance.

use wasmtime::{AsContextMut, Instance, TypedFunc, WasmParams, WasmResults};

use crate::fault::Fault;
use crate::types::Interests;

/// One that may be there.
pub(super) type Call<P, R> = Option<TypedFunc<P, R>>;

/// Those that are called for HTTP; none of them has to be there.
pub(super) struct Callbacks {
    pub(super) context_create: Call<(u32, u32), ()>,
    pub(super) vm_start: Call<(u32, u32), u32>,
    pub(super) configure: Call<(u32, u32), u32>,
    pub(super) tick: Call<u32, ()>,
    pub(super) queue_ready: Call<(u32, u32), ()>,
    pub(super) request_headers: Call<(u32, u32, u32), u32>,
    pub(super) request_body: Call<(u32, u32, u32), u32>,
    pub(super) request_trailers: Call<(u32, u32), u32>,
    pub(super) response_headers: Call<(u32, u32, u32), u32>,
    pub(super) response_body: Call<(u32, u32, u32), u32>,
    pub(super) response_trailers: Call<(u32, u32), u32>,
    pub(super) http_call_response: Call<(u32, u32, u32, u32, u32), ()>,
    pub(super) grpc_initial: Call<(u32, u32, u32), ()>,
    pub(super) grpc_receive: Call<(u32, u32, u32), ()>,
    pub(super) grpc_trailing: Call<(u32, u32, u32), ()>,
    pub(super) grpc_close: Call<(u32, u32, u32), ()>,
    pub(super) done: Call<u32, u32>,
    pub(super) log: Call<u32, ()>,
    pub(super) delete: Call<u32, ()>,
}

impl Callbacks {
    pub(super) fn find(store: &mut impl AsContextMut, instance: &Instance) -> Result<Self, Fault> {
        Ok(Self {
            context_create: find(store, instance, "proxy_on_context_create")?,
            vm_start: find(store, instance, "proxy_on_vm_start")?,
            configure: find(store, instance, "proxy_on_configure")?,
            tick: find(store, instance, "proxy_on_tick")?,
            queue_ready: find(store, instance, "proxy_on_queue_ready")?,
            request_headers: find(store, instance, "proxy_on_request_headers")?,
            request_body: find(store, instance, "proxy_on_request_body")?,
            request_trailers: find(store, instance, "proxy_on_request_trailers")?,
            response_headers: find(store, instance, "proxy_on_response_headers")?,
            response_body: find(store, instance, "proxy_on_response_body")?,
            response_trailers: find(store, instance, "proxy_on_response_trailers")?,
            http_call_response: find(store, instance, "proxy_on_http_call_response")?,
            grpc_initial: find(store, instance, "proxy_on_grpc_receive_initial_metadata")?,
            grpc_receive: find(store, instance, "proxy_on_grpc_receive")?,
            grpc_trailing: find(store, instance, "proxy_on_grpc_receive_trailing_metadata")?,
            grpc_close: find(store, instance, "proxy_on_grpc_close")?,
            done: find(store, instance, "proxy_on_done")?,
            log: find(store, instance, "proxy_on_log")?,
            delete: find(store, instance, "proxy_on_delete")?,
        })
    }

    pub(super) const fn interests(&self) -> Interests {
        Interests {
            request_headers: self.request_headers.is_some(),
            request_body: self.request_body.is_some(),
            request_trailers: self.request_trailers.is_some(),
            response_headers: self.response_headers.is_some(),
            response_body: self.response_body.is_some(),
            response_trailers: self.response_trailers.is_some(),
        }
    }
}

/// An export; none if there is none of this name.
pub(super) fn find<P: WasmParams, R: WasmResults>(
    store: &mut impl AsContextMut,
    instance: &Instance,
    name: &str,
) -> Result<Option<TypedFunc<P, R>>, Fault> {
    let Some(function) = instance.get_func(store.as_context_mut(), name) else {
        return Ok(None);
    };
    let typed = function.typed(store.as_context_mut());
    typed.map(Some).map_err(|_other| {
        Fault::Config(format!(
            "its export {name} has another type than proxy-wasm 0.2 gives it"
        ))
    })
}
