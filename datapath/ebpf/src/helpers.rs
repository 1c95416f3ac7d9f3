//! The kernel's helpers that take and give nothing but numbers.

use aya_ebpf::helpers::generated;

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn time() -> u64 {
    // SAFETY: no arguments, always callable.
    unsafe { generated::bpf_ktime_get_ns() }
}

/// As [`time`], a few milliseconds coarse and nearly free.
#[inline(always)]
pub fn coarse_time() -> u64 {
    // SAFETY: no arguments, always callable.
    unsafe { generated::bpf_ktime_get_coarse_ns() }
}

/// Any number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no arguments, always callable.
    unsafe { generated::bpf_get_prandom_u32() }
}

/// What a program returns to have its packet put into the other end of a veth.
#[inline(always)]
pub fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: takes plain numbers; a wrong interface drops the packet.
    unsafe { generated::bpf_redirect_peer(ifindex, 0) as i32 }
}
