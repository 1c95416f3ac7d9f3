//! What filters ask for: fetches and timers, and how their answers come back.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use weft_core::filter::FilterSpec;
use weft_wasm_host::budget::Admission;
use weft_wasm_host::{Command, Event, Ticket};

use super::{Ask, FETCH, LATER, now, with};
use crate::accept::worker::Worker;
use crate::filter::fetch;
use crate::filter::inbox::Inbox;

/// Starts what was asked for.
pub(super) fn start(worker: &Rc<Worker>, id: u64, asks: Vec<Ask>) {
    for (ticket, inbox, command) in asks {
        let (number, answer) = match command {
            Command::SetTimer { id: number, after } => {
                let timer = async move {
                    tokio::time::sleep(after).await;
                    Event::Timer { id: number }
                };
                (number, Answer::Timer(timer))
            }
            Command::StartFetch {
                id: number,
                request,
            } => {
                let Some((spec, most)) = asking(worker, id) else {
                    continue;
                };
                let asker = inbox.as_ref().map(|inbox| inbox.asker.clone());
                let asking = fetch::fetch(Rc::clone(worker), spec, asker, *request, most);
                let fetch = async move {
                    let result = asking.await;
                    Event::FetchDone { id: number, result }
                };
                (number, Answer::Fetch(Box::pin(fetch)))
            }
            Command::CancelFetch { .. } | Command::CancelTimer { .. } | Command::Decide { .. } => {
                continue;
            }
        };
        match inbox {
            Some(inbox) => answer_exchange(&inbox, number, answer),
            None => answer_instance(worker, id, ticket, number, answer),
        }
    }
}

/// What a filter waits for.
enum Answer<T, F> {
    Timer(T),
    Fetch(F),
}

impl<T, F> Answer<T, F>
where
    T: Future<Output = Event>,
    F: Future<Output = Event>,
{
    async fn wait(self) -> Event {
        match self {
            Self::Timer(timer) => timer.await,
            Self::Fetch(fetch) => fetch.await,
        }
    }
}

fn answer_exchange<T, F>(inbox: &Rc<Inbox>, number: u64, answer: Answer<T, F>)
where
    T: Future<Output = Event> + 'static,
    F: Future<Output = Event> + 'static,
{
    let to = Rc::downgrade(inbox);
    let task = tokio::task::spawn_local(async move {
        let event = answer.wait().await;
        if let Some(inbox) = to.upgrade() {
            inbox.arrived(number, event);
        }
    });
    inbox.started(number, task.abort_handle());
}

fn answer_instance<T, F>(
    worker: &Rc<Worker>,
    id: u64,
    ticket: Ticket,
    number: u64,
    answer: Answer<T, F>,
) where
    T: Future<Output = Event> + 'static,
    F: Future<Output = Event> + 'static,
{
    let owner = Rc::clone(worker);
    let task = tokio::task::spawn_local(async move {
        let event = answer.wait().await;
        deliver(&owner, id, ticket, number, event);
    });
    let mut filters = worker.filters.filters.borrow_mut();
    if let Some(local) = filters.get_mut(&id) {
        local.own.insert((ticket, number), task.abort_handle());
    }
}

/// Who asks, and how much it may be answered.
fn asking(worker: &Worker, id: u64) -> Option<(Arc<FilterSpec>, usize)> {
    let filters = worker.filters.filters.borrow();
    let local = filters.get(&id)?;
    local.node.budget.charge(worker.id, FETCH, now());
    let most = local.slot.filter().limits().fetch_body;
    Some((Arc::clone(&local.spec), most))
}

/// Tells an instance what it asked for on its own account. In the end its step
/// is nobody's.
fn deliver(worker: &Rc<Worker>, id: u64, ticket: Ticket, number: u64, event: Event) {
    let mut event = Some(event);
    let put_off = with(worker, id, |local| {
        local.own.remove(&(ticket, number))?;
        let (admission, reserved) = local.node.budget.admit(worker.id, now());
        let after = match admission {
            Admission::Run => None,
            Admission::Wait(after) => Some(after),
            Admission::Refused => Some(LATER),
            Admission::Quarantined { until } => {
                Some(Duration::from_nanos(until.saturating_sub(now())).max(LATER))
            }
        };
        match after.is_none().then(|| event.take()).flatten() {
            Some(event) => {
                let outcome = local.slot.on_event(ticket, event);
                let spent = outcome.spent + local.slot.take_spent();
                local.node.budget.settle(reserved, spent, outcome.ended);
            }
            None => local.node.budget.cancel(reserved, now()),
        }
        after
    });
    let (Some(after), Some(event)) = (put_off.flatten(), event) else {
        return;
    };
    let later = async move {
        tokio::time::sleep(after).await;
        event
    };
    let answer = Answer::Timer::<_, std::future::Ready<Event>>(later);
    answer_instance(worker, id, ticket, number, answer);
}
