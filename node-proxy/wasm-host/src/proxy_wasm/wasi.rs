//! The little of WASI that filters need to start: a clock, randomness, and somewhere to print to.
//! There are no files, arguments or variables.

use wasmtime::{Caller, Linker, Result, bail};

use super::vm::{self, Vm};
use crate::random;
use crate::types::{Labels, Level};

const SUCCESS: u32 = 0;
const BAD_FD: u32 = 8;
const FAULT: u32 = 21;
const INVALID: u32 = 28;
const NOT_SUPPORTED: u32 = 58;

/// Pieces of one `fd_write`.
const MAX_PIECES: u32 = 64;
/// Bytes of one line that it prints.
const MAX_LINE: usize = 4096;
/// Random bytes at once.
const MAX_RANDOM: u32 = 64 * 1024;

/// Both names of it.
const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

const NAMES: [&str; 18] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_close",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_read",
    "fd_seek",
    "fd_write",
    "poll_oneoff",
    "proc_exit",
    "random_get",
    "sched_yield",
];

type C<'a> = Caller<'a, Vm>;

/// Whether an import is of it.
pub(super) fn knows(module: &str, name: &str) -> bool {
    MODULES.contains(&module) && NAMES.contains(&name)
}

/// Defines it, below both names that it has.
pub(super) fn link(linker: &mut Linker<Vm>) -> Result<()> {
    for module in MODULES {
        link_world(linker, module)?;
        link_files(linker, module)?;
    }
    Ok(())
}

fn link_world(linker: &mut Linker<Vm>, module: &str) -> Result<()> {
    for name in ["environ_sizes_get", "args_sizes_get"] {
        linker.func_wrap(module, name, |mut c: C, to_count: u32, to_size: u32| {
            let none = [0; 4];
            errno(vm::write(&mut c, to_count, &none).and(vm::write(&mut c, to_size, &none)))
        })?;
    }
    for name in ["environ_get", "args_get"] {
        linker.func_wrap(module, name, |_: u32, _: u32| SUCCESS)?;
    }
    linker.func_wrap(module, "sched_yield", || SUCCESS)?;
    linker.func_wrap(module, "proc_exit", |code: u32| -> Result<()> {
        bail!("the filter ended itself with code {code}")
    })?;
    linker.func_wrap(module, "random_get", |mut c: C, at: u32, length: u32| {
        if length > MAX_RANDOM {
            return INVALID;
        }
        let bytes = random::bytes(length as usize);
        errno(vm::write(&mut c, at, &bytes))
    })?;
    linker.func_wrap(
        module,
        "clock_time_get",
        |mut c: C, id: u32, _precision: u64, to: u32| {
            let clock = &c.data().state.env.clock;
            let now = match id {
                0 => clock.wall(),
                1 => clock.monotonic(),
                _ => return INVALID,
            };
            errno(vm::write(&mut c, to, &now.to_le_bytes()))
        },
    )?;
    linker.func_wrap(module, "clock_res_get", |mut c: C, _id: u32, to: u32| {
        errno(vm::write(&mut c, to, &1_000_u64.to_le_bytes()))
    })?;
    Ok(())
}

fn link_files(linker: &mut Linker<Vm>, module: &str) -> Result<()> {
    linker.func_wrap(module, "fd_write", fd_write)?;
    linker.func_wrap(module, "fd_close", |_: u32| BAD_FD)?;
    linker.func_wrap(module, "fd_fdstat_get", |_: u32, _: u32| BAD_FD)?;
    linker.func_wrap(module, "fd_fdstat_set_flags", |_: u32, _: u32| BAD_FD)?;
    linker.func_wrap(module, "fd_prestat_get", |_: u32, _: u32| BAD_FD)?;
    linker.func_wrap(module, "fd_prestat_dir_name", |_: u32, _: u32, _: u32| {
        BAD_FD
    })?;
    linker.func_wrap(module, "fd_read", |_: u32, _: u32, _: u32, _: u32| BAD_FD)?;
    linker.func_wrap(module, "fd_seek", |_: u32, _: u64, _: u32, _: u32| BAD_FD)?;
    linker.func_wrap(module, "poll_oneoff", |_: u32, _: u32, _: u32, _: u32| {
        NOT_SUPPORTED
    })?;
    Ok(())
}

/// Output and errors become lines of the log.
fn fd_write(mut caller: C<'_>, fd: u32, pieces: u32, count: u32, to: u32) -> u32 {
    let level = match fd {
        1 => Level::Info,
        2 => Level::Error,
        _ => return BAD_FD,
    };
    if count > MAX_PIECES {
        return INVALID;
    }
    let written = vm::all(&mut caller).and_then(|(bytes, vm)| {
        let mut line = Vec::new();
        let mut written = 0_u32;
        for number in 0..count {
            // At most 64 of them.
            let at = pieces.saturating_add(number * 8);
            let (start, length) = (word(bytes, at)?, word(bytes, at.saturating_add(4))?);
            let piece = vm::piece(bytes, start, length)?;
            line.extend_from_slice(&piece[..piece.len().min(MAX_LINE - line.len())]);
            written = written.saturating_add(length);
        }
        let line = String::from_utf8_lossy(&line);
        let effective = vm.effective;
        vm.state
            .write_log(effective, level, line.trim_end(), &Labels::new());
        Ok(written)
    });
    match written {
        Ok(written) => errno(vm::write(&mut caller, to, &written.to_le_bytes())),
        Err(_status) => FAULT,
    }
}

fn word(bytes: &[u8], at: u32) -> std::result::Result<u32, super::abi::Status> {
    let four = vm::piece(bytes, at, 4)?;
    Ok(four
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u32::from(*byte)))
}

fn errno<T>(result: std::result::Result<T, super::abi::Status>) -> u32 {
    match result {
        Ok(_) => SUCCESS,
        Err(_status) => FAULT,
    }
}
