//! A filter on one worker: failures, replacement, hot reload.

use std::sync::Arc;
use std::time::Duration;

use weft_wasm_host::{
    Command, Effect, Event, FailPolicy, Fault, FaultKind, Filter, Isolation, OnError, Published,
    Slot, Step, Ticket,
};

use crate::support::guest::{
    Component, FAIL, PASS, PENDING, PROCEED, ProxyWasm, REQUEST_BODY, REQUEST_HEADERS, TIMER,
};
use crate::support::{FakeExchange, HEAD, ManualClock, Setup, body, head, own_runtime};

/// Holds a head; lets a body go; traps at trailers; at a timer too.
fn fragile() -> Component {
    Component::new(&format!(
        "(if (i32.eq (local.get $kind) (i32.const {REQUEST_HEADERS})) (then
           (drop (call $set_timer (local.get $ctx) (i64.const 5)))
           (return (call $step (i32.const {PENDING})))))
         (if (i32.eq (local.get $kind) (i32.const {REQUEST_BODY})) (then
           (return (call $step (i32.const {PROCEED})))))
         (unreachable)"
    ))
}

const DOWN: Fault = Fault::Down {
    of: FaultKind::Trap,
};

fn open(slot: &mut Slot) -> Ticket {
    let ticket = slot.open().expect("an instance");
    slot.lend(ticket, Box::new(FakeExchange::get("/")));
    ticket
}

fn failed(slot: &mut Slot) -> Vec<Ticket> {
    slot.effects()
        .filter_map(|(ticket, effect)| matches!(effect, Effect::Failed(_)).then_some(ticket))
        .collect()
}

#[test]
fn a_trap_harms_who_is_in_the_instance_and_nobody_else() {
    let setup = Setup::new();
    let filter = setup.filter(&fragile().wasm());
    let (mut slot, mut other_worker) = (Slot::new(Arc::clone(&filter)), Slot::new(filter));
    let elsewhere = open(&mut other_worker);
    let (parked, culprit, third) = (open(&mut slot), open(&mut slot), open(&mut slot));
    assert_eq!(slot.on_event(parked, HEAD).step, Ok(Step::Pending));
    assert_eq!(failed(&mut slot), []);
    let outcome = slot.on_event(culprit, Event::RequestTrailers);
    assert!(matches!(outcome.step, Err(Fault::Trap(_))));
    let mut orphans = failed(&mut slot);
    orphans.sort_by_key(|ticket| ticket.context());
    assert_eq!(
        orphans,
        [parked, third],
        "all but the one that knows already"
    );
    for ticket in [parked, culprit, third] {
        assert!(slot.reclaim(ticket).is_some(), "no exchange is lost");
        assert!(slot.reclaim(ticket).is_none());
        assert_eq!(slot.on_event(ticket, HEAD).step, Err(DOWN));
        assert!(slot.close(ticket).is_none());
    }
    assert_eq!(slot.instances(), 1, "the successor is there");
    let next = open(&mut slot);
    assert_eq!(slot.on_event(next, body(b"", true)).step, Ok(Step::Proceed));
    assert_eq!(
        other_worker.on_event(elsewhere, body(b"", true)).step,
        Ok(Step::Proceed)
    );
    assert_eq!(failed(&mut other_worker), []);
}

#[test]
fn who_cannot_decide_fails_one_request_and_goes_on() {
    let undecided = Component::new(&format!(
        "(if (i32.eq (local.get $kind) (i32.const {REQUEST_HEADERS})) (then
           (return (i32.const 1040))))
         (call $step (i32.const {PROCEED}))"
    ))
    .with(&format!(
        r#"(data (i32.const 1040) "\{FAIL:02x}\00\00\00\00\08\00\00\07\00\00\00")
           (data (i32.const 2048) "no keys")"#
    ));
    let mut setup = Setup::new();
    setup.spec.on_error = OnError {
        trap: FailPolicy::Open,
        ..OnError::default()
    };
    let filter = setup.filter(&undecided.wasm());
    let mut slot = Slot::new(Arc::clone(&filter));
    let bystander = open(&mut slot);
    // More often than an instance may trap before its successor has to wait.
    for _request in 0..4 {
        let ticket = open(&mut slot);
        let outcome = slot.on_event(ticket, HEAD);
        let fault = Fault::Undecided("no keys".to_owned());
        assert_eq!(filter.on_error().policy(fault.kind()), FailPolicy::Open);
        assert_eq!(outcome.step, Err(fault));
        assert_eq!(failed(&mut slot), [], "nobody else hears of it");
        assert!(slot.reclaim(ticket).is_some());
        slot.close(ticket);
    }
    let outcome = slot.on_event(bystander, body(b"", true));
    assert_eq!(outcome.step, Ok(Step::Proceed), "its instance is the same");
    assert_eq!((slot.instances(), slot.contexts()), (1, 1));
}

#[test]
fn who_keeps_trapping_waits_longer_each_time() {
    let clock = Arc::new(ManualClock::default());
    let setup = Setup::of(own_runtime(&clock, 8));
    let mut slot = Slot::new(setup.filter(&fragile().wasm()));
    let trap = |slot: &mut Slot| {
        let ticket = open(slot);
        let outcome = slot.on_event(ticket, Event::RequestTrailers);
        assert!(matches!(outcome.step, Err(Fault::Trap(_))));
        slot.reclaim(ticket);
    };
    trap(&mut slot);
    trap(&mut slot);
    assert_eq!(slot.open(), Err(DOWN));
    clock.advance(Duration::from_millis(99));
    assert_eq!(slot.open(), Err(DOWN));
    clock.advance(Duration::from_millis(1));
    trap(&mut slot);
    clock.advance(Duration::from_millis(199));
    assert_eq!(slot.open(), Err(DOWN));
    clock.advance(Duration::from_millis(1));
    let ticket = open(&mut slot);
    clock.advance(Duration::from_secs(10));
    slot.close(ticket);
    trap(&mut slot);
    slot.open()
        .expect("it lived long enough: the next one came at once");
}

#[test]
fn a_timer_of_a_request_that_is_gone_harms_nobody() {
    let mut slot = Slot::new(Setup::new().filter(&fragile().wasm()));
    let ticket = open(&mut slot);
    assert_eq!(slot.on_event(ticket, HEAD).step, Ok(Step::Pending));
    let timer = slot.effects().find_map(|(of, effect)| match effect {
        Effect::Command(Command::SetTimer { id, .. }) if of == ticket => Some(id),
        _ => None,
    });
    let id = timer.expect("a timer");
    assert!(slot.close(ticket).is_some());
    let cancelled = slot.effects().any(|(_, effect)| {
        matches!(effect, Effect::Command(Command::CancelTimer { id: of }) if of == id)
    });
    assert!(cancelled);
    let late = slot.on_event(ticket, Event::Timer { id });
    assert!(matches!(late.step, Err(Fault::Misuse(_))));
    assert_eq!(slot.instances(), 1, "{TIMER} would have been a trap");
    assert_eq!(failed(&mut slot), []);
}

#[test]
fn with_isolation_a_request_has_an_instance_of_its_own() {
    let mut setup = Setup::new();
    setup.spec.isolation = Isolation::Request;
    let mut slot = Slot::new(setup.filter(&fragile().wasm()));
    assert_eq!(slot.instances(), 0);
    let (culprit, other) = (open(&mut slot), open(&mut slot));
    assert_eq!(slot.instances(), 2);
    let outcome = slot.on_event(culprit, Event::RequestTrailers);
    assert!(matches!(outcome.step, Err(Fault::Trap(_))));
    assert_eq!(failed(&mut slot), []);
    assert_eq!(
        slot.on_event(other, body(b"", true)).step,
        Ok(Step::Proceed)
    );
    assert!(slot.close(other).is_some());
    assert_eq!(slot.instances(), 0);
    open(&mut slot);
}

#[test]
fn requests_stay_with_the_version_that_they_began_with() {
    let setup = Setup::new();
    let published = Published::new();
    published.publish(Ok(setup.filter(&fragile().wasm())));
    let mut slot = Slot::new(published.current().expect("there"));
    let old = open(&mut slot);
    assert_eq!(slot.on_event(old, HEAD).step, Ok(Step::Pending));
    published.publish(Ok(setup.filter(&Component::step(PASS).wasm())));
    slot.refresh(&published);
    assert_eq!((slot.instances(), slot.contexts()), (2, 1));
    let new = open(&mut slot);
    assert_eq!(slot.on_event(new, HEAD).step, Ok(Step::Pass));
    assert_eq!(slot.on_event(old, body(b"", false)).step, Ok(Step::Proceed));
    let before = Arc::clone(slot.filter());
    slot.refresh(&published);
    assert!(Arc::ptr_eq(&before, slot.filter()), "nothing new");
    // The old one fails: its request hears of it, the new version does not count it.
    let outcome = slot.on_event(old, Event::RequestTrailers);
    assert!(matches!(outcome.step, Err(Fault::Trap(_))));
    assert_eq!(slot.instances(), 1);
    assert_eq!(slot.on_event(new, HEAD).step, Ok(Step::Pass));
    slot.close(old);
    slot.close(new);
    assert_eq!((slot.instances(), slot.contexts()), (1, 0));
}

#[test]
fn an_idle_old_version_goes_at_once() {
    let setup = Setup::new();
    let mut slot = Slot::new(setup.filter(&Component::step(PASS).wasm()));
    let ticket = open(&mut slot);
    slot.replace(setup.filter(&Component::step(PROCEED).wasm()));
    assert_eq!(slot.instances(), 2);
    assert!(slot.close(ticket).is_some());
    assert_eq!(slot.instances(), 1);
    slot.replace(setup.filter(&Component::step(PASS).wasm()));
    assert_eq!(slot.instances(), 1);
}

#[test]
fn where_there_is_no_room_a_filter_says_so() {
    let clock = Arc::new(ManualClock::default());
    let setup = Setup::of(own_runtime(&clock, 2));
    let filter = setup.filter(&Component::step(PASS).wasm());
    let mut slots: Vec<Slot> = (0..3).map(|_slot| Slot::new(Arc::clone(&filter))).collect();
    slots[0].open().expect("room");
    slots[1].open().expect("room");
    let full = slots[2].open();
    assert!(matches!(full, Err(Fault::NoRoom(_))), "{full:?}");
    slots.remove(0);
    clock.advance(Duration::from_secs(1));
    slots[1].open().expect("room again");
}

#[test]
fn an_instance_can_be_made_elsewhere() {
    let setup = Setup::new();
    let filter = setup.filter(&Component::step(PASS).wasm());
    let mut slot = Slot::new(Arc::clone(&filter));
    let wanted = slot.wanted().expect("none is there");
    let made = std::thread::spawn(move || {
        let made = wanted.instantiate();
        (wanted, made)
    });
    let (of, made) = made.join().expect("no panic");
    slot.install(&of, made);
    assert!(slot.wanted().is_none());
    assert_eq!(slot.instances(), 1);
    slot.install(&of, of.instantiate());
    assert_eq!(slot.instances(), 1, "one too many is thrown away");
}

/// Counts to a million.
const SPIN: &str = "(loop $again (br_if $again (i32.lt_u
  (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000000))))";

/// Longer than anything takes that does not count.
const A_WHILE: Duration = Duration::from_micros(50);

#[test]
fn the_time_of_a_call_is_told() {
    let spin = Component::new(&format!(
        "(local $n i32) {SPIN} (call $step (i32.const {PROCEED}))"
    ));
    let mut slot = Slot::new(Setup::new().filter(&spin.wasm()));
    let ticket = open(&mut slot);
    let outcome = slot.on_event(ticket, HEAD);
    assert_eq!(outcome.step, Ok(Step::Proceed));
    assert!(outcome.spent > A_WHILE, "{:?}", outcome.spent);
    assert!(slot.memory() >= 2 * 65_536);
}

/// A slot with an instance that was made elsewhere, however long it took.
fn slot_with_instance(filter: &Arc<Filter>) -> Slot {
    let mut slot = Slot::new(Arc::clone(filter));
    slot.install(filter, filter.instantiate());
    assert_eq!(slot.instances(), 1);
    assert_eq!(slot.take_spent(), Duration::ZERO);
    slot
}

/// Works for a while in this callback.
fn working(export: &str, parameters: &str) -> ProxyWasm {
    ProxyWasm::new(&format!(
        r#"(func (export "{export}") (param {parameters}) (local $n i32) {SPIN})"#
    ))
}

#[test]
fn the_time_of_an_instance_is_told() {
    let mut setup = Setup::new();
    let mut slot = Slot::new(setup.filter(&Component::step(PASS).wasm()));
    slot.settle();
    assert_eq!(slot.instances(), 1);
    assert!(slot.take_spent() > Duration::ZERO);
    assert_eq!(slot.take_spent(), Duration::ZERO, "it is told once");
    setup.spec.isolation = Isolation::Request;
    let mut slot = Slot::new(setup.filter(&Component::step(PASS).wasm()));
    slot.open().expect("an instance");
    assert!(slot.take_spent() > Duration::ZERO);
}

#[test]
fn the_time_of_what_is_no_event_is_told() {
    let setup = Setup::new();
    let creates = working("proxy_on_context_create", "i32 i32").wasm();
    let mut slot = slot_with_instance(&setup.filter(&creates));
    slot.open().expect("room");
    assert!(slot.take_spent() > A_WHILE, "of a request that begins");
    let deletes = working("proxy_on_delete", "i32").wasm();
    let mut slot = slot_with_instance(&setup.filter(&deletes));
    let ticket = open(&mut slot);
    slot.take_spent();
    assert!(slot.close(ticket).is_some());
    assert!(slot.take_spent() > A_WHILE, "of one that ends");
}

#[test]
fn the_time_of_a_message_in_a_queue_is_told() {
    let setup = Setup::new();
    let mut listens = working("proxy_on_queue_ready", "i32 i32").data("q");
    listens.functions.push_str(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $register (i32.const 1024) (i32.const 1) (i32.const 812)))
             (i32.const 1))"#,
    );
    let mut slot = slot_with_instance(&setup.filter(&listens.wasm()));
    slot.poll();
    slot.take_spent();
    let tells = ProxyWasm::on_headers(
        "(drop (call $enqueue (i32.const 1) (i32.const 1024) (i32.const 1))) (i32.const 0)",
    );
    let mut other = setup.instance(&tells.wasm());
    assert_eq!(head(&mut *other), Ok(Step::Proceed));
    slot.poll();
    assert!(slot.take_spent() > A_WHILE);
}
