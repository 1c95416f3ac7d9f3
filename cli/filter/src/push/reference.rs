//! Where a module is pushed to.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Result, bail};

/// `oci://REGISTRY/REPOSITORY:TAG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Host, with a port where there is one.
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) tag: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}:{}", self.name(), self.tag)
    }
}

impl Place {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            anyhow::anyhow!(
                "{text}: {why}; write oci://REGISTRY/REPOSITORY:TAG, as oci://ghcr.io/me/my-filter:v1"
            )
        };
        let Some(rest) = text.strip_prefix("oci://") else {
            bail!(wrong("it does not begin with oci://"));
        };
        let Some((registry, rest)) = rest.split_once('/') else {
            bail!(wrong("it has no repository"));
        };
        if rest.contains('@') {
            bail!(wrong("a digest is what comes of pushing"));
        }
        let Some((repository, tag)) = rest.rsplit_once(':') else {
            bail!(wrong("it has no tag"));
        };
        if registry.is_empty() || !registry.bytes().all(is_of_host) {
            bail!(wrong(
                "the registry is a host, with a port where it is not 443"
            ));
        }
        if !repository.split('/').all(is_component) {
            bail!(wrong(
                "a repository has lower-case letters, digits, and . _ - between them"
            ));
        }
        let good_tag = tag.len() <= 128
            && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && tag
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !good_tag {
            bail!(wrong("a tag has letters, digits, and . _ -"));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// Without the tag.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The registry without its port.
    pub(super) fn host(&self) -> &str {
        let host = match self.registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.registry,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether nothing that is sent there leaves this machine.
    pub(super) fn is_loopback(&self) -> bool {
        match self.host().parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_name) => self.host() == "localhost",
        }
    }
}

const fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']')
}

fn is_component(text: &str) -> bool {
    let ends =
        |byte: Option<u8>| byte.is_some_and(|it| it.is_ascii_lowercase() || it.is_ascii_digit());
    ends(text.bytes().next())
        && ends(text.bytes().last())
        && text
            .bytes()
            .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || b"._-".contains(&it))
}

/// Whether a host is in a list such as that of `NO_PROXY`.
pub(super) fn is_in(host: &str, list: &str) -> bool {
    list.split(',').map(str::trim).any(|entry| {
        let entry = entry.trim_start_matches('.');
        let below = || host.strip_suffix(entry).is_some_and(|it| it.ends_with('.'));
        entry == "*" || (!entry.is_empty() && (host == entry || below()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read() {
        let place = Place::parse("oci://ghcr.io/me/my-filter:v1.0").expect("it is good");
        assert_eq!(place.name(), "ghcr.io/me/my-filter");
        assert_eq!(place.tag, "v1.0");
        assert_eq!(place.to_string(), "oci://ghcr.io/me/my-filter:v1.0");
        for (text, why) in [
            ("ghcr.io/me/a:v1", "oci://"),
            ("https://ghcr.io/me/a:v1", "oci://"),
            ("oci://ghcr.io", "no repository"),
            ("oci:///a:v1", "a host"),
            ("oci://user:pw@ghcr.io/a:v1", "a host"),
            ("oci://ghcr.io/a", "no tag"),
            ("oci://ghcr.io/a@sha256:00", "what comes of pushing"),
            ("oci://ghcr.io/A:v1", "lower-case"),
            ("oci://ghcr.io/a//b:v1", "lower-case"),
            ("oci://ghcr.io/../b:v1", "lower-case"),
            ("oci://ghcr.io/a:", "a tag has"),
            ("oci://ghcr.io/a:-x", "a tag has"),
        ] {
            let error = Place::parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_on_this_machine_is_told_from_what_is_not() {
        for (registry, expected) in [
            ("127.0.0.1:5000", true),
            ("localhost", true),
            ("localhost:5000", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("localhost.example:5000", false),
            ("10.0.0.1:5000", false),
            ("127.0.0.1.example", false),
        ] {
            let place = Place::parse(&format!("oci://{registry}/a:b")).expect(registry);
            assert_eq!(place.is_loopback(), expected, "{registry}");
        }
    }

    #[test]
    fn a_list_of_hosts_without_proxy_is_understood() {
        for (host, list, expected) in [
            ("ghcr.io", "", false),
            ("ghcr.io", "a, ghcr.io", true),
            ("a.ghcr.io", "ghcr.io", true),
            ("a.ghcr.io", ".ghcr.io", true),
            ("xghcr.io", "ghcr.io", false),
            ("ghcr.io", "*", true),
        ] {
            assert_eq!(is_in(host, list), expected, "{host} {list}");
        }
    }
}
