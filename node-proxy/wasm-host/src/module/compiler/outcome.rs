//! What came of a process that compiled, by how it has ended and what it has left.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::Signal;

use crate::log::one_line;
use crate::module::LoadError;
use crate::module::refusal::Refusal;

/// It ends with this where it has refused the module, and says why.
pub(super) const REFUSED: u8 = 3;
/// It ends with this where it could not do its work, whatever the module is, and says why.
pub(super) const UNABLE: u8 = 4;

/// Bytes of what is passed on of that.
const MOST_SAID: usize = 1024;

/// The native code, or why there is none.
pub(super) fn of(status: ExitStatus, output: Vec<u8>) -> Result<Vec<u8>, LoadError> {
    if status.success() {
        return Ok(output);
    }
    let ended_with = |code: u8| status.code() == Some(i32::from(code));
    if ended_with(UNABLE) {
        let why = &output[..output.len().min(MOST_SAID)];
        let why = one_line(&String::from_utf8_lossy(why));
        return Err(LoadError::NoCompiler(why));
    }
    if ended_with(REFUSED)
        && let Ok(refusal) = serde_json::from_slice::<Refusal>(&output)
    {
        return Err(refusal.into());
    }
    let signal = status.signal().and_then(Signal::from_named_raw);
    Err(match signal {
        // Somebody else's doing: it does not take signals by itself.
        Some(Signal::KILL | Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT) => {
            LoadError::CompilerKilled
        }
        Some(Signal::XCPU) => LoadError::Compile(
            "the compiler was not done after ten minutes of processor time".into(),
        ),
        Some(Signal::XFSZ) => LoadError::Compile("its native code has more than 1 GiB".into()),
        _ => LoadError::Compile(format!("the compiler stumbled over it ({status})")),
    })
}
