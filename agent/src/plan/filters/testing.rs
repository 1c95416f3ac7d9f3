//! Filters and pods for tests.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_core::filter::{
    FilterKey, FilterKind, FilterLimits, FilterSpec, Isolation, OnError, Phase, Plugin,
};
use weft_core::model::{Direction, Labels, NamedPorts, NumericIdentity};
use weft_core::policy::{EndpointSelector, Operator, PortRange, Requirement};

use crate::endpoint::{Interface, LocalEndpoint};
use crate::filter::{Attachment, ResolvedFilter, Subject};
use crate::state::ObjectKey;

pub(crate) fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, last)
}

fn labels(app: &str) -> Labels {
    let app = format!("k8s:app={app}");
    Labels::parse_all([app.as_str(), "k8s:io.kubernetes.pod.namespace=default"]).expect("labels")
}

/// Pods of these applications, numbered from 1, with identities from 301.
pub(crate) fn pods(apps: &[&str]) -> BTreeMap<Ipv4Addr, LocalEndpoint> {
    let pod = |(id, app): (u8, &&str)| {
        let endpoint = LocalEndpoint {
            id: id.into(),
            key: ObjectKey::new("default", format!("{app}-{id}")),
            uid: id.to_string(),
            ip: ip(id),
            interface: Interface {
                ifindex: id.into(),
                mac: [2; 6],
                host_mac: [3; 6],
            },
            identity: NumericIdentity(300 + u32::from(id)),
            labels: labels(app),
            ports: NamedPorts::default(),
        };
        (ip(id), endpoint)
    };
    (1..).zip(apps).map(pod).collect()
}

/// What a filter of this name is where nothing else is said.
pub(crate) fn spec(name: &str) -> FilterSpec {
    FilterSpec {
        key: FilterKey {
            kind: FilterKind::WeftFilter,
            namespace: "default".into(),
            name: name.into(),
        },
        module: None,
        problem: None,
        config: Arc::default(),
        limits: FilterLimits::default(),
        on_error: OnError::default(),
        isolation: Isolation::Worker,
        callouts: Arc::default(),
        plugin: Plugin::default(),
    }
}

pub(crate) fn app(name: &str) -> Subject {
    let app = Requirement::parse("app", Operator::In(vec![name.into()]));
    Subject::Pods(EndpointSelector::new(app))
}

pub(crate) fn on(subject: Subject, ports: &[(u16, u16)]) -> Attachment {
    let ports = ports.iter();
    Attachment {
        subject,
        direction: Direction::Ingress,
        ports: ports
            .map(|(first, last)| PortRange {
                first: *first,
                last: *last,
            })
            .collect(),
        phase: Phase::AfterPolicy,
        order: 0,
    }
}

pub(crate) fn filter(spec: FilterSpec, attachments: &[Attachment]) -> ResolvedFilter {
    ResolvedFilter {
        spec: Arc::new(spec),
        attachments: attachments.into(),
        awaited: None,
        revision: 0,
    }
}
