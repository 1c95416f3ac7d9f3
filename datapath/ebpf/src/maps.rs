//! The pinned maps. A static's name is its pin's;
//! `weft_datapath_common::map_names` repeats them.

use core::ptr::NonNull;

use crate::flow::Flow;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{ArrayOfMaps, LruHashMap};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf};
use weft_datapath_common::{
    Backend, Config, Counter, CtEntry, CtKey, EndpointEntry, IPCACHE_ENTRIES, IpcacheEntry,
    NatEntry, NatKey, POLICY_ENTRIES, PolicyKey, PolicyValue, ServiceKey, ServiceValue,
};

/// A table in a slot: the loader puts one of the size there that its
/// configuration names, and may put another in its place for all programs at
/// once.
type Slot<K, V> = ArrayOfMaps<LruHashMap<K, V, 1>, 1>;

#[map]
static EP_BY_IF: HashMap<u32, EndpointEntry> = HashMap::pinned(1024, 0);
#[map]
static EP_BY_IP: HashMap<u32, EndpointEntry> = HashMap::pinned(1024, 0);
#[map]
static IPCACHE: LpmTrie<u32, IpcacheEntry> = LpmTrie::pinned(IPCACHE_ENTRIES, 0);
#[map]
static POLICY: LpmTrie<PolicyKey, PolicyValue> = LpmTrie::pinned(POLICY_ENTRIES, 0);
#[btf_map]
static CT: Slot<CtKey, CtEntry> = ArrayOfMaps::new();
#[btf_map]
static NAT: Slot<NatKey, NatEntry> = ArrayOfMaps::new();
#[map]
static SVC: HashMap<ServiceKey, ServiceValue> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
#[map]
static BACKEND: HashMap<u32, Backend> = HashMap::pinned(65_536, BPF_F_NO_PREALLOC);
#[map]
static CONFIG: Array<Config> = Array::pinned(1, 0);
#[map]
static EPOCH: Array<u32> = Array::pinned(1, 0);
#[map]
static EVENTS: RingBuf = RingBuf::pinned(4 << 20, 0);
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::pinned(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(weft_datapath_common::COUNTERS, 0);

/// Flag of an insertion that must not replace anything.
const NEW: u64 = BPF_NOEXIST as u64;

/// The packet in hand, see [`scratch`].
#[map]
static SCRATCH: PerCpuArray<Flow> = PerCpuArray::with_max_entries(1, 0);

/// Settings of the node.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0).filter(|config| config.mark_mask != 0)
}

/// Where a program keeps what it knows about its packet.
///
/// Not the stack: of that the verifier remembers every value on every path, of
/// a map's memory nothing, so paths that differ only in what they read out of
/// the packet become one. It needs a tenth of the steps to accept the programs.
///
/// A classifier runs with softirqs off, so no other one uses this CPU's place
/// meanwhile.
///
/// It is blank. Cleared word by word: of a plain assignment the compiler makes
/// a call to a loop over single bytes, a tenth of what a packet costs.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Flow> {
    let flow = SCRATCH.get_ptr_mut(0)?;
    let words = flow.cast::<u64>();
    for word in 0..size_of::<Flow>() / size_of::<u64>() {
        // SAFETY: inside this CPU's place, which is aligned for words.
        unsafe { words.add(word).write_volatile(0) }
    }
    // SAFETY: zeroes are a valid flow, and one program at a time uses it, see
    // above.
    unsafe { flow.as_mut() }
}

/// Number of the policies now in force.
#[inline(always)]
pub fn epoch() -> u32 {
    match EPOCH.get(0) {
        Some(epoch) => *epoch,
        None => 0,
    }
}

/// The pod behind a host veth.
#[inline(always)]
pub fn endpoint_by_ifindex(ifindex: u32) -> Option<&'static EndpointEntry> {
    // SAFETY: values are replaced as a whole by user space; a torn read of a
    // pod that changes right now is as good as the packet having come a moment
    // earlier.
    unsafe { EP_BY_IF.get(ifindex) }
}

/// The pod of this node with that address.
#[inline(always)]
pub fn endpoint_by_addr(addr: u32) -> Option<&'static EndpointEntry> {
    // SAFETY: as in `endpoint_by_ifindex`.
    unsafe { EP_BY_IP.get(addr) }
}

/// Whose address it is.
#[inline(always)]
pub fn ipcache(addr: u32) -> Option<&'static IpcacheEntry> {
    IPCACHE.get(Key::new(32, addr))
}

/// The longest policy entry for a complete key.
#[inline(always)]
pub fn policy(key: PolicyKey) -> Option<&'static PolicyValue> {
    POLICY.get(Key::new(96, key))
}

/// A service by what the client dials.
#[inline(always)]
pub fn service(key: ServiceKey) -> Option<&'static ServiceValue> {
    // SAFETY: as in `endpoint_by_ifindex`.
    unsafe { SVC.get(key) }
}

/// A slot of the backends.
#[inline(always)]
pub fn backend(slot: u32) -> Option<&'static Backend> {
    // SAFETY: as in `endpoint_by_ifindex`.
    unsafe { BACKEND.get(slot) }
}

/// A flow's state; shared with the other CPUs.
#[inline(always)]
pub fn conntrack(key: &CtKey) -> Option<NonNull<CtEntry>> {
    CT.get_value_ptr_mut(0, key).and_then(NonNull::new)
}

/// Writes a flow's state.
#[inline(always)]
pub fn insert_conntrack(key: &CtKey, entry: &CtEntry) -> bool {
    // As a new one at first: only the kernel knows whether there was one, and
    // when there is none left to evict it.
    if insert(&CT, key, entry, NEW) {
        count(Counter::ConntrackAdded);
        return true;
    }
    let written = insert(&CT, key, entry, 0);
    if !written {
        count(Counter::ConntrackRefused);
    }
    written
}

/// Forgets a flow.
#[inline(always)]
pub fn remove_conntrack(key: &CtKey) {
    // Gone already is as good.
    if let Some(table) = CT.get(0)
        && table.remove(key).is_ok()
    {
        count(Counter::ConntrackRemoved);
    }
}

/// One side of a masqueraded flow.
#[inline(always)]
pub fn nat(key: &NatKey) -> Option<NonNull<NatEntry>> {
    NAT.get_value_ptr_mut(0, key).and_then(NonNull::new)
}

/// Writes one side of a masqueraded flow unless somebody has it.
#[inline(always)]
pub fn claim_nat(key: &NatKey, entry: &NatEntry) -> bool {
    let free = insert(&NAT, key, entry, NEW);
    if free {
        count(Counter::NatAdded);
    }
    free
}

/// Writes one side of a masqueraded flow, whoever has it.
#[inline(always)]
pub fn insert_nat(key: &NatKey, entry: &NatEntry) -> bool {
    claim_nat(key, entry) || insert(&NAT, key, entry, 0)
}

#[inline(always)]
fn insert<K, V>(slot: &Slot<K, V>, key: &K, value: &V, flags: u64) -> bool {
    match slot.get(0) {
        Some(table) => table.insert(key, value, flags).is_ok(),
        None => false,
    }
}

/// Counts one more.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(number) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own slot, and a program is not interrupted by
        // another of its kind.
        unsafe { *number += 1 };
    }
}

/// Room for an event; a full ring is counted.
#[inline(always)]
pub fn reserve_event<T: 'static>() -> Option<aya_ebpf::maps::ring_buf::RingBufEntry<T>> {
    let entry = EVENTS.reserve::<T>(0);
    if entry.is_none()
        && let Some(lost) = LOST.get_ptr_mut(0)
    {
        // SAFETY: this CPU's own slot, and a program is not interrupted by
        // another of its kind.
        unsafe { *lost += 1 };
    }
    entry
}
