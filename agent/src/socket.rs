//! Unix sockets that only root may open.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::net::UnixListener;

/// Listens at `path`, with mode 0600 from the first moment that the name
/// exists. A socket that a former run left behind is replaced.
///
/// # Errors
/// When the directory cannot be made or the socket cannot be bound.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replaces_a_stale_socket_and_keeps_others_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/agent.sock");
        drop(listen(&path).expect("first"));
        let listener = listen(&path).expect("again");
        let mode = std::fs::metadata(&path).expect("metadata").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let (accepted, dialled) =
            tokio::join!(listener.accept(), tokio::net::UnixStream::connect(&path));
        accepted.expect("accepted");
        dialled.expect("dialled");
    }
}
