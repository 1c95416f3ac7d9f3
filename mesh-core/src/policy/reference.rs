//! What policies mean, spelled out plainly, to check the compiler against.
