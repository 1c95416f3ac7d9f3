//! What nobody can guess.

/// Most bytes at once.
const MAX: usize = 64 * 1024;

/// So many bytes, at most 64 KiB.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count.min(MAX)];
    fill(&mut bytes);
    bytes
}

/// Fills all of it; false where the system has none to give, which Linux never says once it is up.
pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    getrandom::fill(bytes).is_ok()
}
