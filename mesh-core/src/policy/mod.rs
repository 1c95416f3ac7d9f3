//! What policies mean.
//!
//! [`Rule`] is what an accepted policy object says, in neutral terms.
//! [`Compiler`] turns the rules that select one endpoint into
//! [`MapEntry`]s for the datapath, which decides layers 3 and 4, and into
//! [`PortPolicy`]s for the proxy, which decides layer 7. [`http`] compiles the
//! latter into a matcher.
//!
//! How rules combine: default deny is per direction; a deny beats everything,
//! a redirect to the proxy beats a plain allow; in the proxy a request passes
//! when any rule that holds the peer has no HTTP rules or one that matches.

mod compile;
mod entry;
pub mod http;
mod identities;
mod ports;
mod rule;
mod selector;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use compile::{
    Bounded, Bounds, Compiler, EndpointPolicy, Excess, HttpLoad, PeerRule, PeerSet, PortPolicy,
    Subject, Touched, http_load,
};
pub use entry::{
    Decision, EntryKey, EntryValue, MapEntry, PREFIX_PEER, PREFIX_PROTOCOL, Priority, find, lookup,
};
pub use identities::{IdentityTable, KnownIdentity, cidrs_of};
pub use ports::port_parts;
pub use rule::{
    CidrPeer, DirectionRules, Entity, L7Rules, Origin, Peer, Peers, PolicyKind, PortMatch,
    PortRange, PortRule, PortSpec, Rule, RuleId, RuleRef, RuleTable, TrafficRule,
};
pub use selector::{EndpointSelector, Operator, Requirement, SourceMatch};
