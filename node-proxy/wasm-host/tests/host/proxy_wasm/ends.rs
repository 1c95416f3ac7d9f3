//! The end of an exchange, which a filter may put off, but not for good.

use std::sync::Arc;
use std::time::Duration;

use weft_wasm_host::{Effect, Event, Fault, Guest, Isolation, Slot, Step};

use super::word;
use crate::support::guest::ProxyWasm;
use crate::support::{FakeExchange, HEAD, ManualClock, Setup, open, own_runtime};

/// Callbacks of the end of an exchange, which say their names.
const ENDS: &str = r#"
  (func (export "proxy_on_done") (param i32) (result i32)
    (call $say (i32.const 1024) (i32.const 1)) (i32.const READY))
  (func (export "proxy_on_log") (param i32) (call $say (i32.const 1025) (i32.const 1)))
  (func (export "proxy_on_delete") (param i32) (call $say (i32.const 1026) (i32.const 1)))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (call $tell (call $effective (i32.const 2)))
    (call $tell (call $done))
    (i32.const 0))"#;

#[test]
fn the_end_comes_in_its_order() {
    let setup = Setup::new();
    let module = ProxyWasm::new(&ENDS.replace("READY", "1")).data("dlx");
    let mut guest = setup.instance(&module.wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert!(guest.close(context).0.is_some());
    assert_eq!(word(setup.lines.take()), "dlx");
    assert_eq!(guest.contexts(), 0);
}

#[test]
fn a_filter_may_put_the_end_off() {
    let setup = Setup::new();
    let module = ProxyWasm::new(&ENDS.replace("READY", "0")).data("dlx");
    let mut guest = setup.instance(&module.wasm());
    let first = open(&mut *guest, FakeExchange::get("/"));
    assert!(
        guest.close(first).0.is_some(),
        "nobody waits for it with the exchange"
    );
    assert!(guest.close(first).0.is_none());
    assert_eq!(word(setup.lines.take()), "d");
    assert_eq!(guest.contexts(), 1);
    let second = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(guest.on_event(second, HEAD), Ok(Step::Proceed));
    assert_eq!(word(setup.lines.take()), "00lx");
    assert_eq!(guest.contexts(), 1);
}

/// Longest that an end may be put off.
const LONGEST: Duration = Duration::from_secs(30);
/// So many ends may be put off at once.
const MOST: usize = 1024;

/// One that never lets an exchange go.
fn holding() -> ProxyWasm {
    ProxyWasm::new(&ENDS.replace("READY", "0")).data("dlx")
}

/// Lets so many exchanges begin and end.
fn pass(guest: &mut dyn Guest, count: usize) {
    for _exchange in 0..count {
        let context = open(guest, FakeExchange::get("/"));
        assert_eq!(guest.close(context).1, Ok(()));
    }
}

#[test]
fn an_end_is_not_put_off_for_good() {
    let clock = Arc::new(ManualClock::default());
    let setup = Setup::of(own_runtime(&clock, 4));
    let mut guest = setup.instance(&holding().wasm());
    pass(&mut *guest, 2);
    clock.advance(Duration::from_secs(1));
    pass(&mut *guest, 1);
    assert_eq!((guest.contexts(), guest.lingering()), (3, 3));
    assert_eq!(word(setup.lines.take()), "ddd");
    clock.advance(LONGEST - Duration::from_millis(1001));
    assert_eq!(guest.sweep(), Ok(()));
    assert_eq!(guest.contexts(), 3);
    clock.advance(Duration::from_millis(1));
    assert_eq!(guest.sweep(), Ok(()));
    assert_eq!((guest.contexts(), guest.lingering()), (1, 1));
    assert_eq!(word(setup.lines.take()), "lxlx", "it hears of it");
    clock.advance(Duration::from_secs(1));
    assert_eq!(guest.sweep(), Ok(()));
    assert_eq!((guest.contexts(), guest.lingering()), (0, 0));
}

#[test]
fn ends_that_were_put_off_are_paid_for() {
    let clock = Arc::new(ManualClock::default());
    let setup = Setup::of(own_runtime(&clock, 4));
    let spins = ENDS.replace("READY", "0").replace(
        "(call $say (i32.const 1025) (i32.const 1))",
        "(local $left i32)
         (local.set $left (i32.const 1000000))
         (loop $again
           (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br_if $again (local.get $left)))",
    );
    let mut slot = Slot::new(setup.filter(&ProxyWasm::new(&spins).data("dlx").wasm()));
    for _exchange in 0..2 {
        let ticket = slot.open().expect("room");
        slot.close(ticket);
    }
    slot.take_spent();
    clock.advance(LONGEST);
    slot.poll();
    assert_eq!(slot.effects().count(), 0, "each has a deadline of its own");
    // A million turns of a loop take that long on any processor.
    assert!(slot.take_spent() > Duration::from_micros(50));
}

#[test]
fn so_many_ends_are_put_off_and_no_more() {
    let setup = Setup::new();
    let mut guest = setup.instance(&holding().wasm());
    pass(&mut *guest, MOST);
    assert_eq!(guest.lingering(), MOST);
    setup.lines.take();
    pass(&mut *guest, 2);
    assert_eq!(guest.lingering(), MOST);
    assert_eq!(guest.contexts(), MOST);
    assert_eq!(word(setup.lines.take()), "dlxdlx");
}

#[test]
fn an_old_version_that_lets_nothing_go_is_dropped() {
    let clock = Arc::new(ManualClock::default());
    let setup = Setup::of(own_runtime(&clock, 4));
    let mut slot = Slot::new(setup.filter(&holding().wasm()));
    let ticket = slot.open().expect("room");
    slot.close(ticket);
    assert_eq!(slot.contexts(), 0, "the request is over");
    slot.replace(setup.filter(&ProxyWasm::default().wasm()));
    assert_eq!(slot.instances(), 2);
    clock.advance(LONGEST);
    slot.poll();
    assert_eq!(slot.instances(), 1);
}

#[test]
fn who_lets_nothing_go_makes_room_for_new_requests() {
    let mut setup = Setup::new();
    setup.spec.isolation = Isolation::Request;
    setup.spec.limits.instances = 2;
    let mut slot = Slot::new(setup.filter(&holding().wasm()));
    let inside = slot.open().expect("room");
    for _request in 0..4 {
        let ticket = slot.open().expect("an older one gives way");
        slot.close(ticket);
    }
    assert_eq!((slot.instances(), slot.contexts()), (2, 1));
    slot.open().expect("an older one gives way");
    assert!(matches!(slot.open(), Err(Fault::NoRoom(_))));
    assert_eq!(slot.on_event(inside, HEAD).step, Ok(Step::Proceed));
}

#[test]
fn an_end_that_traps_at_last_is_a_trap_like_any_other() {
    let clock = Arc::new(ManualClock::default());
    let setup = Setup::of(own_runtime(&clock, 4));
    let traps = ENDS
        .replace("READY", "0")
        .replace("(call $say (i32.const 1025) (i32.const 1))", "unreachable");
    let mut slot = Slot::new(setup.filter(&ProxyWasm::new(&traps).wasm()));
    let over = [slot.open().expect("room"), slot.open().expect("room")];
    let inside = slot.open().expect("room");
    for ticket in over {
        slot.close(ticket);
    }
    clock.advance(LONGEST);
    slot.poll();
    assert_eq!(slot.instances(), 1, "its successor");
    let failed: Vec<_> = slot
        .effects()
        .filter_map(|(ticket, effect)| matches!(effect, Effect::Failed(_)).then_some(ticket))
        .collect();
    assert_eq!(failed, [inside], "nobody is told who has gone");
}

#[test]
fn a_request_that_cannot_begin_is_told_once() {
    // The second exchange traps when it begins.
    let module = ProxyWasm::new(
        r#"(func (export "proxy_on_context_create") (param $ctx i32) (param i32)
             (if (i32.eq (local.get $ctx) (i32.const 3)) (then unreachable)))"#,
    );
    let mut slot = Slot::new(Setup::new().filter(&module.wasm()));
    let first = slot.open().expect("room");
    assert!(matches!(slot.open(), Err(Fault::Trap(_))));
    let failed: Vec<_> = slot.effects().map(|(ticket, _)| ticket).collect();
    assert_eq!(failed, [first]);
    let again = slot.on_event(first, Event::RequestTrailers).step;
    assert!(matches!(again, Err(Fault::Down { .. })));
}
