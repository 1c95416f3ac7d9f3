//! Code that this node compiled before.
#![expect(
    unsafe_code,
    reason = "wasmtime cannot check that an artifact is what its compiler wrote; the cache does"
)]

use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::cache::Artifact;

/// A component; none if it was compiled by another version or for other settings.
pub(super) fn component(engine: &Engine, artifact: &Artifact) -> Option<Component> {
    // SAFETY: an `Artifact` is what `Engine::precompile_component` gave: just now, in this process or
    // in the program of `Compiler::Apart`, which is trusted as this one is and left it in a file that
    // only the two have; or it was read from a file that only this user can write, in a folder that
    // only this user can write, and its digest is the one that was written with it. Settings and
    // version are checked by wasmtime itself.
    unsafe { Component::deserialize(engine, artifact.bytes()) }.ok()
}

/// The same for a core module.
pub(super) fn module(engine: &Engine, artifact: &Artifact) -> Option<Module> {
    // SAFETY: as above, from `Engine::precompile_module`.
    unsafe { Module::deserialize(engine, artifact.bytes()) }.ok()
}
