//! The module in a layer of files.

use std::cell::Cell;
use std::io::{self, Read};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use super::store::MAX_MODULE;

/// Most bytes of a layer when it is unpacked: a small one may become large.
const MAX_UNPACKED: u64 = 256 << 20;
/// Most bytes of what stands before a file: its headers, with a name of any length.
const MAX_HEAD: u64 = 1 << 20;
/// Most files of a layer.
const MAX_FILES: usize = 10_000;
/// How the file is called that counts.
const NAME: &str = "plugin.wasm";

/// How files are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// tar.
    Tar,
    /// tar, compressed.
    TarGzip,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It is broken, or too large.
    #[error("the layer cannot be unpacked: {0}")]
    Broken(String),
    /// Which of several files is the module?
    #[error("the layer has several .wasm files and none is called {NAME}")]
    Several,
    /// The module is too large.
    #[error("{0} in the layer has more than {MAX_MODULE} bytes")]
    TooLarge(String),
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// The file `plugin.wasm` of a layer, else its only `.wasm` file; none where there
/// is none.
///
/// # Errors
/// See [`ArchiveError`].
pub fn module(packed: &[u8], packing: Packing) -> Result<Option<Bytes>, ArchiveError> {
    match packing {
        Packing::Tar => find(packed, MAX_UNPACKED),
        Packing::TarGzip => find(MultiGzDecoder::new(packed), MAX_UNPACKED),
    }
}

fn find(unpacked: impl Read, most: u64) -> Result<Option<Bytes>, ArchiveError> {
    let head = Cell::new(MAX_HEAD);
    let bounded = Bounded {
        inner: unpacked,
        left: most,
        head: &head,
    };
    let mut archive = tar::Archive::new(bounded);
    let mut entries = archive.entries()?;
    let (mut others, mut skipped) = (Vec::new(), 0);
    for index in 0.. {
        head.set(MAX_HEAD.saturating_add(skipped));
        let Some(entry) = entries.next() else { break };
        if index == MAX_FILES {
            let message = format!("it has more than {MAX_FILES} files");
            return Err(ArchiveError::Broken(message));
        }
        let mut entry = entry?;
        head.set(u64::MAX);
        skipped = stored(&mut entry)?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let name = path.trim_start_matches("./").trim_start_matches('/');
        if !entry.header().entry_type().is_file() || !name.ends_with(".wasm") {
            continue;
        }
        let wanted = name == NAME;
        if wanted {
            // It is the module, so that two of them need no room.
            others.clear();
        } else if !others.is_empty() {
            // Its content would be for nothing; that it is there counts.
            others.push(Bytes::new());
            continue;
        }
        if entry.size() > MAX_MODULE as u64 {
            return Err(ArchiveError::TooLarge(name.to_owned()));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        skipped = 0;
        if wanted {
            return Ok(Some(content.into()));
        }
        others.push(content.into());
    }
    match others.len() {
        0 | 1 => Ok(others.pop()),
        _ => Err(ArchiveError::Several),
    }
}

/// Bytes of the archive that are a file's content.
fn stored<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<u64> {
    // Of a file with holes the size is with them.
    match entry.header().entry_type().is_gnu_sparse() {
        false => Ok(entry.size()),
        true if entry.pax_extensions()?.is_none() => entry.header().entry_size(),
        true => Ok(0),
    }
}

/// Fails where more comes than may.
struct Bounded<'h, R> {
    inner: R,
    left: u64,
    /// Of what is read before a file: all of that is kept.
    head: &'h Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = |of: u64, what| of.checked_sub(read as u64).ok_or(io::Error::other(what));
        self.left = left(self.left, "it becomes larger than a layer may be")?;
        self.head
            .set(left(self.head.get(), "a file has too long a name")?);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, name, *content)
                .expect("packed");
        }
        builder.into_inner().expect("packed")
    }

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        io::copy(&mut &*bytes, &mut encoder).expect("compressed");
        encoder.finish().expect("compressed")
    }

    #[test]
    fn the_file_of_the_usual_name_is_the_module() {
        let files: [(&str, &[u8]); 4] = [
            ("a.wasm", b"other"),
            ("sub/plugin.wasm", b"deeper"),
            ("README", b"text"),
            ("./plugin.wasm", b"module"),
        ];
        let tar = packed(&files);
        assert_eq!(
            module(&tar, Packing::Tar).expect("found").as_deref(),
            Some(&b"module"[..])
        );
        let gzip = compressed(&tar);
        let found = module(&gzip, Packing::TarGzip).expect("found");
        assert_eq!(found.as_deref(), Some(&b"module"[..]));
    }

    #[test]
    fn the_only_module_needs_no_name() {
        let one = packed(&[("dir/x.wasm", b"x"), ("etc/passwd", b"y")]);
        assert_eq!(
            module(&one, Packing::Tar).expect("found").as_deref(),
            Some(&b"x"[..])
        );
        let several = packed(&[("a.wasm", b"a"), ("b.wasm", b"b")]);
        assert_eq!(module(&several, Packing::Tar), Err(ArchiveError::Several));
        let none = packed(&[("a.txt", b"a")]);
        assert_eq!(module(&none, Packing::Tar), Ok(None));
    }

    #[test]
    fn names_may_be_long_and_not_of_any_length() {
        let text = vec![b'x'; 3 << 20];
        let named = |length: usize| {
            let name = format!("{}.wasm", "n/".repeat(length / 2));
            module(
                &packed(&[("a.txt", &text), (&name, b"module"), ("b.txt", &text)]),
                Packing::Tar,
            )
        };
        assert_eq!(named(1000).expect("found").as_deref(), Some(&b"module"[..]));
        let error = named(2 << 20).expect_err("given up").to_string();
        assert!(error.contains("too long a name"), "{error}");
    }

    #[test]
    fn what_becomes_too_large_is_given_up() {
        let mut header = tar::Header::new_gnu();
        header.set_path("plugin.wasm").expect("a path");
        header.set_size(MAX_MODULE as u64 + 1);
        header.set_cksum();
        let large = header.as_bytes().to_vec();
        assert_eq!(
            module(&large, Packing::Tar),
            Err(ArchiveError::TooLarge("plugin.wasm".to_owned()))
        );
        let bomb = compressed(&packed(&[("zeros", &[0; 1 << 20])]));
        assert!(bomb.len() < 1 << 14);
        let error = find(MultiGzDecoder::new(&*bomb), 1 << 19).expect_err("given up");
        assert!(error.to_string().contains("becomes larger"), "{error}");
        assert_eq!(find(MultiGzDecoder::new(&*bomb), 1 << 21), Ok(None));
        assert!(module(b"no gzip at all", Packing::TarGzip).is_err());
        let half = &compressed(&packed(&[("plugin.wasm", b"module")]))[..20];
        assert!(module(half, Packing::TarGzip).is_err());
    }
}
