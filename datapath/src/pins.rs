//! Where maps and links are pinned.

use std::path::{Path, PathBuf};
use std::{fs, io};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use rustix::fs::statfs;
use rustix::mount;
use weft_datapath_common::LAYOUT_VERSION;

use crate::Error;
use crate::resize::Slot;

/// Magic number of a BPF file system, from the kernel's `magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The versioned folder below a node's pin folder.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    maps: PathBuf,
    links: PathBuf,
    base: PathBuf,
}

impl Pins {
    /// Names the folders; makes nothing.
    pub(crate) fn new(base: &Path) -> Self {
        let maps = base.join(version_folder());
        Self {
            links: maps.join("links"),
            maps,
            base: base.to_owned(),
        }
    }

    /// Makes the folders.
    pub(crate) fn create(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.links).map_err(Error::io(&self.links))?;
        let stat = statfs(&self.links).map_err(|error| Error::io(&self.links)(error.into()))?;
        match stat.f_type as u64 {
            BPF_FS_MAGIC => Ok(()),
            _ => Err(Error::NotBpffs(self.base.clone())),
        }
    }

    pub(crate) fn maps(&self) -> &Path {
        &self.maps
    }

    pub(crate) fn links(&self) -> &Path {
        &self.links
    }

    /// Opens a pinned map.
    pub(crate) fn open<T>(&self, name: &'static str) -> Result<T, Error>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        MapData::from_pin(self.maps.join(name))
            .and_then(Map::from_map_data)
            .and_then(T::try_from)
            .map_err(Error::map(name))
    }

    /// Opens the table that is in a slot.
    pub(crate) fn table<K: Pod, V: Pod>(
        &self,
        name: &'static str,
    ) -> Result<HashMap<MapData, K, V>, Error> {
        let slot: Slot<K, V> = self.open(name)?;
        slot.get(&0, 0).map_err(Error::map(name))
    }

    /// Removes what other layout versions left, which detaches their programs.
    pub(crate) fn remove_other_versions(&self) -> Result<(), Error> {
        for path in versions(&self.base)? {
            if path != self.maps {
                remove_all(&path)?;
            }
        }
        Ok(())
    }
}

fn version_folder() -> String {
    format!("v{LAYOUT_VERSION}")
}

/// The folders of layout versions below a pin folder. What else is there is
/// somebody else's, such as the pins of other nodes of the same machine.
fn versions(base: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(base))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(base))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix('v'));
        if number.is_some_and(|number| number.parse::<u32>().is_ok()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes a node's pins, of every layout version: the programs detach, traffic
/// flows unpoliced. A folder that is not there is fine.
///
/// # Errors
/// When a pin cannot be removed.
pub fn uninstall(pin_dir: &Path) -> Result<(), Error> {
    for path in versions(pin_dir)? {
        remove_all(&path)?;
    }
    match fs::remove_dir(pin_dir) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(Error::io(pin_dir)(error))
        }
        _ => Ok(()),
    }
}

/// Links before maps, so that no program runs on a map whose pin is gone
/// already and that a new loader would not find.
fn remove_all(path: &Path) -> Result<(), Error> {
    let folder = match fs::read_dir(path) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return fs::remove_file(path).map_err(Error::io(path));
        }
        Err(error) => return Err(Error::io(path)(error)),
    };
    let mut files = Vec::new();
    for entry in folder {
        let entry = entry.map_err(Error::io(path))?.path();
        if entry.is_dir() {
            remove_all(&entry)?;
        } else {
            files.push(entry);
        }
    }
    for file in files {
        fs::remove_file(&file).map_err(Error::io(&file))?;
    }
    fs::remove_dir(path).map_err(Error::io(path))
}

/// Mounts a BPF file system on `path` unless there is one.
///
/// # Errors
/// When the folder cannot be made or the mount is refused.
pub fn ensure_bpffs(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io(path))?;
    let stat = statfs(path).map_err(|error| Error::io(path)(error.into()))?;
    if stat.f_type as u64 == BPF_FS_MAGIC {
        return Ok(());
    }
    mount::mount("bpf", path, "bpf", mount::MountFlags::empty(), None)
        .map_err(|error| Error::io(path)(error.into()))
}
