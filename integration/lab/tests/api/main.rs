//! The lab's Kubernetes API, used by the clients that it is for.

mod harness;
mod kube_client;
mod kubectl;
mod port_forward;
mod support;
