//! What filters share: values, queues, metrics.

use wasmtime::Caller;

use crate::proxy_wasm::abi::{Answer, Status};
use crate::proxy_wasm::vm::{self, Vm};
use crate::shared::kv::{KvError, low};
use crate::shared::metrics::MetricKind;
use crate::shared::queue::QueueError;

type Range = (u32, u32);

impl From<QueueError> for Status {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Unknown => Self::NotFound,
            QueueError::Name => Self::BadArgument,
            QueueError::Full => Self::InternalFailure,
        }
    }
}

pub(super) fn get_data(
    caller: &mut Caller<'_, Vm>,
    key: Range,
    to_address: u32,
    to_length: u32,
    to_version: u32,
) -> Answer {
    let (key, vm) = vm::read(caller, key.0, key.1)?;
    let env = &vm.state.env;
    let entry = env.kv.get(vm::text(key)?, env.clock.monotonic());
    let entry = entry.ok_or(Status::NotFound)?;
    vm::write_u32(caller, to_version, low(entry.version))?;
    vm::give(caller, &entry.value, to_address, to_length)
}

pub(super) fn set_data(
    caller: &mut Caller<'_, Vm>,
    key: Range,
    value: Range,
    version: u32,
) -> Answer {
    let (key, value, vm) = vm::read_two(caller, key, value)?;
    let env = &vm.state.env;
    let (key, now) = (vm::text(key)?, env.clock.monotonic());
    let set = match version {
        0 => env.kv.set_while_room(key, value, now),
        version => env.kv.compare_low(key, version, value, now),
    };
    match set {
        Ok(_version) => Ok(()),
        Err(KvError::Conflict(_)) => Err(Status::CasMismatch.into()),
        Err(KvError::Invalid(_)) => Err(Status::BadArgument.into()),
        Err(KvError::Quota) => Err(Status::InternalFailure.into()),
    }
}

pub(super) fn register_queue(caller: &mut Caller<'_, Vm>, name: Range, to: u32) -> Answer {
    let (name, vm) = vm::read(caller, name.0, name.1)?;
    let number = vm.state.env.queues.register(vm::text(name)?);
    let number = number.map_err(Status::from)?;
    if !vm.queues.contains(&number) {
        vm.queues.push(number);
    }
    vm::write_u32(caller, to, number)
}

pub(super) fn resolve_queue(caller: &mut Caller<'_, Vm>, name: Range, to: u32) -> Answer {
    let (name, vm) = vm::read(caller, name.0, name.1)?;
    let number = vm.state.env.queues.resolve(vm::text(name)?);
    vm::write_u32(caller, to, number.ok_or(Status::NotFound)?)
}

pub(super) fn enqueue(caller: &mut Caller<'_, Vm>, queue: u32, message: Range) -> Answer {
    let (message, vm) = vm::read(caller, message.0, message.1)?;
    let pushed = vm.state.env.queues.push(queue, message);
    Ok(pushed.map_err(Status::from)?)
}

pub(super) fn dequeue(
    caller: &mut Caller<'_, Vm>,
    queue: u32,
    to_address: u32,
    to_length: u32,
) -> Answer {
    let message = caller.data().state.env.queues.pop(queue);
    let message = message.map_err(Status::from)?.ok_or(Status::Empty)?;
    vm::give(caller, &message, to_address, to_length)
}

pub(super) fn define_metric(
    caller: &mut Caller<'_, Vm>,
    kind: u32,
    name: Range,
    to: u32,
) -> Answer {
    let kind = match kind {
        0 => MetricKind::Counter,
        1 => MetricKind::Gauge,
        2 => MetricKind::Histogram,
        _ => return Err(Status::BadArgument.into()),
    };
    let (name, vm) = vm::read(caller, name.0, name.1)?;
    let id = vm.state.define_metric(kind, vm::text(name)?, Vec::new());
    let id = id.map_err(|_why| Status::BadArgument)?;
    vm::write_u32(caller, to, id)
}

pub(super) fn increment_metric(caller: &mut Caller<'_, Vm>, id: u32, delta: i64) -> Answer {
    let metric = caller.data().state.metric_of(id).ok_or(Status::NotFound)?;
    match metric.add(float(delta)) {
        true => Ok(()),
        false => Err(Status::BadArgument.into()),
    }
}

pub(super) fn record_metric(caller: &mut Caller<'_, Vm>, id: u32, value: u64) -> Answer {
    let metric = caller.data().state.metric_of(id).ok_or(Status::NotFound)?;
    let value = float(i64::try_from(value).unwrap_or(i64::MAX));
    // As Envoy does: what is recorded to a counter is added to it.
    let recorded = match metric.key().kind {
        MetricKind::Counter => metric.add(value),
        MetricKind::Gauge | MetricKind::Histogram => metric.record(value),
    };
    match recorded {
        true => Ok(()),
        false => Err(Status::BadArgument.into()),
    }
}

pub(super) fn get_metric(caller: &mut Caller<'_, Vm>, id: u32, to: u32) -> Answer {
    let metric = caller.data().state.metric_of(id).ok_or(Status::NotFound)?;
    if metric.key().kind == MetricKind::Histogram {
        return Err(Status::BadArgument.into());
    }
    let value = whole(metric.value());
    vm::write_u64(caller, to, value)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floats; beyond 2^53 they count roughly"
)]
const fn float(value: i64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, and a gauge below 0 is given in two's complement, as Envoy does"
)]
const fn whole(value: f64) -> u64 {
    value as i64 as u64
}
