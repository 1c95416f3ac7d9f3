//! The programs on crafted packets. Needs root.

mod conntrack;
mod headers;
mod masquerade;
mod policy;
mod service;
mod spoofing;
mod support;
