//! The lab's Kubernetes API, used by the clients that it is for.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers of tests fail them the same way"
)]

mod harness;
mod hook;
mod kube_client;
mod kubectl;
mod port_forward;
mod support;
mod webhooks;
