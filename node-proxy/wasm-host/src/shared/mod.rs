//! What all instances of a filter on a node share: values, queues, metrics. Bounded, so that a
//! filter can fill its own quota and nothing else.

pub mod instances;
pub mod kv;
pub mod metrics;
pub mod queue;
