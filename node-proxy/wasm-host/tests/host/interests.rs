//! What a filter wants to see as it is configured, and when an exchange is over for it.

use weft_wasm_host::{Fault, Side, Slot};

use crate::support::guest::{Component, PASS, PROCEED};
use crate::support::{FakeExchange, HEAD, Setup, open};

#[test]
fn a_configured_filter_asks_for_less() {
    // Only heads of requests.
    let mut component =
        Component::step(PROCEED).with(r#"(data (i32.const 340) "\00\00\00\00\01")"#);
    component.configure = "i32.const 340".to_owned();
    let wants = Setup::new().filter(&component.wasm()).manifest().interests;
    assert!(wants.request_headers && !wants.request_body);
    assert!(wants.any(Side::Request) && !wants.any(Side::Response));
}

#[test]
fn only_what_passes_is_over() {
    let over = |step: u32| {
        // It wants to see nothing, and is asked all the same.
        let data = r#"(data (i32.const 340) "\00\00\00\00\00")"#;
        let mut component = Component::step(step).with(data);
        component.configure = "i32.const 340".to_owned();
        let mut slot = Slot::new(Setup::new().filter(&component.wasm()));
        let ticket = slot.open().expect("an instance");
        slot.lend(ticket, Box::new(FakeExchange::get("/")));
        slot.on_event(ticket, HEAD).over
    };
    assert!(over(PASS));
    assert!(!over(PROCEED), "what it says is still to be done");
}

#[test]
fn an_exchange_of_which_all_has_passed_is_over() {
    let close = |step: u32, interests: u8| {
        let data = format!(r#"(data (i32.const 340) "\00\00\00\00\{interests:02x}")"#);
        let mut component = Component::step(step).with(&data);
        component.configure = "i32.const 340".to_owned();
        component.drop = "unreachable".to_owned();
        let mut guest = Setup::new().instance(&component.wasm());
        let context = open(&mut *guest, FakeExchange::get("/"));
        guest.on_event(context, HEAD).expect("a step");
        let (exchange, closed) = guest.close(context);
        assert!(exchange.is_some());
        closed
    };
    const REQUEST_HEAD: u8 = 1;
    const RESPONSE_HEAD: u8 = 8;
    assert_eq!(close(PASS, REQUEST_HEAD), Ok(()), "it hears no more of it");
    for (step, interests) in [
        // The response may still come, and the request is not over.
        (PASS, REQUEST_HEAD | RESPONSE_HEAD),
        (PROCEED, REQUEST_HEAD),
    ] {
        let trapped = close(step, interests);
        assert!(matches!(trapped, Err(Fault::Trap(_))), "{trapped:?}");
    }
}
