//! Filters for proxy-wasm.

mod calls;
mod ends;
mod headers;
mod life;
mod messages;

use weft_wasm_host::Step;
use weft_wasm_host::exchange::Target;

use crate::support::guest::ProxyWasm;
use crate::support::{FakeExchange, HEAD, Setup, header, open};

/// One that logs a digit for the status of each of these calls, at the head of each request.
fn statuses(calls: &[&str]) -> ProxyWasm {
    let tell: Vec<String> = calls
        .iter()
        .map(|call| format!("(call $tell {call})"))
        .collect();
    ProxyWasm::on_headers(&format!("{} (i32.const 0)", tell.join("\n")))
}

/// Pairs as a module writes them into its memory: the text of them, and their length.
pub fn pairs(pairs: &[(&str, &str)]) -> (String, usize) {
    let number = |number: usize| u32::try_from(number).expect("short").to_le_bytes();
    let mut bytes = number(pairs.len()).to_vec();
    for (name, value) in pairs {
        bytes.extend(number(name.len()));
        bytes.extend(number(value.len()));
    }
    for (name, value) in pairs {
        bytes.extend(format!("{name}\0{value}\0").bytes());
    }
    let text = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    (text, bytes.len())
}

/// What it logged, in one word.
fn word(lines: Vec<String>) -> String {
    lines
        .iter()
        .map(|line| line.trim_start_matches("Info "))
        .collect()
}

/// The same for a request.
fn told(module: &ProxyWasm, exchange: FakeExchange) -> (String, FakeTarget) {
    let setup = Setup::new();
    let mut guest = setup.instance(&module.wasm());
    let context = open(&mut *guest, exchange);
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Proceed));
    let exchange = guest.reclaim(context).expect("lent");
    let target = FakeTarget {
        path: exchange.target(Target::Path).to_owned(),
        authority: exchange.target(Target::Authority).to_owned(),
        x: header(&*exchange, "x"),
    };
    (word(setup.lines.take()), target)
}

#[derive(Debug, PartialEq)]
struct FakeTarget {
    path: String,
    authority: String,
    x: Option<String>,
}
