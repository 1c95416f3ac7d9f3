//! Calls of the filter's own: HTTP, and single messages of gRPC.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method};
use wasmtime::Caller;

use crate::headers;
use crate::instance::Wanted;
use crate::limits::MAX_TEXT;
use crate::proxy_wasm::abi::{Answer, Status, Stop, deserialize};
use crate::proxy_wasm::vm::{self, Call, Vm};
use crate::proxy_wasm::{grpc, upstream};
use crate::types::FetchRequest;

type Range = (u32, u32);

impl Vm {
    fn start(&mut self, request: FetchRequest, grpc: bool) -> Result<u32, Stop> {
        let context = self.effective;
        let number = self.state.start_fetch(context, request)?;
        let token = token(number);
        let call = Call {
            context,
            number,
            grpc,
        };
        self.calls.insert(token, call);
        Ok(token)
    }

    /// What may be sent as a body; looked at before it is copied.
    fn sendable<'a>(&self, body: &'a [u8]) -> Result<&'a [u8], Status> {
        match body.len() <= self.state.env.limits.fetch_body {
            true => Ok(body),
            false => Err(Status::BadArgument),
        }
    }
}

/// What the filter knows a call by: the lower half of its number, of which no two are under way.
#[expect(clippy::cast_possible_truncation, reason = "that is what is wanted")]
pub(in crate::proxy_wasm) const fn token(number: u64) -> u32 {
    number as u32
}

/// The arguments of `proxy_http_call`.
pub(super) struct HttpCall {
    pub(super) upstream: Range,
    pub(super) headers: Range,
    pub(super) body: Range,
    pub(super) trailers: Range,
    pub(super) timeout: u32,
    pub(super) to: u32,
}

pub(super) fn http_call(caller: &mut Caller<'_, Vm>, call: &HttpCall) -> Answer {
    let (bytes, vm) = vm::all(caller)?;
    let piece = |(at, length)| vm::piece(bytes, at, length);
    let cluster = text(piece(call.upstream)?)?;
    let pairs = deserialize(piece(call.headers)?).ok_or(Status::BadArgument)?;
    let trailers = deserialize(piece(call.trailers)?).ok_or(Status::BadArgument)?;
    let body = Bytes::copy_from_slice(vm.sendable(piece(call.body)?)?);
    let pseudo = |wanted: &[u8]| {
        let found = pairs.iter().find(|(name, _)| *name == wanted);
        found.map_or(Err(Status::BadArgument), |(_, value)| text(value))
    };
    let authority = pseudo(b":authority")?;
    let path = pseudo(b":path")?;
    let method = Method::from_bytes(pseudo(b":method")?.as_bytes())
        .ok()
        .filter(|method| *method != Method::CONNECT);
    let fields = pairs.iter().filter(|(name, _)| !name.starts_with(b":"));
    let request = FetchRequest {
        service: upstream::service(cluster, authority),
        method: method.ok_or(Status::BadArgument)?,
        authority: Some(authority_of(authority)?),
        path: path_of(path)?,
        headers: headers::collect(fields.copied())?,
        body,
        trailers: headers::collect(trailers)?,
        http2: false,
        timeout: Duration::from_millis(u64::from(call.timeout)),
    };
    // Where the token goes is checked before anything is sent.
    vm::write_u32(caller, call.to, 0)?;
    let token = caller.data_mut().start(request, false)?;
    vm::write_u32(caller, call.to, token)
}

/// The arguments of `proxy_grpc_call`.
pub(super) struct GrpcCall {
    pub(super) upstream: Range,
    pub(super) service: Range,
    pub(super) method: Range,
    pub(super) metadata: Range,
    pub(super) message: Range,
    pub(super) timeout: u32,
    pub(super) to: u32,
}

pub(super) fn grpc_call(caller: &mut Caller<'_, Vm>, call: &GrpcCall) -> Answer {
    let (bytes, vm) = vm::all(caller)?;
    let piece = |(at, length)| vm::piece(bytes, at, length);
    let cluster = text(piece(call.upstream)?)?;
    let service = text(piece(call.service)?)?;
    let method = text(piece(call.method)?)?;
    let message = vm.sendable(piece(call.message)?)?;
    let metadata = deserialize(piece(call.metadata)?).ok_or(Status::ParseFailure)?;
    let metadata = metadata
        .into_iter()
        .filter(|(name, _)| !name.starts_with(b":"));
    let mut headers: HeaderMap = headers::collect(metadata)?;
    let kind = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, kind);
    // Some servers of gRPC refuse calls without it.
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let request = FetchRequest {
        service: upstream::service(cluster, ""),
        method: Method::POST,
        authority: None,
        path: path_of(&format!("/{service}/{method}"))?,
        headers,
        body: grpc::frame(message).ok_or(Status::InternalFailure)?,
        trailers: HeaderMap::new(),
        http2: true,
        timeout: Duration::from_millis(u64::from(call.timeout)),
    };
    vm::write_u32(caller, call.to, 0)?;
    let token = caller.data_mut().start(request, true)?;
    vm::write_u32(caller, call.to, token)
}

/// A call of gRPC is of no more use.
pub(super) fn grpc_cancel(caller: &mut Caller<'_, Vm>, token: u32) -> Answer {
    let vm = caller.data_mut();
    match vm.calls.get(&token) {
        Some(call) if call.grpc => {
            let call = *call;
            vm.calls.remove(&token);
            vm.state.cancel(call.context, call.number, Wanted::Fetch);
            Ok(())
        }
        _ => Err(Status::NotFound.into()),
    }
}

/// Status of the last call of gRPC.
pub(super) fn get_status(
    caller: &mut Caller<'_, Vm>,
    to_code: u32,
    to_address: u32,
    to_length: u32,
) -> Answer {
    let arrived = &caller.data().arrived;
    let (code, text) = (arrived.grpc_code, arrived.grpc_text.clone());
    vm::write_u32(caller, to_code, code)?;
    vm::give(caller, text.as_bytes(), to_address, to_length)
}

/// A name, path or the like; what is longer than a fetch may have is not even looked at.
fn text(bytes: &[u8]) -> Result<&str, Status> {
    match bytes.len() <= MAX_TEXT {
        true => vm::text(bytes),
        false => Err(Status::BadArgument),
    }
}

fn path_of(path: &str) -> Result<String, Status> {
    let allowed = path.starts_with('/') && path.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    match allowed {
        true => Ok(path.to_owned()),
        false => Err(Status::BadArgument),
    }
}

fn authority_of(authority: &str) -> Result<String, Status> {
    match authority.parse::<http::uri::Authority>() {
        Ok(authority) if !authority.as_str().contains('@') => Ok(authority.to_string()),
        _ => Err(Status::BadArgument),
    }
}
