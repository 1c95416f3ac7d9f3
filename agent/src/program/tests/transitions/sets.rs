//! What a set of policies is: rules of a case, and filters beside them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_core::filter::{Attached, ChainSpec, FilterSpec, Intercept, Phase};
use weft_core::model::EndpointId;
use weft_core::policy::Rule;
use weft_core::policy::testing::cases::{Case, PeerOf};

use crate::plan::filters::testing::spec;
use crate::plan::filters::{Chain, Chains, Step};

/// Filters are attached to the pods of the node.
pub(super) const INTERCEPTED: u32 = 1 << 16;

/// The rules of a set.
pub(super) fn picked(case: &Case, policies: u32) -> Vec<Rule> {
    let rules = case.rules.iter().enumerate();
    let picked = rules.filter(|(index, _)| policies >> index & 1 == 1);
    picked.map(|(_, rule)| rule.clone()).collect()
}

/// Where its filters are.
pub(super) fn intercepts(case: &Case, policies: u32) -> &[Intercept] {
    match policies & INTERCEPTED {
        0 => &[],
        _ => &case.intercepts,
    }
}

/// The one filter, which must not be left out.
pub(super) fn filter() -> Arc<FilterSpec> {
    Arc::new(spec("guard"))
}

/// Which requests it lets through.
pub(super) fn guard(method: &str) -> bool {
    method.starts_with(['G', 'P']) && method != "POST"
}

/// The chains of a set on any of the pods.
pub(super) fn chains(case: &Case, policies: u32) -> Vec<Chain> {
    let mut sorted = intercepts(case, policies).to_vec();
    sorted.sort_unstable();
    let mut chains: Vec<Chain> = Vec::new();
    for Intercept {
        direction,
        first,
        last,
    } in sorted
    {
        let before = chains.last_mut();
        match before.filter(|one| one.direction == direction && first <= one.last) {
            Some(before) => before.last = before.last.max(last),
            None => chains.push(Chain {
                direction,
                first,
                last,
                steps: [Step {
                    phase: Phase::AfterPolicy,
                    filter: filter(),
                }]
                .into(),
            }),
        }
    }
    chains
}

/// The same as a snapshot has them.
pub(super) fn specs(chains: &Chains) -> Vec<ChainSpec> {
    let all = chains
        .iter()
        .flat_map(|(id, chains)| chains.iter().map(move |chain| (*id, chain)));
    let spec = |(id, chain): (u32, &Chain)| ChainSpec {
        endpoint: EndpointId(id),
        direction: chain.direction,
        first: chain.first,
        last: chain.last,
        steps: vec![Attached {
            phase: Phase::AfterPolicy,
            filter: 0,
        }],
    };
    all.map(spec).collect()
}

pub(super) fn pod_ip(index: usize) -> Ipv4Addr {
    let last = u8::try_from(index).expect("few pods");
    Ipv4Addr::new(10, 244, 1, 10 + last)
}

pub(super) fn peer_ip(peer: PeerOf) -> Ipv4Addr {
    match peer {
        PeerOf::Pod(index) => pod_ip(index),
        PeerOf::Reserved(identity) => {
            let last = u8::try_from(identity.0).expect("reserved");
            Ipv4Addr::new(172, 18, 0, last)
        }
        PeerOf::World(address) => address,
    }
}
