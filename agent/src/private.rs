//! Files and directories that only root may read.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Makes a directory, and those above it that are missing. One that is there
/// is closed to others.
///
/// # Errors
/// When it cannot be made, or is another's.
pub fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Puts a file in the place of what was there, as a whole: whoever reads it
/// sees the old content or the new.
///
/// # Errors
/// When it cannot be written; what was there is intact then.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // One that a crash left behind would keep its mode.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(&fresh)?.write_all(content)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        let metadata = fs::metadata(path).expect("it is there");
        metadata.permissions().mode() & 0o777
    }

    #[test]
    fn what_was_open_to_others_is_closed() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("deep/state");
        directory(&state).expect("made");
        assert_eq!(
            (mode(&state), mode(&dir.path().join("deep"))),
            (0o700, 0o700)
        );
        fs::set_permissions(&state, Permissions::from_mode(0o755)).expect("opened");
        directory(&state).expect("closed");
        assert_eq!(mode(&state), 0o700);

        let file = state.join("policy.json");
        fs::write(&file, "old").expect("written");
        fs::write(state.join("policy.new"), "left behind").expect("written");
        replace(&file, b"new").expect("replaced");
        assert_eq!(mode(&file), 0o600);
        assert_eq!(fs::read(&file).expect("read"), b"new");
    }
}
