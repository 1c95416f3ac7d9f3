//! Ways round the policies, and limits of what the mesh uses and leaves.

mod bypass;
mod lifetime;
mod memory;
mod native;
mod world;
