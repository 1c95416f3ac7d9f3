//! Memory and tables of one instance. What is refused is a trap: few programs survive a failed
//! allocation, and a trap says what it was.

use std::sync::Arc;

use wasmtime::{Error, ResourceLimiter, Result, StoreLimits, StoreLimitsBuilder};

use crate::budget::Memory;
use crate::limits::Limits;

/// Wasmtime's own limits, and which of them was met.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: StoreLimits,
    refused: Option<&'static str>,
    memory: usize,
    /// What the filters of the namespace have together.
    of_all: Arc<Memory>,
}

const MEMORY: &str = "the filter's limit of memory";
/// Another one may go at any moment.
pub(crate) const MEMORY_OF_ALL: &str =
    "the memory that all filters of its namespace have on this node";
const TABLE: &str = "the filter's limit of table elements";

impl Limiter {
    pub(crate) fn new(limits: &Limits, of_all: Arc<Memory>) -> Self {
        let limits = StoreLimitsBuilder::new()
            .memory_size(limits.memory)
            .table_elements(limits.table)
            .trap_on_grow_failure(true)
            .build();
        Self {
            limits,
            refused: None,
            memory: 0,
            of_all,
        }
    }

    /// What was refused.
    pub(crate) const fn refused(&self) -> Option<&'static str> {
        self.refused
    }

    /// Bytes of memory.
    pub(crate) const fn memory(&self) -> usize {
        self.memory
    }

    fn note<T>(&mut self, what: &'static str, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.refused = Some(what);
        }
        result
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        let result = self.limits.memory_growing(current, desired, maximum);
        if matches!(result, Ok(true)) {
            if !self.of_all.grow(self.memory, desired) {
                return self.note(MEMORY_OF_ALL, Err(Error::msg(MEMORY_OF_ALL)));
            }
            self.memory = desired;
        }
        self.note(MEMORY, result)
    }

    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        let result = self.limits.memory_grow_failed(error);
        self.note(MEMORY, result)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        let result = self.limits.table_growing(current, desired, maximum);
        self.note(TABLE, result)
    }

    fn table_grow_failed(&mut self, error: Error) -> Result<()> {
        let result = self.limits.table_grow_failed(error);
        self.note(TABLE, result)
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.of_all.give_back(self.memory);
    }
}
