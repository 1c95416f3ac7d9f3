//! A hash that never changes between versions, machines or runs.

/// 64-bit FNV-1a over the parts, each ended by a zero byte so that
/// `["ab", "c"]` and `["a", "bc"]` differ.
///
/// The standard library's hasher is seeded or may change between releases;
/// numbers derived here must be equal on every node and after every upgrade.
pub fn fnv1a<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    fnv1a_bytes(parts.into_iter().flat_map(|part| part.bytes().chain([0])))
}

/// The same over plain bytes.
pub fn fnv1a_bytes(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = bytes.into_iter().fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    // FNV's low bits mix poorly; fold the high half in.
    hash ^ (hash >> 32)
}
