//! Addresses and node ports of Services.

use serde_json::{Value, json};

use crate::api::object;
use crate::api::resource::{ResourceType, SERVICES};
use crate::api::status::ApiError;
use crate::api::store::State;

/// 10.96.0.0/16, as kubeadm has it.
const NETWORK: [u8; 2] = [10, 96];
/// The lowest address that is given out; below are the well-known ones.
const FIRST: u16 = 256;
/// The highest: the last of the range would be its broadcast address.
const LAST: u16 = 65_534;
const NODE_PORTS: std::ops::Range<u16> = 30_000..32_768;

/// Gives a Service its cluster address and node ports, or checks the ones it asks for.
pub(super) fn allocate(
    state: &State,
    info: &ResourceType,
    service: &mut Value,
) -> Result<(), ApiError> {
    let kind = object::text(service, "/spec/type").to_owned();
    if kind == "ExternalName" {
        return Ok(());
    }
    let asked = object::text(service, "/spec/clusterIP").to_owned();
    let others = || {
        state
            .objects(&SERVICES, None)
            .filter(|o| object::uid(o) != object::uid(service))
    };
    let taken = |address: &str| others().any(|o| o["spec"]["clusterIP"] == address);
    let address = match asked.as_str() {
        "None" => asked,
        "" => {
            let key = format!("{}/{}", object::namespace(service), object::name(service));
            free_address(&key, taken)?
        }
        _ => {
            let problem = if !in_range(&asked) {
                "must be in the Service range 10.96.0.0/16"
            } else if taken(&asked) {
                "provided IP is already allocated"
            } else {
                ""
            };
            if !problem.is_empty() {
                let message = format!("Invalid value: {asked:?}: {problem}");
                let cause = ("spec.clusterIPs[0]".to_owned(), message);
                return Err(ApiError::invalid(info, object::name(service), &[cause]));
            }
            asked
        }
    };
    let used: Vec<u64> = others()
        .flat_map(|o| object::list(o, "/spec/ports"))
        .filter_map(|p| p["nodePort"].as_u64())
        .collect();
    service["spec"]["clusterIP"] = json!(address);
    service["spec"]["clusterIPs"] = json!([address]);
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        node_ports(service, used);
    }
    Ok(())
}

fn in_range(address: &str) -> bool {
    let octets = address.parse::<std::net::Ipv4Addr>().map(|a| a.octets());
    octets.is_ok_and(|[a, b, ..]| [a, b] == NETWORK)
}

/// Starts from the name's hash: the same manifests get the same addresses in every lab.
fn free_address(key: &str, taken: impl Fn(&str) -> bool) -> Result<String, ApiError> {
    let span = u32::from(LAST - FIRST) + 1;
    let hash = key.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (0..span)
        .map(|step| {
            let [_, _, high, low] = (u32::from(FIRST) + (hash % span + step) % span).to_be_bytes();
            format!("{}.{}.{high}.{low}", NETWORK[0], NETWORK[1])
        })
        .find(|address| !taken(address))
        .ok_or_else(|| ApiError::internal("the Service range is full"))
}

fn node_ports(service: &mut Value, mut used: Vec<u64>) {
    let own = object::list(service, "/spec/ports");
    used.extend(own.iter().filter_map(|p| p["nodePort"].as_u64()));
    let ports = service["spec"]["ports"].as_array_mut();
    for port in ports
        .into_iter()
        .flatten()
        .filter(|p| p["nodePort"].is_null())
    {
        let free = NODE_PORTS.map(u64::from).find(|n| !used.contains(n));
        if let Some(number) = free {
            used.push(number);
            port["nodePort"] = json!(number);
        }
    }
}
