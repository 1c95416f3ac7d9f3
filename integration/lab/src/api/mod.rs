//! The Kubernetes API of the lab: a stand-in for kube-apiserver and its controllers, as
//! far as stock kubectl, kube-rs clients and the mesh need them.
//!
//! ```text
//! HTTP ── server ── objects, scale ── write ──┐                      ┌── controllers
//!           │   ├── watch       (webhooks)    ├── store (admission) ─┤
//!           │   └── discovery, openapi        ┘                      └── typed (kubelet)
//!           └── exec, logs, portforward ── PodRuntime
//! ```
//!
//! Objects are untyped JSON in a versioned store. Everything that writes, over HTTP or
//! from inside, passes the same admission: defaults, checks, server-owned metadata. What
//! comes over HTTP is then judged by the validating webhooks that it concerns.
//! Deliberately absent: authentication, storage beyond the process's life, conversion of
//! custom resources, quotas, mutating webhooks, webhooks on exec, port-forward and `/scale`,
//! their match conditions (CEL), rules of theirs that match other versions of an object
//! (`matchPolicy` is taken as `Exact`), and every kind that nothing here uses.

pub mod controllers;
pub mod object;
pub mod patch;
pub mod request;
pub mod resource;
pub mod selector;
pub mod table;
pub mod yaml;

mod admission;
mod answer;
mod body;
mod bootstrap;
mod crd;
mod discovery;
mod exec;
mod logs;
mod names;
mod objects;
mod openapi;
mod portforward;
mod protobuf;
mod runtime;
mod scale;
mod server;
mod status;
mod store;
mod typed;
mod warning;
mod watch;
mod webhook;
mod write;

pub use discovery::KUBERNETES_VERSION;
pub use runtime::{
    ContainerRef, ExecRequest, ExecSession, LogOptions, PodRuntime, RuntimeError, TerminalSize,
};
pub use server::router;
pub use status::ApiError;
pub use store::{ChangeKind, DeleteOptions, Deleted, Part, Propagation, Store, StoreEvent};
pub use typed::{Change, Kind, RawWatch, Watch, id_of};
