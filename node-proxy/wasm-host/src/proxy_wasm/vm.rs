//! What the store of a proxy-wasm module holds, and how its memory is read and written.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use wasmtime::{Caller, Memory, TypedFunc};

use super::abi::{Answer, Status, Stop};
use crate::instance::{Context, State};
use crate::types::{ContextId, FetchResponse, Reply, Side, Step};

/// What the filter knows the instance itself by.
pub(super) const ROOT: u32 = 1;
/// What it knows the first exchange by.
const FIRST: u32 = 2;

/// What is kept of an exchange.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) request: Message,
    pub(super) response: Message,
    pub(super) reply: Option<Box<Reply>>,
    /// The exchange is over and the filter said that it is not ready yet.
    pub(super) closing: bool,
    /// The filter said that it is ready.
    pub(super) done: bool,
    pub(super) properties: HashMap<Vec<u8>, Bytes>,
}

/// One side of it.
#[derive(Default)]
pub(super) struct Message {
    parts: Vec<Bytes>,
    length: usize,
    replaced: bool,
    /// Held until the filter says so.
    pub(super) paused: bool,
    /// The filter said so.
    pub(super) resumed: bool,
}

impl Message {
    pub(super) const fn length(&self) -> usize {
        self.length
    }

    pub(super) fn push(&mut self, data: Bytes) {
        self.length += data.len();
        self.parts.push(data);
    }

    /// All of the body that is held; none if no body is.
    pub(super) fn body(&mut self) -> Option<Bytes> {
        if self.parts.len() > 1 {
            let mut whole = BytesMut::with_capacity(self.length);
            for part in &self.parts {
                whole.extend_from_slice(part);
            }
            self.parts = vec![whole.freeze()];
        }
        self.parts.first().cloned()
    }

    pub(super) fn replace(&mut self, body: Bytes) {
        self.length = body.len();
        self.parts = vec![body];
        self.replaced = true;
    }

    /// Lets go of what was held.
    pub(super) fn release(&mut self) -> Step {
        let body = match self.replaced {
            true => self.body(),
            false => None,
        };
        *self = Self::default();
        body.map_or(Step::Proceed, Step::Emit)
    }
}

impl Stream {
    pub(super) const fn message(&mut self, side: Side) -> &mut Message {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }
}

/// A call that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) context: ContextId,
    /// The host's number of it.
    pub(super) number: u64,
    pub(super) grpc: bool,
}

/// What came back from a call, for the time of the callback that tells of it.
#[derive(Default)]
pub(super) struct Arrived {
    pub(super) response: Option<FetchResponse>,
    pub(super) grpc_message: Option<Bytes>,
    pub(super) grpc_initial: HeaderMap,
    pub(super) grpc_trailing: HeaderMap,
    pub(super) grpc_code: u32,
    pub(super) grpc_text: String,
}

pub(super) struct Vm {
    pub(super) state: State<Stream>,
    pub(super) memory: Option<Memory>,
    pub(super) allocate: Option<TypedFunc<u32, u32>>,
    /// What host functions are about, now.
    pub(super) effective: ContextId,
    pub(super) arrived: Arrived,
    pub(super) calls: HashMap<u32, Call>,
    /// Contexts about which something was decided in the running callback.
    pub(super) touched: Vec<ContextId>,
    pub(super) tick: Option<Duration>,
    pub(super) tick_timer: Option<u64>,
    pub(super) queues: Vec<u32>,
}

impl Vm {
    pub(super) fn new(state: State<Stream>) -> Self {
        Self {
            state,
            memory: None,
            allocate: None,
            effective: ContextId::INSTANCE,
            arrived: Arrived::default(),
            calls: HashMap::new(),
            touched: Vec::new(),
            tick: None,
            tick_timer: None,
            queues: Vec::new(),
        }
    }

    /// The context that host functions are about.
    pub(super) fn context(&mut self) -> Result<&mut Context<Stream>, Status> {
        self.state
            .contexts
            .get_mut(self.effective)
            .ok_or(Status::BadArgument)
    }

    pub(super) fn by_guest(&self, number: u32) -> Option<ContextId> {
        match number {
            ROOT => Some(ContextId::INSTANCE),
            number => self.state.contexts.at(number.checked_sub(FIRST)?),
        }
    }

    /// Forgets what came back from calls.
    pub(super) fn forget(&mut self) {
        self.arrived.response = None;
        self.arrived.grpc_message = None;
        self.arrived.grpc_initial = HeaderMap::new();
        self.arrived.grpc_trailing = HeaderMap::new();
    }

    /// Something was decided about the context that host functions are about.
    pub(super) fn touch(&mut self) {
        self.touch_context(self.effective);
    }

    pub(super) fn touch_context(&mut self, context: ContextId) {
        if !self.touched.contains(&context) {
            self.touched.push(context);
        }
    }

    pub(super) fn take_touched(&mut self) -> Vec<ContextId> {
        mem::take(&mut self.touched)
    }
}

/// What the filter knows a context by.
pub(super) fn guest_number(context: ContextId) -> u32 {
    // The limit of contexts is far below where it would end.
    crate::instance::place(context).map_or(ROOT, |place| place.saturating_add(FIRST))
}

fn memory(caller: &mut Caller<'_, Vm>) -> Result<Memory, Status> {
    if let Some(memory) = caller.data().memory {
        return Ok(memory);
    }
    // While the module starts.
    let export = caller.get_export("memory").and_then(|e| e.into_memory());
    caller.data_mut().memory = export;
    export.ok_or(Status::InvalidMemoryAccess)
}

/// Some of the filter's memory, and the rest of the store beside it.
pub(super) fn read<'a>(
    caller: &'a mut Caller<'_, Vm>,
    at: u32,
    length: u32,
) -> Result<(&'a [u8], &'a mut Vm), Status> {
    let memory = memory(caller)?;
    let (bytes, vm) = memory.data_and_store_mut(caller);
    Ok((piece(bytes, at, length)?, vm))
}

/// Two pieces of it.
pub(super) fn read_two<'a>(
    caller: &'a mut Caller<'_, Vm>,
    first: (u32, u32),
    second: (u32, u32),
) -> Result<(&'a [u8], &'a [u8], &'a mut Vm), Status> {
    let memory = memory(caller)?;
    let (bytes, vm) = memory.data_and_store_mut(caller);
    let bytes: &'a [u8] = bytes;
    Ok((
        piece(bytes, first.0, first.1)?,
        piece(bytes, second.0, second.1)?,
        vm,
    ))
}

/// All of it, for functions with many arguments.
pub(super) fn all<'a>(caller: &'a mut Caller<'_, Vm>) -> Result<(&'a [u8], &'a mut Vm), Status> {
    let memory = memory(caller)?;
    let (bytes, vm) = memory.data_and_store_mut(caller);
    Ok((bytes, vm))
}

pub(super) fn piece(bytes: &[u8], at: u32, length: u32) -> Result<&[u8], Status> {
    let end = at.checked_add(length).ok_or(Status::InvalidMemoryAccess)?;
    bytes
        .get(at as usize..end as usize)
        .ok_or(Status::InvalidMemoryAccess)
}

/// Text of the filter; what is not UTF-8 is no argument that the host takes.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(bytes).map_err(|_error| Status::BadArgument)
}

pub(super) fn write(caller: &mut Caller<'_, Vm>, at: u32, value: &[u8]) -> Result<(), Status> {
    let memory = memory(caller)?;
    memory
        .write(caller, at as usize, value)
        .map_err(|_outside| Status::InvalidMemoryAccess)
}

pub(super) fn write_u32(caller: &mut Caller<'_, Vm>, at: u32, value: u32) -> Answer {
    Ok(write(caller, at, &value.to_le_bytes())?)
}

pub(super) fn write_u64(caller: &mut Caller<'_, Vm>, at: u32, value: u64) -> Answer {
    Ok(write(caller, at, &value.to_le_bytes())?)
}

/// Hands bytes over, in memory that the filter's own allocator gives. Nothing needs no memory.
pub(super) fn give(
    caller: &mut Caller<'_, Vm>,
    bytes: &[u8],
    to_address: u32,
    to_length: u32,
) -> Answer {
    let length = u32::try_from(bytes.len()).map_err(|_long| Status::InternalFailure)?;
    // The places of the answer are checked before anything is allocated.
    write_u32(caller, to_length, length)?;
    write_u32(caller, to_address, 0)?;
    if length == 0 {
        return Ok(());
    }
    let allocate = caller.data().allocate.clone();
    let allocate = allocate.ok_or(Status::InternalFailure)?;
    let at = allocate.call(&mut *caller, length).map_err(Stop::Trap)?;
    if at == 0 {
        return Err(Status::InternalFailure.into());
    }
    write(caller, at, bytes)?;
    write_u32(caller, to_address, at)
}
