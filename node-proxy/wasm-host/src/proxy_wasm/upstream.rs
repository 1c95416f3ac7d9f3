//! Whom a proxy-wasm filter calls: Envoy knows clusters, the mesh knows Services.

/// The Service behind the name of a cluster: Istio names it `outbound|80||authz.default.svc.cluster.local`,
/// others just write `authz.default:80`, or the whole name of the Service in DNS.
pub(super) fn service(cluster: &str, authority: &str) -> String {
    if let Some((host, port)) = istio(cluster) {
        return format!("{}:{port}", short(host));
    }
    let (host, port) = match cluster.rsplit_once(':') {
        Some((host, port)) if is_port(port) => (host, Some(port)),
        _ => (cluster, None),
    };
    // A cluster's name has no port; the authority that is asked for may have one.
    let port = port.or_else(|| {
        let (_host, port) = authority.rsplit_once(':')?;
        is_port(port).then_some(port)
    });
    format!("{}:{}", short(host), port.unwrap_or("80"))
}

fn istio(cluster: &str) -> Option<(&str, &str)> {
    let mut parts = cluster.split('|');
    let (direction, port) = (parts.next()?, parts.next()?);
    let (_subset, host) = (parts.next()?, parts.next()?);
    let known = matches!(direction, "outbound" | "inbound") && is_port(port);
    (known && parts.next().is_none() && !host.is_empty()).then_some((host, port))
}

/// `name.namespace` of a Service's whole name.
fn short(host: &str) -> &str {
    match host.find(".svc") {
        Some(at) if host[at..] == *".svc" || host[at..].starts_with(".svc.") => &host[..at],
        _ => host,
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::service;

    #[test]
    fn clusters_are_services() {
        let cases = [
            (
                "outbound|8080||authz.default.svc.cluster.local",
                "x",
                "authz.default:8080",
            ),
            (
                "outbound|80|v1|authz.default.svc.cluster.local",
                "x",
                "authz.default:80",
            ),
            ("authz.default:9000", "x", "authz.default:9000"),
            (
                "authz.default.svc.cluster.local:9000",
                "x",
                "authz.default:9000",
            ),
            ("authz.default.svc", "x", "authz.default:80"),
            ("authz", "authz:8000", "authz:8000"),
            ("authz", "authz.example.com", "authz:80"),
            ("a.svcs.b", "x", "a.svcs.b:80"),
            ("outbound|0||host", "x", "outbound|0||host:80"),
        ];
        for (cluster, authority, expected) in cases {
            assert_eq!(service(cluster, authority), expected, "{cluster}");
        }
    }
}
