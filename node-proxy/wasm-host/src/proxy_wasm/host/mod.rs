//! The 39 functions that a module may import from `env`. Nearly every filter imports nearly all of
//! them, whether it calls them or not, so all are there.

pub(super) mod calls;
mod flow;
mod headers;
mod plugin;
mod shared;

use wasmtime::{Caller, Linker, Result};

use self::calls::{GrpcCall, HttpCall};
use self::flow::LocalResponse;
use super::abi::{Status, finish};
use super::vm::Vm;
use crate::headers::Put;

const ENV: &str = "env";

/// All of them.
const NAMES: [&str; 39] = [
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_dequeue_shared_queue",
    "proxy_done",
    "proxy_enqueue_shared_queue",
    "proxy_get_buffer_bytes",
    "proxy_get_buffer_status",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_size",
    "proxy_get_header_map_value",
    "proxy_get_log_level",
    "proxy_get_metric",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_get_status",
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_register_shared_queue",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_resolve_shared_queue",
    "proxy_send_local_response",
    "proxy_set_buffer_bytes",
    "proxy_set_effective_context",
    "proxy_set_header_map_pairs",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
];

type C<'a> = Caller<'a, Vm>;

/// Whether an import is one of them.
pub(super) fn knows(module: &str, name: &str) -> bool {
    module == ENV && NAMES.contains(&name)
}

/// Defines all of them.
pub(super) fn link(linker: &mut Linker<Vm>) -> Result<()> {
    link_plugin(linker)?;
    link_headers(linker)?;
    link_flow(linker)?;
    link_calls(linker)?;
    link_shared(linker)?;
    link_metrics(linker)
}

fn link_plugin(linker: &mut Linker<Vm>) -> Result<()> {
    linker.func_wrap(ENV, "proxy_log", |mut c: C, level, at, len| {
        finish(plugin::log(&mut c, level, (at, len)))
    })?;
    linker.func_wrap(ENV, "proxy_get_log_level", |mut c: C, to| {
        finish(plugin::log_level(&mut c, to))
    })?;
    linker.func_wrap(ENV, "proxy_get_current_time_nanoseconds", |mut c: C, to| {
        finish(plugin::current_time(&mut c, to))
    })?;
    linker.func_wrap(ENV, "proxy_set_tick_period_milliseconds", |mut c: C, ms| {
        finish(plugin::set_tick(&mut c, ms))
    })?;
    linker.func_wrap(ENV, "proxy_set_effective_context", |mut c: C, context| {
        finish(plugin::set_effective(&mut c, context))
    })?;
    linker.func_wrap(ENV, "proxy_done", |mut c: C| finish(plugin::done(&mut c)))?;
    linker.func_wrap(
        ENV,
        "proxy_get_property",
        |mut c: C, at, len, to_at, to_len| {
            finish(plugin::get_property(&mut c, (at, len), to_at, to_len))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_property",
        |mut c: C, at, len, value, value_len| {
            finish(plugin::set_property(&mut c, (at, len), (value, value_len)))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_call_foreign_function",
        |mut c: C, at, len, _args: u32, _args_len: u32, _to: u32, _to_len: u32| {
            finish(plugin::foreign_function(&mut c, (at, len)))
        },
    )?;
    Ok(())
}

fn link_headers(linker: &mut Linker<Vm>) -> Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_header_map_pairs",
        |mut c: C, map, to_at, to_len| finish(headers::get_pairs(&mut c, map, to_at, to_len)),
    )?;
    linker.func_wrap(ENV, "proxy_get_header_map_size", |mut c: C, map, to| {
        finish(headers::get_size(&mut c, map, to))
    })?;
    linker.func_wrap(
        ENV,
        "proxy_get_header_map_value",
        |mut c: C, map, at, len, to_at, to_len| {
            finish(headers::get_value(&mut c, map, (at, len), to_at, to_len))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_header_map_pairs",
        |mut c: C, map, at, len| finish(headers::set_pairs(&mut c, map, (at, len))),
    )?;
    for (name, how) in [
        ("proxy_add_header_map_value", Put::Append),
        ("proxy_replace_header_map_value", Put::Replace),
    ] {
        linker.func_wrap(
            ENV,
            name,
            move |mut c: C, map, at, len, value, value_len| {
                let (name, value) = ((at, len), (value, value_len));
                finish(headers::put(&mut c, map, name, value, how))
            },
        )?;
    }
    linker.func_wrap(
        ENV,
        "proxy_remove_header_map_value",
        |mut c: C, map, at, len| finish(headers::remove(&mut c, map, (at, len))),
    )?;
    Ok(())
}

fn link_flow(linker: &mut Linker<Vm>) -> Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_buffer_bytes",
        |mut c: C, buffer, start, max, to_at, to_len| {
            finish(flow::get_buffer(
                &mut c,
                buffer,
                (start, max),
                to_at,
                to_len,
            ))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_get_buffer_status",
        |mut c: C, buffer, to_len, to_flags| {
            finish(flow::get_buffer_status(&mut c, buffer, to_len, to_flags))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_buffer_bytes",
        |mut c: C, buffer, start, size, at, len| {
            finish(flow::set_buffer(&mut c, buffer, (start, size), (at, len)))
        },
    )?;
    linker.func_wrap(ENV, "proxy_continue_stream", |mut c: C, stream| {
        finish(flow::continue_stream(&mut c, stream))
    })?;
    linker.func_wrap(ENV, "proxy_close_stream", |mut c: C, stream| {
        finish(flow::close_stream(&mut c, stream))
    })?;
    linker.func_wrap(
        ENV,
        "proxy_send_local_response",
        |mut c: C, status, why, why_len, body, body_len, headers, headers_len, grpc_status| {
            let response = LocalResponse {
                status,
                details: (why, why_len),
                body: (body, body_len),
                headers: (headers, headers_len),
                grpc_status,
            };
            finish(flow::local_response(&mut c, &response))
        },
    )?;
    Ok(())
}

fn link_calls(linker: &mut Linker<Vm>) -> Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_http_call",
        |mut c: C, up, up_len, head, head_len, body, body_len, tail, tail_len, timeout, to| {
            let call = HttpCall {
                upstream: (up, up_len),
                headers: (head, head_len),
                body: (body, body_len),
                trailers: (tail, tail_len),
                timeout,
                to,
            };
            finish(calls::http_call(&mut c, &call))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_grpc_call",
        |mut c: C,
         up,
         up_len,
         service,
         service_len,
         method,
         method_len,
         metadata,
         metadata_len,
         message,
         message_len,
         timeout,
         to| {
            let call = GrpcCall {
                upstream: (up, up_len),
                service: (service, service_len),
                method: (method, method_len),
                metadata: (metadata, metadata_len),
                message: (message, message_len),
                timeout,
                to,
            };
            finish(calls::grpc_call(&mut c, &call))
        },
    )?;
    // A fetch is one request and one answer: there are no streams of gRPC, and a filter is told so.
    let unimplemented = || Status::Unimplemented as u32;
    linker.func_wrap(
        ENV,
        "proxy_grpc_stream",
        move |_: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32| {
            unimplemented()
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_grpc_send",
        move |_: u32, _: u32, _: u32, _: u32| unimplemented(),
    )?;
    for name in ["proxy_grpc_cancel", "proxy_grpc_close"] {
        linker.func_wrap(ENV, name, |mut c: C, token| {
            finish(calls::grpc_cancel(&mut c, token))
        })?;
    }
    linker.func_wrap(
        ENV,
        "proxy_get_status",
        |mut c: C, to_code, to_at, to_len| {
            finish(calls::get_status(&mut c, to_code, to_at, to_len))
        },
    )?;
    Ok(())
}

fn link_shared(linker: &mut Linker<Vm>) -> Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_shared_data",
        |mut c: C, at, len, to_at, to_len, to_version| {
            let key = (at, len);
            finish(shared::get_data(&mut c, key, to_at, to_len, to_version))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_shared_data",
        |mut c: C, at, len, value, value_len, version| {
            let (key, value) = ((at, len), (value, value_len));
            finish(shared::set_data(&mut c, key, value, version))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_register_shared_queue",
        |mut c: C, at, len, to| finish(shared::register_queue(&mut c, (at, len), to)),
    )?;
    linker.func_wrap(
        ENV,
        "proxy_resolve_shared_queue",
        |mut c: C, _vm: u32, _vm_len: u32, at, len, to| {
            finish(shared::resolve_queue(&mut c, (at, len), to))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_enqueue_shared_queue",
        |mut c: C, queue, at, len| finish(shared::enqueue(&mut c, queue, (at, len))),
    )?;
    linker.func_wrap(
        ENV,
        "proxy_dequeue_shared_queue",
        |mut c: C, queue, to_at, to_len| finish(shared::dequeue(&mut c, queue, to_at, to_len)),
    )?;
    Ok(())
}

fn link_metrics(linker: &mut Linker<Vm>) -> Result<()> {
    linker.func_wrap(ENV, "proxy_define_metric", |mut c: C, kind, at, len, to| {
        finish(shared::define_metric(&mut c, kind, (at, len), to))
    })?;
    linker.func_wrap(ENV, "proxy_increment_metric", |mut c: C, id, delta| {
        finish(shared::increment_metric(&mut c, id, delta))
    })?;
    linker.func_wrap(ENV, "proxy_record_metric", |mut c: C, id, value| {
        finish(shared::record_metric(&mut c, id, value))
    })?;
    linker.func_wrap(ENV, "proxy_get_metric", |mut c: C, id, to| {
        finish(shared::get_metric(&mut c, id, to))
    })?;
    Ok(())
}
