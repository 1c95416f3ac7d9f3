//! How long a module will take to compile, roughly, before it is compiled.
//!
//! A compiler that works holds up the modules behind it, and what it does grows faster than the
//! code: 14 KiB of loops in each other that all go on with the same variables took three minutes.
//! What takes so long is to give registers to values that come together from several places, so where there are
//! many of those another algorithm does it, whose code is slower. What even that takes too long
//! for, or too much memory, is refused. Code that compilers and people write is far from both.

mod function;

use wasmparser::{FunctionBody, Parser, Payload};

use self::function::Function;
use super::refusal::Refusal;

/// Functions of a module.
const MAX_FUNCTIONS: usize = 200_000;
/// Bytes of code of a module, and of one function.
const MAX_CODE: usize = 32 << 20;
const MAX_FUNCTION: usize = 1 << 20;
/// Loops in each other.
const MAX_DEPTH: usize = 100;
/// Of one function: for each variable, the branches over which it is kept. Each takes the compiler
/// some thirty bytes.
const MAX_KEPT: usize = 4 << 20;
/// Of one function: values that come together, for each branch that brings them.
const MAX_MEETINGS: usize = 1 << 19;
/// Milliseconds of processor time that all functions probably take.
const MAX_TIME: usize = 60_000;

/// With more of these in one function its registers are given in the quick way.
const MANY_MEETINGS: u64 = 10_000;
/// The same of all functions: the squares of them, each of which takes the other way a nanosecond.
const MANY_SQUARES: u64 = 5_000_000_000;

// Nanoseconds.
const PER_BYTE: u64 = 1_000;
const PER_KEPT: u64 = 75;
const PER_MEETING: u64 = 1_000;

/// How registers are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// Well.
    Usual,
    /// Quickly.
    Little,
}

/// Judges a module's code. What is not valid is left to the compiler, which says why.
pub(super) fn weigh(bytes: &[u8]) -> Result<Effort, Refusal> {
    let mut module = Weight::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::CodeSectionEntry(body)) => module.add(&body)?,
            Ok(_) => {}
            Err(_invalid) => break,
        }
    }
    Ok(match module.hard || module.squares > MANY_SQUARES {
        true => Effort::Little,
        false => Effort::Usual,
    })
}

#[derive(Debug, Default)]
struct Weight {
    functions: usize,
    code: usize,
    nanos: u64,
    squares: u64,
    /// One function is enough for it.
    hard: bool,
}

impl Weight {
    fn add(&mut self, body: &FunctionBody<'_>) -> Result<(), Refusal> {
        let size = body.range().len();
        self.functions += 1;
        self.code += size;
        within("functions", self.functions, MAX_FUNCTIONS)?;
        within("bytes of code", self.code, MAX_CODE)?;
        within("bytes in one function", size, MAX_FUNCTION)?;
        let Ok(function) = Function::read(body) else {
            return Ok(());
        };
        within("loops in each other", function.depth, MAX_DEPTH)?;
        let kept = usize::try_from(function.kept).unwrap_or(usize::MAX);
        within(
            "branches over which a function's variables are kept",
            kept,
            MAX_KEPT,
        )?;
        let meetings = usize::try_from(function.meetings).unwrap_or(usize::MAX);
        within(
            "values that come together in a function",
            meetings,
            MAX_MEETINGS,
        )?;
        self.nanos +=
            size as u64 * PER_BYTE + function.kept * PER_KEPT + function.meetings * PER_MEETING;
        let millis = usize::try_from(self.nanos / 1_000_000).unwrap_or(usize::MAX);
        within("ms of processor time", millis, MAX_TIME)?;
        self.hard |= function.hard > MANY_MEETINGS;
        self.squares = self
            .squares
            .saturating_add(function.hard.saturating_mul(function.hard));
        Ok(())
    }
}

fn within(what: &'static str, found: usize, most: usize) -> Result<(), Refusal> {
    match found > most {
        true => Err(Refusal::TooComplex {
            what: what.into(),
            found,
            most,
        }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
