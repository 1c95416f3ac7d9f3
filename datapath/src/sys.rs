//! System calls on whole tables, which aya does not offer: reading, writing and
//! removing entries in batches, and making a table whose size is known only
//! now.
//!
//! A hash table is read bucket by bucket, under each bucket's lock: entries that
//! come and go meanwhile are read or not, what stays is read once, and reading
//! ends however much comes. An iterator over keys takes two calls an entry
//! instead, and begins anew whenever the entry where it stands is removed.
#![expect(unsafe_code, reason = "bpf(2), without a safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;

use aya::Pod;

/// Entries in one call: few enough for the kernel to be done within a
/// millisecond, and enough for the calls to cost nothing.
const BATCH: usize = 4096;

// From the kernel's `bpf.h`.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
const BPF_MAP_TYPE_LRU_HASH: u32 = 9;

/// `union bpf_attr` of the calls on batches.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The start of `union bpf_attr` of `BPF_MAP_CREATE`; the kernel takes the rest
/// for zero.
#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// # Safety
/// `attr` must be what the kernel expects for `command`: every address in it
/// points to memory of the size that the call reads or writes.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: by contract; the size is that of the structure.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<T>()) };
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn address<T>(pointer: *const T) -> u64 {
    pointer as usize as u64
}

fn descriptor(map: BorrowedFd<'_>) -> u32 {
    map.as_raw_fd().cast_unsigned()
}

/// Reads a table from its beginning to its end. `K` and `V` must have the sizes
/// of its keys and values, which aya checks for its own handles.
pub(crate) struct Reader<'a, K, V> {
    map: BorrowedFd<'a>,
    keys: Vec<K>,
    values: Vec<V>,
    /// The bucket to go on from; none at the beginning.
    bucket: Option<u32>,
    ended: bool,
}

impl<'a, K: Pod, V: Pod> Reader<'a, K, V> {
    pub(crate) fn new(map: BorrowedFd<'a>) -> Self {
        Self {
            map,
            keys: Vec::with_capacity(BATCH),
            values: Vec::with_capacity(BATCH),
            bucket: None,
            ended: false,
        }
    }

    /// The next entries, keys and values in the same order; none at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<(&[K], &[V])>> {
        while !self.ended {
            match self.read() {
                // A bucket has more entries than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    let room = self.keys.capacity() * 2;
                    self.keys.reserve(room);
                    self.values.reserve(room);
                }
                result => {
                    result?;
                    return Ok(Some((&self.keys, &self.values)));
                }
            }
        }
        Ok(None)
    }

    fn read(&mut self) -> io::Result<()> {
        self.keys.clear();
        self.values.clear();
        let room = self.keys.capacity().min(self.values.capacity());
        let from = self.bucket;
        let mut to = 0_u32;
        let mut attr = BatchAttr {
            in_batch: from.as_ref().map_or(0, |from| address(from)),
            out_batch: address(&raw mut to),
            keys: address(self.keys.as_mut_ptr()),
            values: address(self.values.as_mut_ptr()),
            count: u32::try_from(room).unwrap_or(u32::MAX),
            map_fd: descriptor(self.map),
            ..BatchAttr::default()
        };
        // SAFETY: both vectors have room for `count` entries, and the places of
        // the buckets live across the call; a hash table's are four bytes.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        match result {
            Ok(_) => {}
            // What the last buckets had is there all the same.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.ended = true,
            Err(error) => return Err(error),
        }
        self.bucket = Some(to);
        let count = (attr.count as usize).min(room);
        // SAFETY: the kernel has written so many of each, and any bytes are
        // valid ones for `Pod`.
        unsafe {
            self.keys.set_len(count);
            self.values.set_len(count);
        }
        Ok(())
    }
}

/// Removes these entries, as far as they are there; returns how many were. The
/// type of the keys must be the table's.
pub(crate) fn remove<K: Pod>(map: BorrowedFd<'_>, mut keys: &[K]) -> io::Result<usize> {
    let mut removed = 0;
    while !keys.is_empty() {
        let batch = &keys[..keys.len().min(BATCH)];
        let mut attr = BatchAttr {
            keys: address(batch.as_ptr()),
            count: batch.len() as u32,
            map_fd: descriptor(map),
            ..BatchAttr::default()
        };
        // SAFETY: so many keys are there, and are only read.
        let result = unsafe { bpf(BPF_MAP_DELETE_BATCH, &mut attr) };
        let done = match result {
            Ok(_) => batch.len(),
            // It stopped at one that is gone already.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                let before = (attr.count as usize).min(batch.len() - 1);
                removed += before;
                keys = &keys[before + 1..];
                continue;
            }
            Err(error) => return Err(error),
        };
        removed += done;
        keys = &keys[done..];
    }
    Ok(removed)
}

/// Writes entries, over what is there. The types must be the table's.
pub(crate) fn write<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
        let mut attr = BatchAttr {
            keys: address(keys.as_ptr()),
            values: address(values.as_ptr()),
            count: keys.len().min(values.len()) as u32,
            map_fd: descriptor(map),
            ..BatchAttr::default()
        };
        // SAFETY: so many keys and values are there, and are only read.
        unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }?;
    }
    Ok(())
}

/// Makes a table that forgets its idlest entry when it is full.
pub(crate) fn create_table<K, V>(name: &CStr, entries: u32) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr {
        map_type: BPF_MAP_TYPE_LRU_HASH,
        key_size: size_of::<K>() as u32,
        value_size: size_of::<V>() as u32,
        max_entries: entries,
        ..CreateAttr::default()
    };
    // The last byte stays zero: names are strings.
    for (to, from) in attr.name[..15].iter_mut().zip(name.to_bytes()) {
        *to = *from;
    }
    // SAFETY: the structure holds no address.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attr) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a descriptor that the kernel has just opened for nobody else; it
    // is closed on exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
