//! Bodies, and what becomes of a message.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};
use wasmtime::Caller;

use crate::headers;
use crate::limits::MAX_REASON;
use crate::log::{beginning, one_line_of};
use crate::proxy_wasm::abi::{self, Answer, Buffer, Status, deserialize};
use crate::proxy_wasm::grpc;
use crate::proxy_wasm::vm::{self, Vm};
use crate::types::{ContextId, Fields, Reply};

impl Vm {
    fn buffer(&mut self, buffer: Buffer) -> Result<Bytes, Status> {
        let bytes = match buffer {
            Buffer::Body(side) => self.context()?.extra.message(side).body(),
            Buffer::CallBody => self.arrived.response.as_ref().map(|r| r.body.clone()),
            Buffer::GrpcMessage => self.arrived.grpc_message.clone(),
            Buffer::VmConfig => Some(self.state.env.plugin.vm_config.clone()),
            Buffer::PluginConfig => Some(self.state.env.config.clone()),
        };
        bytes.ok_or(Status::NotFound)
    }

    /// Puts `data` in place of so many bytes from `start`; beyond the end it is added.
    fn splice(&mut self, buffer: Buffer, start: u32, size: u32, data: &[u8]) -> Result<(), Status> {
        let Buffer::Body(side) = buffer else {
            return Err(Status::BadArgument);
        };
        let most = self.state.env.limits.held_body;
        let message = self.context()?.extra.message(side);
        let body = message.body().ok_or(Status::BadArgument)?;
        let start = (start as usize).min(body.len());
        let end = start.saturating_add(size as usize).min(body.len());
        let length = body.len() - (end - start) + data.len();
        if length > most.max(body.len()) {
            return Err(Status::BadArgument);
        }
        let mut spliced = BytesMut::with_capacity(length);
        spliced.extend_from_slice(&body[..start]);
        spliced.extend_from_slice(data);
        spliced.extend_from_slice(&body[end..]);
        message.replace(spliced.freeze());
        Ok(())
    }

    fn reply(&mut self, reply: Reply) -> Result<(), Status> {
        if self.effective == ContextId::INSTANCE {
            return Err(Status::BadArgument);
        }
        let context = self.context()?;
        // The first one counts.
        if !context.replied && context.extra.reply.is_none() {
            context.extra.reply = Some(Box::new(reply));
            self.touch();
        }
        Ok(())
    }

    fn asks_for_grpc(&self) -> bool {
        let fields = self.state.fields(self.effective, Fields::RequestHeaders);
        let kind = fields.and_then(|fields| fields.get(header::CONTENT_TYPE));
        kind.is_some_and(|kind| is_grpc(kind.as_bytes()))
    }
}

pub(super) fn get_buffer(
    caller: &mut Caller<'_, Vm>,
    buffer: u32,
    range: (u32, u32),
    to_address: u32,
    to_length: u32,
) -> Answer {
    let bytes = caller.data_mut().buffer(Buffer::new(buffer)?)?;
    let start = (range.0 as usize).min(bytes.len());
    let end = start.saturating_add(range.1 as usize).min(bytes.len());
    vm::give(caller, &bytes[start..end], to_address, to_length)
}

pub(super) fn get_buffer_status(
    caller: &mut Caller<'_, Vm>,
    buffer: u32,
    to_length: u32,
    to_flags: u32,
) -> Answer {
    let bytes = caller.data_mut().buffer(Buffer::new(buffer)?)?;
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    vm::write_u32(caller, to_length, length)?;
    vm::write_u32(caller, to_flags, 0)
}

pub(super) fn set_buffer(
    caller: &mut Caller<'_, Vm>,
    buffer: u32,
    range: (u32, u32),
    data: (u32, u32),
) -> Answer {
    let (data, vm) = vm::read(caller, data.0, data.1)?;
    Ok(vm.splice(Buffer::new(buffer)?, range.0, range.1, data)?)
}

pub(super) fn continue_stream(caller: &mut Caller<'_, Vm>, stream: u32) -> Answer {
    let side = abi::stream(stream)?;
    let vm = caller.data_mut();
    vm.context()?.extra.message(side).resumed = true;
    vm.touch();
    Ok(())
}

/// There is no reset here: it is answered, or ended early.
pub(super) fn close_stream(caller: &mut Caller<'_, Vm>, stream: u32) -> Answer {
    abi::stream(stream)?;
    let reply = Reply {
        status: StatusCode::SERVICE_UNAVAILABLE,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        reason: "the filter closed the stream".to_owned(),
    };
    Ok(caller.data_mut().reply(reply)?)
}

/// The arguments of `proxy_send_local_response`.
pub(super) struct LocalResponse {
    pub(super) status: u32,
    pub(super) details: (u32, u32),
    pub(super) body: (u32, u32),
    pub(super) headers: (u32, u32),
    pub(super) grpc_status: i32,
}

pub(super) fn local_response(caller: &mut Caller<'_, Vm>, response: &LocalResponse) -> Answer {
    let (bytes, vm) = vm::all(caller)?;
    let piece = |(at, length)| vm::piece(bytes, at, length);
    let reason = reason(piece(response.details)?);
    let body = piece(response.body)?;
    let pairs = deserialize(piece(response.headers)?).ok_or(Status::ParseFailure)?;
    let pairs = pairs.into_iter().filter(|(name, _)| *name != b":status");
    let headers = headers::collect(pairs)?;
    let status = u16::try_from(response.status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or(Status::BadArgument)?;
    if !vm.state.may_give(body.len()) {
        return Err(Status::BadArgument.into());
    }
    let reply = Reply {
        status,
        headers,
        body: Bytes::copy_from_slice(body),
        reason,
    };
    let reply = match vm.asks_for_grpc() {
        true => as_grpc(reply, response.grpc_status),
        false => as_text(reply),
    };
    Ok(vm.reply(reply)?)
}

/// Why a filter answers, in its own words.
fn reason(details: &[u8]) -> String {
    one_line_of(&String::from_utf8_lossy(beginning(details)), MAX_REASON)
}

/// `application/grpc` and its kinds; `application/grpc-web` is another protocol.
fn is_grpc(kind: &[u8]) -> bool {
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// As Envoy does: a body is text unless it is said otherwise.
fn as_text(mut reply: Reply) -> Reply {
    if !reply.body.is_empty() {
        reply
            .headers
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("text/plain"));
    }
    reply
}

/// As Envoy does: a client of gRPC gets a status of gRPC, and the body as its text.
fn as_grpc(mut reply: Reply, code: i32) -> Reply {
    let code = u32::try_from(code).unwrap_or_else(|_none| grpc::code_of(reply.status));
    let kind = HeaderValue::from_static("application/grpc");
    reply.headers.insert(header::CONTENT_TYPE, kind);
    reply.headers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(text) = HeaderValue::from_bytes(&percent(&reply.body)) {
        reply.headers.insert("grpc-message", text);
    }
    reply.status = StatusCode::OK;
    reply.body = Bytes::new();
    reply
}

/// A message of gRPC in a header: printable characters but `%` as they are.
fn percent(text: &[u8]) -> Vec<u8> {
    const MOST: usize = 1024;
    let mut escaped = Vec::with_capacity(text.len().min(MOST));
    for byte in text.iter().take(MOST) {
        match byte {
            b' '..=b'~' if *byte != b'%' => escaped.push(*byte),
            byte => escaped.extend(format!("%{byte:02X}").bytes()),
        }
    }
    escaped
}
