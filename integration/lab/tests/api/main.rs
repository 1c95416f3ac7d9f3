//! The lab's Kubernetes API, used by the clients that it is for.

mod kube_client;
mod kubectl;
mod support;
