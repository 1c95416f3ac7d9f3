//! Parts of benches: where programs run, what they used, how it is printed.

pub mod cores;
pub mod machine;
pub mod peers;
pub mod process;
pub mod stats;
pub mod table;
pub mod usage;
