//! What the machine gives: cgroup2 and bpffs, and the register of the mounts
//! that labs had to make for themselves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// Where labs keep what runs.
pub const RUN_DIR: &str = "/run/weft-lab";
/// Where eBPF programs and maps are pinned.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Pins of all labs.
pub const PIN_ROOT: &str = "/sys/fs/bpf/weft";

/// Mounts made by labs, one path a line; removed with the last lab.
const OWN_MOUNTS: &str = "/run/weft-lab/.mounts";

/// Finds the cgroup2 hierarchy, mounting one of our own where there is none.
///
/// # Errors
/// When there is none and none can be mounted.
pub fn cgroup2_root() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    if let Some(found) = find_mount(&mounts, "cgroup2") {
        return Ok(found);
    }
    let path = Path::new(RUN_DIR).join(".cgroup");
    fs::create_dir_all(&path)?;
    rustix::mount::mount("cgroup2", &path, "cgroup2", MountFlags::empty(), None)?;
    remember_mount(&path)?;
    Ok(path)
}

/// Makes sure that bpffs is mounted at its usual place.
///
/// # Errors
/// When it is not and cannot be mounted.
pub fn ensure_bpffs() -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    if mount_points(&mounts, "bpf").any(|at| at == Path::new(BPFFS)) {
        return Ok(());
    }
    rustix::mount::mount("bpf", BPFFS, "bpf", MountFlags::empty(), None)?;
    remember_mount(BPFFS)
}

/// Notes a mount as ours to remove.
///
/// # Errors
/// When the register cannot be written.
pub fn remember_mount(path: impl AsRef<Path>) -> io::Result<()> {
    fs::create_dir_all(RUN_DIR)?;
    crate::state::append_line(Path::new(OWN_MOUNTS), &path.as_ref().display().to_string())
}

/// After the last lab: removes the mounts that labs made and the directory
/// they kept. Something in use by others stays, with its entry.
///
/// # Errors
/// When the register cannot be read or written.
pub fn release_mounts() -> io::Result<()> {
    if labs()?.next().is_some() {
        return Ok(());
    }
    let register = match fs::read_to_string(OWN_MOUNTS) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e),
    };
    let mut kept = String::new();
    for path in register.lines().rev() {
        // Someone else's namespaces or pins: theirs now.
        let in_use = path != cgroup_of_ours() && !is_empty(Path::new(path));
        if in_use || rustix::mount::unmount(path, UnmountFlags::empty()).is_err() {
            kept = format!("{path}\n{kept}");
        }
    }
    if kept.is_empty() {
        match fs::remove_dir_all(RUN_DIR) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    } else {
        fs::write(OWN_MOUNTS, kept)
    }
}

/// Names of the labs that have a state directory.
///
/// # Errors
/// When the directory cannot be read.
pub fn labs() -> io::Result<impl Iterator<Item = String>> {
    let entries = match fs::read_dir(RUN_DIR) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    Ok(entries.into_iter().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        (!name.starts_with('.')).then_some(name)
    }))
}

fn cgroup_of_ours() -> String {
    format!("{RUN_DIR}/.cgroup")
}

/// Whether nobody keeps anything there. The kernel's own two files of a bpffs
/// do not count.
fn is_empty(dir: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(dir) else {
        return false;
    };
    entries.all(|entry| {
        let name = entry.map(|entry| entry.file_name());
        name.is_ok_and(|name| name == "maps.debug" || name == "progs.debug")
    })
}

fn find_mount(mountinfo: &str, kind: &str) -> Option<PathBuf> {
    mount_points(mountinfo, kind).next()
}

/// Mount points of a file system type in the text of `/proc/self/mountinfo`.
fn mount_points<'a>(mountinfo: &'a str, kind: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    mountinfo.lines().filter_map(move |line| {
        // "36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw"
        let (mount, filesystem) = line.split_once(" - ")?;
        let at = mount.split(' ').nth(4)?;
        (filesystem.split(' ').next()? == kind).then(|| PathBuf::from(at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw
40 22 0:35 / /sys/fs/bpf rw - bpf none rw,mode=700
";

    #[test]
    fn mounts_are_found_whatever_optional_fields_they_have() {
        assert_eq!(
            find_mount(MOUNTINFO, "cgroup2"),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(find_mount(MOUNTINFO, "bpf"), Some(PathBuf::from(BPFFS)));
        assert_eq!(find_mount(MOUNTINFO, "xfs"), None);
    }
}
