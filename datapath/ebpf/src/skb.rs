//! The packet as the kernel hands it to a program.

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated;
use aya_ebpf::programs::TcContext;
use weft_datapath_common::{Config, DropReason};

/// Bytes of an Ethernet header.
pub const ETH_LEN: u32 = 14;

/// EtherTypes, as [`Skb::ethertype`] gives them.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// A program's context; copied freely, it is one pointer.
#[derive(Clone, Copy)]
pub struct Skb(*mut __sk_buff);

impl Skb {
    /// Takes the context of a program.
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self(ctx.as_ptr().cast())
    }

    /// For helpers that take the raw context.
    #[inline(always)]
    pub fn raw(self) -> *mut __sk_buff {
        self.0
    }

    #[inline(always)]
    fn tc(self) -> TcContext {
        TcContext::new(self.0)
    }

    /// Interface on which the program runs.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: the kernel passes a valid context, and rewrites this access.
        unsafe { (*self.0).ifindex }
    }

    /// The packet's mark.
    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.0).mark }
    }

    /// Replaces the bits of the mark under `mask`.
    #[inline(always)]
    pub fn set_mark(self, mask: u32, mark: u32) {
        self.tc().set_mark(self.mark() & !mask | mark);
    }

    /// Notes that a program of this node has done all there is to do.
    #[inline(always)]
    pub fn mark_judged(self, config: &Config) {
        self.set_mark(config.mark_mask, config.mark_judged);
    }

    /// Whether a program has noted so.
    #[inline(always)]
    pub fn is_judged(self, config: &Config) -> bool {
        self.mark() & config.mark_mask == config.mark_judged
    }

    /// EtherType, host order.
    #[inline(always)]
    pub fn ethertype(self) -> u16 {
        // SAFETY: as in `ifindex`.
        u16::from_be(unsafe { (*self.0).protocol } as u16)
    }

    /// Whether the frame came with a VLAN tag.
    #[inline(always)]
    pub fn has_vlan(self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.0).vlan_present != 0 }
    }

    /// Bytes, Ethernet header included.
    #[inline(always)]
    pub fn len(self) -> u32 {
        self.tc().len()
    }

    /// Copies a value out of the packet; fails beyond its end.
    #[inline(always)]
    pub fn load<T: Copy>(self, offset: u32) -> Result<T, DropReason> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: a valid context, and room for as many bytes as are asked for.
        let result = unsafe {
            let to = value.as_mut_ptr().cast();
            generated::bpf_skb_load_bytes(self.0.cast(), offset, to, size_of::<T>() as u32)
        };
        if result != 0 {
            return Err(DropReason::TruncatedHeader);
        }
        // SAFETY: the kernel has filled it; only headers are read so, of which
        // any bytes are valid.
        Ok(unsafe { value.assume_init() })
    }

    /// Copies a value into the packet.
    #[inline(always)]
    pub fn store<T: Copy>(self, offset: u32, value: &T) -> Result<(), DropReason> {
        // SAFETY: a valid context, and as many bytes as are there.
        written(unsafe {
            let from = ptr::from_ref(value).cast();
            generated::bpf_skb_store_bytes(self.0, offset, from, size_of::<T>() as u32, 0)
        })
    }

    /// Corrects the IPv4 header checksum for a replaced word.
    #[inline(always)]
    pub fn replace_l3_sum(self, offset: u32, from: u32, to: u32) -> Result<(), DropReason> {
        // SAFETY: a valid context and plain numbers.
        written(unsafe {
            generated::bpf_l3_csum_replace(self.0, offset, u64::from(from), u64::from(to), 4)
        })
    }

    /// Corrects a transport checksum; `flags` as in `bpf_l4_csum_replace`, size
    /// included.
    #[inline(always)]
    pub fn replace_l4_sum(
        self,
        offset: u32,
        from: u32,
        to: u32,
        flags: u32,
    ) -> Result<(), DropReason> {
        let (from, to, flags) = (u64::from(from), u64::from(to), u64::from(flags));
        // SAFETY: a valid context and plain numbers.
        written(unsafe { generated::bpf_l4_csum_replace(self.0, offset, from, to, flags) })
    }
}

#[inline(always)]
fn written(result: i64) -> Result<(), DropReason> {
    match result {
        0 => Ok(()),
        _ => Err(DropReason::WriteFailed),
    }
}
