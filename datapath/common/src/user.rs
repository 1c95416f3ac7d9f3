//! Lets aya copy the types to and from the kernel.

#![expect(
    unsafe_code,
    reason = "that a type has no padding is a promise the compiler cannot check"
)]

use crate::{
    Backend, Config, CtEntry, CtKey, EndpointEntry, IpcacheEntry, NatEntry, NatKey, PolicyKey,
    PolicyValue, ServiceKey, ServiceValue,
};

macro_rules! plain {
    ($($name:ty),* $(,)?) => {
        $(
            // SAFETY: `repr(C)`, only integers and arrays of them, and no
            // implicit padding (the layout tests hold the sizes): every bit
            // pattern is valid and initialised.
            unsafe impl aya::Pod for $name {}
        )*
    };
}

plain!(
    EndpointEntry,
    IpcacheEntry,
    PolicyKey,
    PolicyValue,
    ServiceKey,
    ServiceValue,
    Backend,
    NatKey,
    NatEntry,
    Config,
    CtKey,
    CtEntry,
);
