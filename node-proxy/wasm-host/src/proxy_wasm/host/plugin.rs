//! Time, logs, properties, and which context is meant.

use std::time::Duration;

use bytes::Bytes;
use wasmtime::Caller;

use crate::log::beginning;
use crate::proxy_wasm::abi::{self, Answer, Status};
use crate::proxy_wasm::property;
use crate::proxy_wasm::vm::{self, Vm};
use crate::types::{ContextId, Labels, Level};

type Range = (u32, u32);

/// A shorter period would keep the worker busy with nothing else.
const SHORTEST_TICK: Duration = Duration::from_millis(10);
/// Bytes of all properties that a filter may set for one exchange.
const MAX_PROPERTIES: usize = 64 * 1024;

pub(super) fn log(caller: &mut Caller<'_, Vm>, level: u32, message: Range) -> Answer {
    let level = abi::level(level)?;
    let (message, vm) = vm::read(caller, message.0, message.1)?;
    if !vm.state.logs(level) {
        return Ok(());
    }
    let message = String::from_utf8_lossy(beginning(message));
    let effective = vm.effective;
    vm.state
        .write_log(effective, level, &message, &Labels::new());
    Ok(())
}

pub(super) fn log_level(caller: &mut Caller<'_, Vm>, to: u32) -> Answer {
    const LEVELS: [Level; 4] = [Level::Trace, Level::Debug, Level::Info, Level::Warn];
    let env = &caller.data().state.env;
    let lowest = LEVELS
        .iter()
        .position(|level| env.log.enabled(&env.name, *level));
    let lowest = u32::try_from(lowest.unwrap_or(LEVELS.len())).unwrap_or_default();
    vm::write_u32(caller, to, lowest)
}

pub(super) fn current_time(caller: &mut Caller<'_, Vm>, to: u32) -> Answer {
    let now = caller.data().state.env.clock.wall();
    vm::write_u64(caller, to, now)
}

pub(super) fn set_tick(caller: &mut Caller<'_, Vm>, period: u32) -> Answer {
    let vm = caller.data_mut();
    let period = Duration::from_millis(u64::from(period));
    vm.tick = (!period.is_zero()).then(|| period.max(SHORTEST_TICK));
    vm.arm_tick();
    Ok(())
}

pub(super) fn set_effective(caller: &mut Caller<'_, Vm>, context: u32) -> Answer {
    let vm = caller.data_mut();
    vm.effective = vm.by_guest(context).ok_or(Status::BadArgument)?;
    Ok(())
}

/// The filter is ready for the end of an exchange that it held up.
pub(super) fn done(caller: &mut Caller<'_, Vm>) -> Answer {
    let vm = caller.data_mut();
    let effective = vm.effective;
    let stream = &mut vm.context()?.extra;
    if effective == ContextId::INSTANCE || !stream.closing {
        return Err(Status::NotFound.into());
    }
    stream.done = true;
    vm.touch();
    Ok(())
}

pub(super) fn get_property(
    caller: &mut Caller<'_, Vm>,
    path: Range,
    to_address: u32,
    to_length: u32,
) -> Answer {
    let (path, vm) = vm::read(caller, path.0, path.1)?;
    let path = property::trim(path).ok_or(Status::BadArgument)?;
    let context = vm.state.contexts.get(vm.effective);
    let context = context.ok_or(Status::BadArgument)?;
    let value = match context.extra.properties.get(path) {
        Some(value) => value.clone(),
        None => {
            let exchange = context.exchange.as_deref();
            property::get(path, &vm.state.env, exchange).ok_or(Status::NotFound)?
        }
    };
    vm::give(caller, &value, to_address, to_length)
}

pub(super) fn set_property(caller: &mut Caller<'_, Vm>, path: Range, value: Range) -> Answer {
    let (path, value, vm) = vm::read_two(caller, path, value)?;
    let path = property::trim(path).ok_or(Status::BadArgument)?;
    let properties = &mut vm.context()?.extra.properties;
    let kept: usize = properties.iter().map(|(k, v)| k.len() + v.len()).sum();
    if path.is_empty() || kept + path.len() + value.len() > MAX_PROPERTIES {
        return Err(Status::BadArgument.into());
    }
    properties.insert(path.to_vec(), Bytes::copy_from_slice(value));
    Ok(())
}

/// There are none here.
pub(super) fn foreign_function(caller: &mut Caller<'_, Vm>, name: Range) -> Answer {
    let (name, _vm) = vm::read(caller, name.0, name.1)?;
    vm::text(name)?;
    Err(Status::NotFound.into())
}

impl Vm {
    /// Begins the next period, as long as the filter wants to be called.
    pub(in crate::proxy_wasm) fn arm_tick(&mut self) {
        use crate::instance::Wanted;
        if let Some(timer) = self.tick_timer.take() {
            self.state.cancel(ContextId::INSTANCE, timer, Wanted::Timer);
        }
        self.tick_timer = self
            .tick
            .and_then(|period| self.state.arm_timer(ContextId::INSTANCE, period));
    }
}
