//! What is counted of one function.

use wasmparser::{BinaryReaderError, FunctionBody, Operator};

use super::{MAX_DEPTH, MAX_MEETINGS};

type Result<T> = std::result::Result<T, BinaryReaderError>;

/// Variables of a function, its arguments among them; more are not valid.
const MAX_LOCALS: usize = 51_000;
/// Steps that counting takes.
const MAX_WORK: usize = 16 << 20;

/// The counts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Function {
    /// Loops in each other.
    pub(super) depth: usize,
    /// For each variable, branches from its first use until it is read last.
    pub(super) kept: u64,
    /// Where branches come together: variables that they bring, for each of them.
    pub(super) meetings: u64,
    /// Those of branches that may also not be taken, which are the hard ones.
    pub(super) hard: u64,
}

impl Function {
    /// Counts; stops where it is clear that there is too much.
    pub(super) fn read(body: &FunctionBody<'_>) -> Result<Self> {
        let mut reading = Reading {
            locals: last_reads(body)?,
            ..Reading::default()
        };
        let mut operators = body.get_operators_reader()?;
        reading.begin(false, 0);
        while !operators.eof() {
            reading.at += 1;
            reading.operator(&operators.read()?);
            if reading.is_enough() {
                break;
            }
        }
        let used = reading.locals.iter().filter(|one| one.first <= one.last);
        reading.counts.kept = used.map(|one| one.last - one.first).sum();
        Ok(reading.counts)
    }
}

/// A variable.
#[derive(Debug, Clone, Copy)]
struct Local {
    /// Branches before its first use, and before it is read last.
    first: u64,
    last: u64,
    /// Operators before it was read last, now and in the end; and before it was written last.
    read: u64,
    last_read: u64,
    written: u64,
}

const UNUSED: Local = Local {
    first: u64::MAX,
    last: 0,
    read: 0,
    last_read: 0,
    written: 0,
};

/// A block or a loop that is open.
#[derive(Debug, Clone, Copy)]
struct Frame {
    is_loop: bool,
    /// Operators before it.
    began: u64,
    /// Branches to its end, or to its begin if it is a loop.
    branches: u64,
    /// Those of them that may also not be taken.
    conditional: u64,
    /// Where the variables that were written in it begin.
    written: usize,
}

#[derive(Debug, Default)]
struct Reading {
    counts: Function,
    at: u64,
    branches: u64,
    locals: Vec<Local>,
    open: Vec<Frame>,
    /// Where loops that are open began.
    loops: Vec<u64>,
    /// Variables that were written in frames that are open, and when they were written before.
    written: Vec<(u32, u64)>,
    /// Steps that this took, beside one for each operator.
    work: usize,
}

impl Reading {
    fn is_enough(&self) -> bool {
        self.counts.depth > MAX_DEPTH || self.counts.meetings > MAX_MEETINGS as u64
    }

    /// Blocks in each other that write the same variables over and over take long to look at, too.
    fn worked(&mut self, steps: usize) {
        self.work += steps;
        if self.work > MAX_WORK {
            self.counts.meetings = u64::MAX;
        }
    }

    fn operator(&mut self, operator: &Operator<'_>) {
        match operator {
            Operator::Loop { .. } => {
                self.begin(true, 0);
                self.loops.push(self.at);
                self.counts.depth = self.counts.depth.max(self.loops.len());
            }
            // What it does where the condition does not hold goes to its end.
            Operator::If { .. } => self.begin(false, 1),
            Operator::Block { .. } | Operator::TryTable { .. } => self.begin(false, 0),
            Operator::Else => {
                self.branches += 1;
                if let Some(frame) = self.open.last_mut() {
                    frame.conditional = frame.conditional.saturating_sub(1);
                }
            }
            Operator::End => self.end(),
            Operator::Br { relative_depth } => self.branch(*relative_depth, false),
            Operator::BrIf { relative_depth }
            | Operator::BrOnNull { relative_depth }
            | Operator::BrOnNonNull { relative_depth }
            | Operator::BrOnCast { relative_depth, .. }
            | Operator::BrOnCastFail { relative_depth, .. } => self.branch(*relative_depth, true),
            Operator::BrTable { targets } => {
                for target in targets.targets().flatten() {
                    self.branch(target, true);
                }
                self.branch(targets.default(), true);
            }
            Operator::LocalGet { local_index } => self.read(*local_index),
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                self.write(*local_index);
            }
            _ => {}
        }
    }

    fn begin(&mut self, is_loop: bool, conditional: u64) {
        self.branches += 1;
        self.open.push(Frame {
            is_loop,
            began: self.at,
            branches: 1 + conditional,
            conditional,
            written: self.written.len(),
        });
    }

    fn branch(&mut self, depth: u32, conditional: bool) {
        self.branches += 1;
        let target = self.open.len().checked_sub(depth as usize + 1);
        if let Some(frame) = target.and_then(|at| self.open.get_mut(at)) {
            frame.branches += 1;
            frame.conditional += u64::from(conditional);
        }
    }

    fn end(&mut self) {
        self.branches += 1;
        let Some(frame) = self.open.pop() else {
            return;
        };
        if frame.is_loop {
            self.loops.pop();
        }
        let inside = self.written.len() - frame.written;
        let meeting = &self.written[frame.written..];
        let meeting = meeting
            .iter()
            .filter(|(local, _)| self.meets(*local, &frame))
            .count();
        self.counts.meetings += frame.branches * meeting as u64;
        self.counts.hard += frame.conditional * meeting as u64;
        // What is written in it is written in the one around it, once.
        let around = self.open.last().map_or(0, |frame| frame.began);
        let mut kept = frame.written;
        for at in frame.written..self.written.len() {
            let (local, before) = self.written[at];
            if before < around || before == 0 {
                self.written[kept] = (local, before);
                kept += 1;
            }
        }
        self.written.truncate(kept);
        self.worked(inside);
    }

    /// Whether a variable that is written in this frame is read where its branches lead.
    fn meets(&self, local: u32, frame: &Frame) -> bool {
        let local = &self.locals[local as usize];
        if frame.is_loop {
            return local.read >= frame.began;
        }
        let from = self.loops.first().copied().unwrap_or(self.at);
        local.last_read >= from
    }

    fn read(&mut self, index: u32) {
        if let Some(local) = self.locals.get_mut(index as usize) {
            local.first = local.first.min(self.branches);
            local.last = self.branches;
            local.read = self.at;
        }
    }

    fn write(&mut self, index: u32) {
        let Some(local) = self.locals.get_mut(index as usize) else {
            return;
        };
        local.first = local.first.min(self.branches);
        let began = self.open.last().map_or(0, |frame| frame.began);
        if local.written < began || local.written == 0 {
            self.written.push((index, local.written));
        }
        local.written = self.at;
    }
}

/// All variables that are used, and where each is read last.
fn last_reads(body: &FunctionBody<'_>) -> Result<Vec<Local>> {
    let mut locals = Vec::new();
    let mut operators = body.get_operators_reader()?;
    let mut at = 0;
    while !operators.eof() {
        at += 1;
        let (index, reads) = match operators.read()? {
            Operator::LocalGet { local_index } => (local_index as usize, true),
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                (local_index as usize, false)
            }
            _ => continue,
        };
        if index >= MAX_LOCALS {
            continue;
        }
        if index >= locals.len() {
            locals.resize(index + 1, UNUSED);
        }
        if reads {
            locals[index].last_read = at;
        }
    }
    Ok(locals)
}
