use std::borrow::Cow;

use super::{
    Effort, MAX_CODE, MAX_DEPTH, MAX_FUNCTION, MAX_FUNCTIONS, MAX_KEPT, MAX_MEETINGS, MAX_TIME,
    weigh,
};
use crate::module::LoadError;
use crate::module::refusal::Refusal;

fn locals(count: usize) -> String {
    format!("(local {})", "i32 ".repeat(count))
}

/// The same for each variable.
fn each(count: usize, code: &str) -> String {
    let numbers = 1..=count;
    numbers.map(|n| code.replace('N', &n.to_string())).collect()
}

const SET: &str = "(local.set N (i32.load offset=N (local.get 0)))";
const USE: &str = "(i32.store (local.get 0) (local.get N))";

/// Loops in each other, the innermost of which uses all variables.
fn nested(variables: usize, loops: usize) -> String {
    format!(
        "{} {} {} {} {}",
        locals(variables),
        each(variables, SET),
        "loop ".repeat(loops),
        each(
            variables,
            "(local.set N (i32.add (local.get N) (i32.const 7)))"
        ),
        "(br_if 0 (i32.load (local.get 0))) end ".repeat(loops),
    )
}

/// Branches over which all variables are kept.
fn kept(variables: usize, branches: usize) -> String {
    format!(
        "{} {} {} {}",
        locals(variables),
        each(variables, SET),
        "(if (i32.load (local.get 0)) (then (i32.store (local.get 0) (i32.const 5))))"
            .repeat(branches),
        each(variables, USE),
    )
}

/// Branches out of a block, each after a variable was changed; so many of them are used after it.
fn leaving(variables: usize, branches: usize, used: usize) -> String {
    let leave = |n| {
        let changed = n % variables + 1;
        format!("(local.set {changed} (i32.const {n})) (br_if 0 (i32.load (local.get 0)))")
    };
    let leave: String = (0..branches).map(leave).collect();
    format!(
        "{} {} (block {leave}) {}",
        locals(variables),
        each(variables, SET),
        each(used, USE),
    )
}

/// Cases that all go on at the same place.
fn cases(variables: usize, count: usize) -> String {
    let targets: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    let case = |n| {
        let changed = n % variables + 1;
        let end = count - 1 - n;
        format!("(local.set {changed} (i32.load (local.get 0))) br {end} end ")
    };
    let case: String = (0..count).map(case).collect();
    format!(
        "{} block {} (br_table {} (i32.load (local.get 0))) {case} end {}",
        locals(variables),
        "block ".repeat(count),
        targets.join(" "),
        each(variables, USE),
    )
}

/// Branches that change a variable.
fn branches(count: usize) -> String {
    format!(
        "(local i32) {} (i32.store (local.get 0) (local.get 1))",
        "(if (i32.load (local.get 0)) (then (local.set 1 (i32.add (local.get 1) (i32.const 3)))))"
            .repeat(count)
    )
}

fn straight(count: usize) -> String {
    "(i32.store (local.get 0) (i32.add (i32.load offset=8 (local.get 0)) (i32.const 77)))"
        .repeat(count)
}

fn judged(function: &str) -> Result<Effort, Refusal> {
    judged_times(function, 1)
}

/// The same function so many times. Text takes long to read, so it is read once.
fn judged_times(function: &str, count: usize) -> Result<Effort, Refusal> {
    let text = format!("(module (memory 1) (func (param i32) {function}))");
    let one = wat::parse_str(text).expect("valid text");
    let bodies = wasmparser::Parser::new(0).parse_all(&one);
    let mut bodies = bodies.filter_map(|payload| match payload {
        Ok(wasmparser::Payload::CodeSectionEntry(body)) => Some(body.as_bytes().to_vec()),
        _ => None,
    });
    let body = bodies.next().expect("one function");
    weigh(&module(count, &body))
}

fn refused(function: &str) -> (&'static str, usize) {
    match judged(function) {
        Err(Refusal::TooComplex {
            what: Cow::Borrowed(what),
            most,
            ..
        }) => (what, most),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_people_write_is_compiled_well() {
    for function in [
        String::new(),
        nested(20, 8),
        nested(1000, 2),
        kept(100, 1000),
        leaving(60, 100, 60),
        leaving(400, 400, 20),
        cases(20, 300),
        branches(5000),
        straight(20_000),
    ] {
        assert_eq!(judged(&function), Ok(Effort::Usual));
    }
    assert_eq!(judged_times(&straight(10), 10_000), Ok(Effort::Usual));
}

#[test]
fn what_would_take_seconds_is_compiled_quickly() {
    // Each of them took the usual way between one second and fourteen.
    for function in [
        nested(300, 90),
        cases(100, 1000),
        leaving(100, 800, 100),
        leaving(400, 400, 400),
        branches(20_000),
    ] {
        assert_eq!(judged(&function), Ok(Effort::Little));
    }
    // Many functions that take half as long.
    assert_eq!(judged_times(&leaving(90, 100, 90), 70), Ok(Effort::Little));
}

#[test]
fn what_takes_too_long_even_so_is_refused() {
    // 14 KiB, three minutes.
    assert_eq!(
        refused(&nested(500, 500)),
        ("loops in each other", MAX_DEPTH)
    );
    // 1.4 GB of memory.
    assert_eq!(
        refused(&kept(8000, 4000)),
        (
            "branches over which a function's variables are kept",
            MAX_KEPT
        )
    );
    // 40 KiB, hours.
    assert_eq!(
        refused(&leaving(1000, 2000, 1000)),
        ("values that come together in a function", MAX_MEETINGS)
    );
}

#[test]
fn many_functions_that_take_long_are_too_many() {
    let refused = judged_times(&leaving(500, 1000, 500), 140).expect_err("too many");
    assert!(
        matches!(
            refused,
            Refusal::TooComplex {
                what: Cow::Borrowed("ms of processor time"),
                most: MAX_TIME,
                ..
            }
        ),
        "{refused:?}"
    );
    let text = LoadError::from(refused).to_string();
    assert!(
        text.contains(" ms of processor time, the most is 60000;"),
        "{text}"
    );
}

/// A number as modules have it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return bytes;
        }
    }
}

/// A module with the same function so many times.
fn module(count: usize, body: &[u8]) -> Vec<u8> {
    let section = |id: u8, content: &[u8]| [&[id], &*leb(content.len()), content].concat();
    let body = [&*leb(body.len()), body].concat();
    [
        &b"\0asm\x01\0\0\0"[..],
        &section(1, &[1, 0x60, 1, 0x7f, 0]),
        &section(3, &[leb(count), vec![0; count]].concat()),
        &section(5, &[1, 0, 1]),
        &section(10, &[leb(count), body.repeat(count)].concat()),
    ]
    .concat()
}

/// So many functions that do nothing, for so many bytes each.
fn idle(count: usize, size: usize) -> Vec<u8> {
    // No variables, and its end.
    let body = [&[0][..], &vec![1; size - 2], &[0x0b]].concat();
    module(count, &body)
}

#[test]
fn code_and_functions_are_counted() {
    let weigh = |count, size| weigh(&idle(count, size));
    let error = |what, found, most| {
        let what = Cow::Borrowed(what);
        Err(Refusal::TooComplex { what, found, most })
    };
    assert_eq!(weigh(32, MAX_FUNCTION), Ok(Effort::Usual));
    assert_eq!(
        weigh(33, MAX_FUNCTION),
        error("bytes of code", 33 << 20, MAX_CODE)
    );
    assert_eq!(
        weigh(1, MAX_FUNCTION + 1),
        error("bytes in one function", MAX_FUNCTION + 1, MAX_FUNCTION)
    );
    assert_eq!(weigh(MAX_FUNCTIONS, 2), Ok(Effort::Usual));
    assert_eq!(
        weigh(MAX_FUNCTIONS + 1, 2),
        error("functions", MAX_FUNCTIONS + 1, MAX_FUNCTIONS)
    );
}

#[test]
fn what_is_read_by_nobody_meets_nowhere() {
    assert_eq!(judged(&leaving(400, 400, 0)), Ok(Effort::Usual));
    let one = "(loop (local.set 0 (i32.const 1)) (br_if 0 (local.get 0)))";
    assert_eq!(judged(&one.repeat(MAX_DEPTH + 1)), Ok(Effort::Usual));
}

#[test]
fn counting_has_an_end_itself() {
    let deep = format!(
        "{} {} {} {}",
        locals(3000),
        "block ".repeat(3000),
        each(3000, "(local.set N (i32.const 1)) end"),
        each(3000, "(local.set N (i32.const 1))").repeat(2),
    );
    assert_eq!(judged(&deep), Ok(Effort::Usual), "nothing is read");
    let deep = format!(
        "{} {} {} {} {}",
        locals(10_000),
        "block ".repeat(4000),
        each(10_000, "(local.set N (i32.const 1))"),
        "end ".repeat(4000),
        each(10_000, USE),
    );
    let (what, _most) = refused(&deep);
    assert_eq!(what, "values that come together in a function");
}

#[test]
fn what_is_not_valid_is_left_to_the_compiler() {
    let whole =
        wat::parse_str("(module (func (local i32) (loop (local.set 0 (i32.const 1)) (br 0))))");
    let whole = whole.expect("valid text");
    for end in 0..whole.len() {
        assert_eq!(weigh(&whole[..end]), Ok(Effort::Usual));
    }
    let mut broken = whole.clone();
    for at in 8..broken.len() {
        for bits in [0xff, 0x01, 0x80] {
            broken[at] ^= bits;
            assert_eq!(weigh(&broken), Ok(Effort::Usual), "byte {at}");
            broken[at] ^= bits;
        }
    }
}
