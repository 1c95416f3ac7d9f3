//! Headers and trailers, pseudo-headers among them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use wasmtime::Caller;

use crate::exchange::{Exchange, Target};
use crate::headers::{self, Put, Refusal};
use crate::proxy_wasm::abi::{Answer, Map, Status, deserialize, serialize};
use crate::proxy_wasm::vm::{self, Vm};
use crate::types::{ContextId, Fields};

/// Pseudo-headers of a request, in the order in which Envoy gives them.
const PSEUDO: [(&str, Target); 4] = [
    (":authority", Target::Authority),
    (":path", Target::Path),
    (":method", Target::Method),
    (":scheme", Target::Scheme),
];

/// The part of the target that a name means. `host` is another name of the authority.
fn target(name: &[u8]) -> Option<Target> {
    let name = std::str::from_utf8(name).ok()?;
    if name.eq_ignore_ascii_case("host") {
        return Some(Target::Authority);
    }
    let found = PSEUDO
        .iter()
        .find(|(pseudo, _part)| name.eq_ignore_ascii_case(pseudo))?;
    Some(found.1)
}

fn without_host(fields: &HeaderMap) -> usize {
    fields.len() - fields.get_all(http::header::HOST).iter().count()
}

fn is_pseudo(name: &[u8]) -> bool {
    name.first() == Some(&b':') || name.eq_ignore_ascii_case(b"host")
}

impl Vm {
    /// The fields that a number means now; none while there are none.
    fn map(&self, map: Map) -> Option<&HeaderMap> {
        let arrived = &self.arrived;
        match map {
            Map::Exchange(of) => self.state.fields(self.effective, of),
            Map::GrpcInitial => Some(&arrived.grpc_initial),
            Map::GrpcTrailing => Some(&arrived.grpc_trailing),
            Map::CallHeaders => arrived.response.as_ref().map(|response| &response.headers),
            Map::CallTrailers => arrived.response.as_ref().map(|response| &response.trailers),
        }
    }

    fn exchange(&self) -> Option<&dyn Exchange> {
        self.state.contexts.get(self.effective)?.exchange.as_deref()
    }

    fn status(&self, map: Map) -> Option<StatusCode> {
        match map {
            Map::Exchange(Fields::ResponseHeaders) => self.exchange()?.status(),
            Map::CallHeaders => Some(self.arrived.response.as_ref()?.status),
            _ => None,
        }
    }

    /// The value of a pseudo-header.
    fn pseudo(&self, map: Map, name: &[u8]) -> Option<Bytes> {
        if name == b":status" {
            let status = self.status(map)?;
            return Some(Bytes::copy_from_slice(status.as_str().as_bytes()));
        }
        if map != Map::Exchange(Fields::RequestHeaders) {
            return None;
        }
        let value = self.exchange()?.target(target(name)?);
        (!value.is_empty()).then(|| Bytes::copy_from_slice(value.as_bytes()))
    }

    /// All of them in one piece.
    fn pairs(&self, map: Map) -> Vec<u8> {
        let mut pseudo: Vec<(&[u8], Bytes)> = Vec::new();
        let names = PSEUDO.iter().map(|(name, _part)| *name);
        for name in names.chain([":status"]) {
            if let Some(value) = self.pseudo(map, name.as_bytes()) {
                pseudo.push((name.as_bytes(), value));
            }
        }
        let mut pairs: Vec<(&[u8], &[u8])> = pseudo
            .iter()
            .map(|(name, value)| (*name, value.as_ref()))
            .collect();
        if let Some(fields) = self.map(map) {
            let fields = fields
                .iter()
                .filter(|(name, _)| *name != http::header::HOST);
            pairs.extend(fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())));
        }
        serialize(&pairs)
    }

    /// How many pairs of headers or trailers an exchange has, without making them.
    pub(in crate::proxy_wasm) fn count_of(&self, context: ContextId, of: Fields) -> usize {
        let context = self.state.contexts.get(context);
        let Some(exchange) = context.and_then(|context| context.exchange.as_deref()) else {
            return 0;
        };
        let pseudo = match of {
            Fields::RequestHeaders => {
                let parts = PSEUDO.iter().map(|(_name, part)| exchange.target(*part));
                parts.filter(|value| !value.is_empty()).count()
            }
            Fields::ResponseHeaders => usize::from(exchange.status().is_some()),
            Fields::RequestTrailers | Fields::ResponseTrailers => 0,
        };
        pseudo + exchange.fields(of).map_or(0, without_host)
    }

    fn count(&self, map: Map) -> usize {
        match map {
            Map::Exchange(of) => self.count_of(self.effective, of),
            map => {
                let pseudo = usize::from(self.status(map).is_some());
                pseudo + self.map(map).map_or(0, HeaderMap::len)
            }
        }
    }

    fn value(&self, map: Map, name: &[u8]) -> Option<Bytes> {
        if is_pseudo(name) {
            return self.pseudo(map, name);
        }
        let value: &HeaderValue = headers::values(self.map(map)?, name).next()?;
        Some(Bytes::copy_from_slice(value.as_bytes()))
    }

    /// Changes a pseudo-header; there is exactly one of each.
    fn set_pseudo(&mut self, of: Fields, name: &[u8], value: &[u8]) -> Result<(), Status> {
        let effective = self.effective;
        let exchange = self.state.exchange(effective).ok_or(Status::BadArgument)?;
        let value = vm::text(value)?;
        let done = match of {
            Fields::RequestHeaders => match target(name) {
                // The scheme says how the client is connected; a filter cannot change that.
                Some(Target::Scheme) | None => false,
                Some(part) => exchange.set_target(part, value),
            },
            Fields::ResponseHeaders if name == b":status" => value
                .parse()
                .ok()
                .filter(|status| (200..600).contains(status))
                .and_then(|status| StatusCode::from_u16(status).ok())
                .is_some_and(|status| exchange.set_status(status)),
            _ => false,
        };
        match done {
            true => Ok(()),
            false => Err(Status::BadArgument),
        }
    }

    fn put(&mut self, map: Map, name: &[u8], value: &[u8], how: Put) -> Result<(), Status> {
        let Map::Exchange(of) = map else {
            return Err(Status::BadArgument);
        };
        if is_pseudo(name) {
            return match how {
                Put::Replace => self.set_pseudo(of, name, value),
                // A second one is a forgery.
                Put::Append => Err(Status::BadArgument),
            };
        }
        let header = self.state.header(name, value);
        ignored(header.and_then(|header| {
            let id = self.effective;
            self.state.put_header(id, of, header, how)
        }))
    }

    fn drop(&mut self, map: Map, name: &[u8]) -> Result<(), Status> {
        let Map::Exchange(of) = map else {
            return Err(Status::BadArgument);
        };
        if is_pseudo(name) {
            return Err(Status::BadArgument);
        }
        ignored(self.state.drop_header(self.effective, of, name))
    }

    fn replace_all(&mut self, map: Map, pairs: &[(&[u8], &[u8])]) -> Result<(), Status> {
        let Map::Exchange(of) = map else {
            return Err(Status::BadArgument);
        };
        // All of it is made before any of it is in force.
        let written = self.context()?.written;
        let exchange = self.exchange().ok_or(Status::BadArgument)?;
        let others = pairs.iter().copied().filter(|(name, _)| !is_pseudo(name));
        let (fields, written) = headers::replaced(exchange, of, others, written)
            .map_err(|_refusal| Status::BadArgument)?;
        let effective = self.effective;
        let exchange = self.state.exchange(effective).ok_or(Status::BadArgument)?;
        exchange.fields_mut(of).ok_or(Status::BadArgument)?;
        self.set_pseudos(map, of, pairs)?;
        let context = self.context()?;
        let exchange = context.exchange.as_mut();
        let place = exchange.and_then(|exchange| exchange.fields_mut(of));
        *place.ok_or(Status::BadArgument)? = fields;
        context.written = written;
        Ok(())
    }

    /// Changes all pseudo-headers that are to be others, or none of them. Only the exchange can
    /// judge a value, by taking it: those before one that it refuses are put back.
    fn set_pseudos(
        &mut self,
        map: Map,
        of: Fields,
        pairs: &[(&[u8], &[u8])],
    ) -> Result<(), Status> {
        let mut changed: Vec<(&[u8], Bytes)> = Vec::new();
        for (name, value) in pairs.iter().filter(|(name, _)| is_pseudo(name)) {
            let before = self.pseudo(map, name);
            if before.as_deref() == Some(*value) {
                continue;
            }
            if let Err(refused) = self.set_pseudo(of, name, value) {
                for (name, before) in changed.iter().rev() {
                    // It was its own value.
                    let _taken = self.set_pseudo(of, name, before);
                }
                return Err(refused);
            }
            changed.extend(before.map(|before| (*name, before)));
        }
        Ok(())
    }
}

/// Headers that frame the message are the proxy's; filters for Envoy remove or set them when they
/// change a body, and would stop at a refusal. The proxy frames what results.
fn ignored(result: Result<(), Refusal>) -> Result<(), Status> {
    match result {
        Ok(()) | Err(Refusal::Reserved) => Ok(()),
        Err(_refusal) => Err(Status::BadArgument),
    }
}

pub(super) fn get_pairs(
    caller: &mut Caller<'_, Vm>,
    map: u32,
    to_address: u32,
    to_length: u32,
) -> Answer {
    let pairs = caller.data_mut().pairs(Map::new(map)?);
    vm::give(caller, &pairs, to_address, to_length)
}

pub(super) fn get_size(caller: &mut Caller<'_, Vm>, map: u32, to: u32) -> Answer {
    let count = caller.data_mut().count(Map::new(map)?);
    vm::write_u32(caller, to, u32::try_from(count).unwrap_or(u32::MAX))
}

pub(super) fn get_value(
    caller: &mut Caller<'_, Vm>,
    map: u32,
    name: (u32, u32),
    to_address: u32,
    to_length: u32,
) -> Answer {
    let (name, vm) = vm::read(caller, name.0, name.1)?;
    let value = vm.value(Map::new(map)?, name).ok_or(Status::NotFound)?;
    vm::give(caller, &value, to_address, to_length)
}

pub(super) fn set_pairs(caller: &mut Caller<'_, Vm>, map: u32, pairs: (u32, u32)) -> Answer {
    let (bytes, vm) = vm::read(caller, pairs.0, pairs.1)?;
    let pairs = deserialize(bytes).ok_or(Status::ParseFailure)?;
    Ok(vm.replace_all(Map::new(map)?, &pairs)?)
}

pub(super) fn put(
    caller: &mut Caller<'_, Vm>,
    map: u32,
    name: (u32, u32),
    value: (u32, u32),
    how: Put,
) -> Answer {
    let (name, value, vm) = vm::read_two(caller, name, value)?;
    Ok(vm.put(Map::new(map)?, name, value, how)?)
}

pub(super) fn remove(caller: &mut Caller<'_, Vm>, map: u32, name: (u32, u32)) -> Answer {
    let (name, vm) = vm::read(caller, name.0, name.1)?;
    Ok(vm.drop(Map::new(map)?, name)?)
}
