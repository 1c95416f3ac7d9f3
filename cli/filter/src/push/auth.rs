//! Who pushes.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

/// No password is longer; tokens that are given as passwords have some kilobytes.
const MAX_PASSWORD: u64 = 64 << 10;

pub(super) fn password_from_stdin() -> Result<String> {
    let mut password = String::new();
    io::stdin()
        .take(MAX_PASSWORD)
        .read_to_string(&mut password)
        .context("--password-stdin")?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("--password-stdin: there is nothing on standard input");
    }
    Ok(password.to_owned())
}

/// What `docker login` wrote down. Nobody is nobody's user.
pub(super) fn of_docker(registry: &str) -> Result<RegistryAuth> {
    let Some(file) = location() else {
        return Ok(RegistryAuth::Anonymous);
    };
    match fs::read(&file) {
        Ok(text) => of_text(&text, registry).with_context(|| file.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(RegistryAuth::Anonymous),
        Err(error) => Err(error).with_context(|| file.display().to_string()),
    }
}

fn location() -> Option<PathBuf> {
    let folder = match env::var_os("DOCKER_CONFIG") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(&env::var_os("HOME")?).join(".docker"),
    };
    Some(folder.join("config.json"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, Entry>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
}

fn of_text(text: &[u8], registry: &str) -> Result<RegistryAuth> {
    let config: DockerConfig = serde_json::from_slice(text)?;
    let is_it = |key: &str| host_of(key) == host_of(registry);
    let entry = config.auths.iter().find(|(key, _)| is_it(key));
    if let Some(auth) = entry.and_then(|(_, entry)| entry.auth.as_deref()) {
        let decoded = STANDARD.decode(auth).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (user, password) = pair.with_context(|| {
            format!("auths.{registry}.auth: it is not the base64 of user:password")
        })?;
        return Ok(RegistryAuth::Basic(user.to_owned(), password.to_owned()));
    }
    let helper = config.cred_helpers.iter().find(|(key, _)| is_it(key));
    let helper = helper
        .map(|(_, helper)| helper)
        .or(entry.and(config.creds_store.as_ref()));
    if let Some(helper) = helper {
        bail!(
            "the password for {registry} is kept by docker-credential-{helper}, which is not asked: \
             give --user and --password-stdin"
        );
    }
    Ok(RegistryAuth::Anonymous)
}

/// Keys are hosts, or addresses as `https://index.docker.io/v1/`.
fn host_of(key: &str) -> &str {
    let host = key.split_once("://").map_or(key, |(_, rest)| rest);
    match host.split_once('/').map_or(host, |(host, _)| host) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_docker_wrote_down_is_found() {
        let auth = STANDARD.encode("ada:pw:with:colons");
        let text = json!({
            "auths": {
                "https://index.docker.io/v1/": {"auth": auth},
                "ghcr.io": {"auth": auth},
                "kept.example": {},
                "bad.example": {"auth": "???"},
            },
            "credHelpers": {"other.example": "pass"},
            "credsStore": "desktop",
        })
        .to_string();
        let of = |registry| of_text(text.as_bytes(), registry);
        let ada = RegistryAuth::Basic("ada".to_owned(), "pw:with:colons".to_owned());
        for registry in ["docker.io", "ghcr.io"] {
            assert_eq!(of(registry).expect("it is there"), ada, "{registry}");
        }
        assert_eq!(of("nobody.example").expect("none"), RegistryAuth::Anonymous);
        for (registry, why) in [
            ("kept.example", "docker-credential-desktop"),
            ("other.example", "docker-credential-pass"),
            ("bad.example", "auths.bad.example.auth"),
        ] {
            let error = of(registry).expect_err(registry).to_string();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("???"), "{error}");
        }
    }
}
