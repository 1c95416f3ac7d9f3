//! Where and when instances are made: on the worker if that is quick, elsewhere if not, and not
//! over and over for a filter that does not start.

use std::sync::Arc;
use std::time::Duration;

use weft_wasm_host::budget::Memory;
use weft_wasm_host::{
    Command, ConfigureError, Effect, Event, Fault, FaultKind, Filter, INLINE_START, Isolation,
    Published, Slot, Step, Ticket,
};

use crate::support::guest::{Component, PASS, PENDING, PROCEED, REQUEST_HEADERS};
use crate::support::{FakeExchange, HEAD, ManualClock, Setup, body, own_runtime};

/// Nothing was made yet, and nothing failed.
const NOT_THERE: Fault = Fault::Down {
    of: FaultKind::Load,
};

fn open(slot: &mut Slot) -> Ticket {
    let ticket = slot.open().expect("an instance");
    slot.lend(ticket, Box::new(FakeExchange::get("/")));
    ticket
}

/// Needs 30 ms of CPU time and more to take its configuration.
fn slow(step: u32) -> Component {
    let mut component = Component::step(step);
    component.configure = "(local $n i32)
        (loop $again (br_if $again (i32.lt_u
          (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100000000))))
        (i32.const 320)"
        .to_owned();
    component
}

/// Takes its configuration at once, unless the shared number `mood` is 1: then it never comes back;
/// or 2: then it refuses it.
fn moody(step: u32) -> Component {
    let mut component = Component::step(step).with(
        r#"(data (i32.const 2048) "mood")
           (data (i32.const 340) "\01\00\00\00\00\08\00\00\04\00\00\00")"#,
    );
    component.configure = "(call $kv_incr (i32.const 2048) (i32.const 4) (i64.const 0)
          (i32.const 0) (i64.const 0) (i32.const 1104))
        (loop $forever (br_if $forever (i64.eq (i64.load (i32.const 1112)) (i64.const 1))))
        (if (result i32) (i64.eq (i64.load (i32.const 1112)) (i64.const 2))
          (then (i32.const 340)) (else (i32.const 320)))"
        .to_owned();
    component
}

const LOOPS: i64 = 1;
const REFUSES: i64 = 2;

fn set_mood(setup: &Setup, mood: i64) {
    let kv = &setup.spec.shared.kv;
    kv.remove("mood");
    kv.increment("mood", mood, None, 0).expect("room");
}

fn is(one: Option<&Arc<Filter>>, other: &Arc<Filter>) -> bool {
    one.is_some_and(|one| Arc::ptr_eq(one, other))
}

#[test]
fn a_filter_that_is_slow_to_start_is_not_made_on_a_worker() {
    let setup = Setup::new();
    let filter = setup.filter(&slow(PASS).wasm());
    assert!(filter.start_cost() > INLINE_START);
    let mut slot = Slot::new(Arc::clone(&filter));
    slot.settle();
    slot.poll();
    assert_eq!(slot.open(), Err(NOT_THERE));
    assert_eq!(slot.take_spent(), Duration::ZERO);
    assert!(is(slot.wanted().as_ref(), &filter));
    slot.install(&filter, filter.instantiate());
    let ticket = open(&mut slot);
    assert_eq!(slot.on_event(ticket, HEAD).step, Ok(Step::Pass));
}

#[test]
fn a_start_that_takes_too_long_on_a_worker_is_stopped_and_goes_on_elsewhere() {
    let setup = Setup::new();
    let filter = setup.filter(&moody(PASS).wasm());
    let mut slot = Slot::new(Arc::clone(&filter));
    set_mood(&setup, LOOPS);
    slot.settle();
    assert_eq!(slot.instances(), 0);
    let spent = slot.take_spent();
    assert!(spent >= Duration::from_millis(7), "{spent:?}");
    // It is not tried again here, and it is nobody's fault yet.
    assert_eq!(slot.open(), Err(NOT_THERE));
    assert_eq!(slot.take_spent(), Duration::ZERO);
    assert!(is(slot.wanted().as_ref(), &filter));
    set_mood(&setup, 0);
    slot.install(&filter, filter.instantiate());
    open(&mut slot);
}

#[test]
fn instances_that_are_ready_hold_up_no_worker() {
    let setup = Setup::new();
    let [first, second] = [PASS, PROCEED].map(|step| setup.filter(&moody(step).wasm()));
    first.make_ready(1);
    second.make_ready(1);
    // Who makes one himself is held up now.
    set_mood(&setup, LOOPS);
    let mut slot = Slot::new(Arc::clone(&first));
    slot.settle();
    let ticket = open(&mut slot);
    assert_eq!(slot.on_event(ticket, HEAD).step, Ok(Step::Pass));
    slot.replace(Arc::clone(&second));
    assert!(is(Some(slot.filter()), &second));
    let ticket = open(&mut slot);
    assert_eq!(slot.on_event(ticket, HEAD).step, Ok(Step::Proceed));
    // Old instances go on a worker.
    assert!(slot.take_spent() < Duration::from_millis(7));
    // Another worker finds none.
    let mut other = Slot::new(first);
    other.settle();
    assert_eq!(other.instances(), 0);
}

#[test]
fn a_successor_that_does_not_start_in_time_is_made_elsewhere() {
    let traps = Component {
        on_event: "unreachable".to_owned(),
        ..moody(PASS)
    };
    let setup = Setup::new();
    let filter = setup.filter(&traps.wasm());
    let mut slot = Slot::new(Arc::clone(&filter));
    let ticket = open(&mut slot);
    set_mood(&setup, LOOPS);
    let outcome = slot.on_event(ticket, HEAD);
    assert!(matches!(outcome.step, Err(Fault::Trap(_))));
    // The time that its successor took on the worker is told like any other.
    let spent = slot.take_spent();
    assert!(spent >= Duration::from_millis(7), "{spent:?}");
    assert_eq!(slot.instances(), 0);
    let of = FaultKind::Trap;
    assert_eq!(slot.open(), Err(Fault::Down { of }));
    assert!(is(slot.wanted().as_ref(), &filter));
}

#[test]
fn isolation_needs_a_filter_that_starts_quickly() {
    let mut setup = Setup::new();
    setup.spec.isolation = Isolation::Request;
    let error = setup.configure(&slow(PASS).wasm()).expect_err("too slow");
    assert!(
        matches!(error, ConfigureError::TooSlow { cost } if cost > INLINE_START),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.starts_with("isolation: "), "{text}");
    assert!(text.contains("2 ms at most"), "{text}");
    setup
        .configure(&Component::step(PASS).wasm())
        .expect("fast");
}

#[test]
fn filters_of_a_namespace_share_its_memory() {
    // Small instances count as 1 MiB each.
    let memory = Arc::new(Memory::new(3 << 20));
    let mut setup = Setup::new();
    setup.spec.shared.memory = Arc::clone(&memory);
    let grows = format!("(drop (memory.grow (i32.const 40))) (call $step (i32.const {PROCEED}))");
    let [one, other] = [PASS, PROCEED].map(|step| setup.filter(&Component::step(step).wasm()));
    let large = setup.filter(&Component::new(&grows).wasm());
    assert_eq!(memory.used(), 0, "what configuring takes is given back");
    let mut slots = [one, other, large].map(Slot::new);
    slots.iter_mut().for_each(Slot::settle);
    assert_eq!(memory.used(), 3 << 20);
    let ticket = open(&mut slots[2]);
    let outcome = slots[2].on_event(ticket, HEAD);
    let fault = outcome.step.expect_err("no memory is left");
    assert!(fault.is_fatal() && fault.to_string().contains("all filters of its namespace"));
    drop(slots);
    assert_eq!(memory.used(), 0);
    assert!(memory.most() > 0);
    // Where there is none for an instance, there is no room.
    setup.spec.shared.memory = Arc::new(Memory::new(1 << 20));
    let filter = setup.filter(&Component::step(PASS).wasm());
    let _first = filter.instantiate().expect("room");
    let full = filter.instantiate().err().expect("no room");
    assert!(
        matches!(&full, Fault::NoRoom(why) if why.contains("namespace")),
        "{full}"
    );
}

#[test]
fn instances_of_requests_are_counted_on_all_workers_together() {
    let mut setup = Setup::new();
    setup.spec.isolation = Isolation::Request;
    setup.spec.limits.instances = 3;
    let filter = setup.filter(&Component::step(PASS).wasm());
    let newer = setup.filter(&Component::step(PROCEED).wasm());
    let mut slots = [Slot::new(Arc::clone(&filter)), Slot::new(filter)];
    let first = open(&mut slots[0]);
    open(&mut slots[1]);
    open(&mut slots[1]);
    assert_eq!(setup.spec.shared.instances.count(), 3);
    for slot in &mut slots {
        let full = slot.open();
        assert!(
            matches!(&full, Err(fault @ Fault::NoRoom(why))
                if why.starts_with("3 instances") && fault.kind() == FaultKind::Timeout),
            "{full:?}"
        );
    }
    // Those of an older version count as well.
    slots[1].replace(newer);
    assert!(matches!(slots[1].open(), Err(Fault::NoRoom(_))));
    slots[0].close(first);
    open(&mut slots[1]);
    drop(slots);
    assert_eq!(setup.spec.shared.instances.count(), 0);
}

#[test]
fn instances_of_requests_that_do_not_start_are_not_made_over_and_over() {
    let clock = Arc::new(ManualClock::default());
    let mut setup = Setup::of(own_runtime(&clock, 8));
    setup.spec.isolation = Isolation::Request;
    let mut slot = Slot::new(setup.filter(&moody(PASS).wasm()));
    open(&mut slot);
    set_mood(&setup, REFUSES);
    let refused = Fault::Config("mood".to_owned());
    assert_eq!(slot.open(), Err(refused.clone()));
    // From now on nothing is made: it would start.
    set_mood(&setup, 0);
    for wait in [99, 1] {
        assert_eq!(slot.open(), Err(refused.clone()));
        clock.advance(Duration::from_millis(wait));
    }
    set_mood(&setup, REFUSES);
    assert_eq!(slot.open(), Err(refused.clone()));
    set_mood(&setup, 0);
    clock.advance(Duration::from_millis(199));
    assert_eq!(slot.open(), Err(refused.clone()), "twice as long");
    clock.advance(Duration::from_millis(1));
    open(&mut slot);
    set_mood(&setup, REFUSES);
    assert_eq!(slot.open(), Err(refused.clone()));
    set_mood(&setup, 0);
    clock.advance(Duration::from_millis(100));
    slot.open()
        .expect("one that started is forgiven what was before");
}

#[test]
fn a_start_of_a_request_that_takes_too_long_is_stopped() {
    let mut setup = Setup::new();
    setup.spec.isolation = Isolation::Request;
    let mut slot = Slot::new(setup.filter(&moody(PASS).wasm()));
    set_mood(&setup, LOOPS);
    let limit = Duration::from_millis(8);
    assert_eq!(slot.open(), Err(Fault::Timeout { limit }));
    assert!(slot.take_spent() >= Duration::from_millis(7));
    let of = FaultKind::Timeout;
    assert_eq!(slot.open(), Err(Fault::Down { of }), "it has to wait");
}

#[test]
fn the_old_version_serves_until_the_new_one_is_there() {
    let setup = Setup::new();
    let published = Published::new();
    let old = setup.filter(&Component::step(PROCEED).wasm());
    published.publish(Ok(Arc::clone(&old)));
    let mut slot = Slot::new(Arc::clone(&old));
    slot.settle();
    let new = setup.filter(&slow(PASS).wasm());
    published.publish(Ok(Arc::clone(&new)));
    for _time in 0..2 {
        slot.refresh(&published);
        assert!(is(Some(slot.filter()), &old) && is(slot.coming(), &new));
        assert!(is(slot.wanted().as_ref(), &new));
        let ticket = open(&mut slot);
        assert_eq!(slot.on_event(ticket, HEAD).step, Ok(Step::Proceed));
        slot.close(ticket);
    }
    let before = open(&mut slot);
    slot.install(&new, new.instantiate());
    assert!(is(Some(slot.filter()), &new) && slot.coming().is_none());
    assert!(slot.wanted().is_none());
    let after = open(&mut slot);
    assert_eq!(slot.on_event(after, HEAD).step, Ok(Step::Pass));
    assert_eq!(slot.on_event(before, HEAD).step, Ok(Step::Proceed));
    assert_eq!(slot.instances(), 2);
    slot.close(before);
    assert_eq!(slot.instances(), 1);
}

#[test]
fn a_new_version_that_does_not_start_never_comes() {
    let clock = Arc::new(ManualClock::default());
    let setup = Setup::of(own_runtime(&clock, 8));
    let published = Published::new();
    let old = setup.filter(&Component::step(PROCEED).wasm());
    published.publish(Ok(Arc::clone(&old)));
    let mut slot = Slot::new(Arc::clone(&old));
    let served = |slot: &mut Slot| {
        let ticket = open(slot);
        let step = slot.on_event(ticket, HEAD).step;
        slot.close(ticket);
        step
    };
    let new = setup.filter(&moody(PASS).wasm());
    set_mood(&setup, REFUSES);
    published.publish(Ok(Arc::clone(&new)));
    slot.refresh(&published);
    assert_eq!(served(&mut slot), Ok(Step::Proceed));
    assert!(is(slot.coming(), &new) && slot.wanted().is_none());
    clock.advance(Duration::from_millis(100));
    assert!(is(slot.wanted().as_ref(), &new), "it is tried again");
    slot.install(&new, new.instantiate());
    slot.refresh(&published);
    assert_eq!(served(&mut slot), Ok(Step::Proceed));
    set_mood(&setup, 0);
    clock.advance(Duration::from_millis(200));
    slot.poll();
    assert_eq!(served(&mut slot), Ok(Step::Pass));
    // A version that waits gives way to a newer one, and to the one that serves.
    let slow = setup.filter(&slow(PENDING).wasm());
    slot.replace(Arc::clone(&slow));
    assert!(is(slot.coming(), &slow));
    slot.replace(Arc::clone(&new));
    assert!(slot.coming().is_none());
    slot.install(&slow, slow.instantiate());
    assert_eq!(served(&mut slot), Ok(Step::Pass));
    assert_eq!(slot.instances(), 1);
}

#[test]
fn the_old_version_is_mended_while_the_new_one_is_awaited() {
    let setup = Setup::new();
    let fragile = Component::new(&format!(
        "(if (i32.ne (local.get $kind) (i32.const {REQUEST_HEADERS})) (then unreachable))
         (call $step (i32.const {PROCEED}))"
    ));
    let mut slot = Slot::new(setup.filter(&fragile.wasm()));
    let ticket = open(&mut slot);
    slot.replace(setup.filter(&slow(PASS).wasm()));
    let outcome = slot.on_event(ticket, body(b"", true));
    assert!(matches!(outcome.step, Err(Fault::Trap(_))));
    let ticket = open(&mut slot);
    assert_eq!(slot.on_event(ticket, HEAD).step, Ok(Step::Proceed));
}

#[test]
fn isolation_can_come_and_go() {
    let mut setup = Setup::new();
    let shared = setup.filter(&Component::step(PROCEED).wasm());
    setup.spec.isolation = Isolation::Request;
    let alone = setup.filter(&moody(PASS).wasm());
    let mut slot = Slot::new(Arc::clone(&shared));
    let first = open(&mut slot);
    set_mood(&setup, REFUSES);
    slot.replace(Arc::clone(&alone));
    assert!(is(Some(slot.filter()), &shared), "it does not start");
    set_mood(&setup, 0);
    slot.replace(Arc::clone(&shared));
    slot.replace(alone);
    assert_eq!((slot.instances(), slot.contexts()), (1, 1));
    let second = open(&mut slot);
    assert_eq!(slot.on_event(second, HEAD).step, Ok(Step::Pass));
    assert_eq!(slot.on_event(first, HEAD).step, Ok(Step::Proceed));
    slot.close(first);
    slot.replace(shared);
    assert_eq!((slot.instances(), slot.contexts()), (2, 1));
    slot.close(second);
    assert_eq!(slot.instances(), 1);
}

/// Asks for a timer and a fetch of its own when it takes its configuration, and for both at a
/// head; traps at anything else.
fn asking() -> Component {
    let fetch = |ctx: &str| {
        format!(
            "(call $start_fetch {ctx}
               (i32.const 2048) (i32.const 4) (i32.const 2052) (i32.const 3)
               (i32.const 2055) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)
               (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
               (i32.const 1104))
             (drop (call $set_timer {ctx} (i64.const 1000)))"
        )
    };
    let mut component = Component::new(&format!(
        "(if (i32.ne (local.get $kind) (i32.const {REQUEST_HEADERS})) (then
           {} unreachable))
         {} (call $step (i32.const {PENDING}))",
        fetch("(local.get $ctx)"),
        fetch("(local.get $ctx)")
    ))
    .with(r#"(data (i32.const 2048) "a:80GET/")"#);
    component.configure = format!("{} (i32.const 320)", fetch("(i64.const 0)"));
    component
}

/// What was asked for, what was cancelled, and who failed.
fn told(slot: &mut Slot) -> [Vec<(Ticket, u64)>; 3] {
    let mut told = [vec![], vec![], vec![]];
    for (ticket, effect) in slot.effects() {
        let (which, id) = match effect {
            Effect::Command(Command::StartFetch { id, .. } | Command::SetTimer { id, .. }) => {
                (0, id)
            }
            Effect::Command(Command::CancelFetch { id } | Command::CancelTimer { id }) => (1, id),
            Effect::Command(other) => panic!("{other:?}"),
            Effect::Failed(_) => (2, 0),
        };
        told[which].push((ticket, id));
    }
    told.iter_mut()
        .for_each(|list| list.sort_by_key(|one| one.1));
    told
}

#[test]
fn what_an_instance_waited_for_is_cancelled_when_it_goes() {
    let setup = Setup::new();
    let mut slot = Slot::new(setup.filter(&asking().wasm()));
    slot.settle();
    let [asked, cancelled, _] = told(&mut slot);
    assert_eq!((asked.len(), cancelled.len()), (2, 0));
    assert!(asked.iter().all(|(ticket, _)| ticket.is_instance()));
    slot.replace(setup.filter(&Component::step(PASS).wasm()));
    let [nothing, cancelled, _] = told(&mut slot);
    assert_eq!((nothing, cancelled), (vec![], asked));
}

#[test]
fn what_requests_waited_for_is_cancelled_when_their_instance_fails() {
    let mut slot = Slot::new(Setup::new().filter(&asking().wasm()));
    let (parked, culprit) = (open(&mut slot), open(&mut slot));
    assert_eq!(slot.on_event(parked, HEAD).step, Ok(Step::Pending));
    let [mut before, _, _] = told(&mut slot);
    assert_eq!(before.len(), 4, "of the instance, and of the request");
    let outcome = slot.on_event(culprit, Event::RequestTrailers);
    assert!(matches!(outcome.step, Err(Fault::Trap(_))));
    let [of_successor, cancelled, failed] = told(&mut slot);
    // What it asked for in the event in which it failed nobody has heard of.
    assert_eq!(cancelled, before);
    assert_eq!(failed, [(parked, 0)]);
    assert_eq!(of_successor.len(), 2);
    before.retain(|(ticket, _)| ticket.is_instance());
    assert!(of_successor.iter().all(|one| !before.contains(one)));
}
