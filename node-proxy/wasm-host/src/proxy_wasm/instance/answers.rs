//! What comes in between the parts of messages: answers to calls, ticks, messages in queues.

use wasmtime::{Store, TypedFunc};

use super::Instance;
use crate::fault::Fault;
use crate::instance::side_of;
use crate::proxy_wasm::grpc;
use crate::proxy_wasm::host::calls::token;
use crate::proxy_wasm::vm::{Arrived, ROOT, Vm, guest_number};
use crate::types::{ContextId, FetchResponse, FetchResult, Step};

/// A callback of gRPC.
type Tell = Option<TypedFunc<(u32, u32, u32), ()>>;

impl Instance {
    pub(super) fn fetched(
        &mut self,
        context: ContextId,
        id: u64,
        result: FetchResult,
    ) -> Result<Step, Fault> {
        let token = token(id);
        let Some(call) = self.vm_mut().calls.remove(&token) else {
            return Ok(Step::Pending);
        };
        match call.grpc {
            true => self.grpc_done(context, token, &result)?,
            false => self.http_done(context, token, result.ok().map(|response| *response))?,
        }
        self.vm_mut().forget();
        let asked = (context != ContextId::INSTANCE).then(|| (context, side_of(id)));
        Ok(self.settle(asked)?.unwrap_or(Step::Pending))
    }

    fn http_done(
        &mut self,
        context: ContextId,
        token: u32,
        response: Option<FetchResponse>,
    ) -> Result<(), Fault> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let arguments = response.as_ref().map_or((0, 0, 0), |response| {
            let headers = count(response.headers.len() + 1);
            (
                headers,
                count(response.body.len()),
                count(response.trailers.len()),
            )
        });
        self.vm_mut().arrived.response = response;
        let number = guest_number(context);
        self.call(context, |callbacks, store| {
            let (headers, body, trailers) = arguments;
            match &callbacks.http_call_response {
                Some(done) => done.call(store, (number, token, headers, body, trailers)),
                None => Ok(()),
            }
        })
    }

    fn grpc_done(
        &mut self,
        context: ContextId,
        token: u32,
        result: &FetchResult,
    ) -> Result<(), Fault> {
        let outcome = grpc::outcome(result);
        let (initial, trailing) = match result {
            Ok(response) => (response.headers.clone(), response.trailers.clone()),
            Err(_) => Default::default(),
        };
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (headers, trailers) = (count(initial.len()), count(trailing.len()));
        let length = outcome.message.as_ref().map(|message| count(message.len()));
        self.vm_mut().arrived = Arrived {
            response: None,
            grpc_message: outcome.message,
            grpc_initial: initial,
            grpc_trailing: trailing,
            grpc_code: outcome.code,
            grpc_text: outcome.text,
        };
        let number = guest_number(context);
        self.call(context, |callbacks, store| {
            let tell = |store: &mut Store<Vm>, callback: &Tell, last| match callback {
                Some(callback) => callback.call(store, (number, token, last)),
                None => Ok(()),
            };
            // A call of one message ends with the message, or with the status in its place.
            let Some(length) = length else {
                return tell(store, &callbacks.grpc_close, outcome.code);
            };
            if headers > 0 {
                tell(store, &callbacks.grpc_initial, headers)?;
            }
            tell(store, &callbacks.grpc_receive, length)?;
            match trailers {
                0 => Ok(()),
                trailers => tell(store, &callbacks.grpc_trailing, trailers),
            }
        })
    }

    pub(super) fn timer(&mut self, id: u64) -> Result<Step, Fault> {
        let vm = self.vm_mut();
        if vm.tick_timer != Some(id) {
            return Ok(Step::Pending);
        }
        vm.tick_timer = None;
        vm.arm_tick();
        self.call(ContextId::INSTANCE, |callbacks, store| {
            match &callbacks.tick {
                Some(tick) => tick.call(store, ROOT),
                None => Ok(()),
            }
        })?;
        self.settle(None)?;
        Ok(Step::Pending)
    }

    /// Messages in queues that this instance listens to.
    pub(super) fn tell_queues(&mut self) -> Result<(), Fault> {
        for at in 0..self.vm().queues.len() {
            let queue = self.vm().queues[at];
            if self.vm().state.env.queues.take_news(queue) {
                self.call(ContextId::INSTANCE, |callbacks, store| {
                    match &callbacks.queue_ready {
                        Some(ready) => ready.call(store, (ROOT, queue)),
                        None => Ok(()),
                    }
                })?;
            }
        }
        Ok(())
    }
}
