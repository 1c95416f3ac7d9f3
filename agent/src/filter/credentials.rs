//! Logins of registries, from Secrets of the type kubernetes.io/dockerconfigjson.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderValue;
use serde::Deserialize;

/// A login.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: String,
    password: String,
}

impl Login {
    /// As it is shown to registries.
    pub fn basic(&self) -> HeaderValue {
        let both = STANDARD.encode(format!("{}:{}", self.user, self.password));
        // Base64 is text that headers may have.
        let value = HeaderValue::try_from(format!("Basic {both}"));
        let mut value = value.unwrap_or_else(|_| HeaderValue::from_static("Basic"));
        value.set_sensitive(true);
        value
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

impl Entry {
    fn login(self) -> Option<Login> {
        if let (Some(user), Some(password)) = (self.username, self.password) {
            return Some(Login { user, password });
        }
        let both = STANDARD.decode(self.auth?.trim()).ok()?;
        let both = String::from_utf8(both).ok()?;
        let (user, password) = both.split_once(':')?;
        Some(Login {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

/// The login for a registry in the content of a Secret.
///
/// # Errors
/// A sentence that says what is missing.
pub fn login(content: &[u8], registry: &str) -> Result<Login, String> {
    let config: Config = serde_json::from_slice(content)
        .map_err(|error| format!(".dockerconfigjson cannot be read: {error}"))?;
    let host = |name: &str| {
        let name = name.strip_prefix("https://").unwrap_or(name);
        let name = name.strip_prefix("http://").unwrap_or(name);
        let host = name.split('/').next().unwrap_or_default();
        match host {
            // What the hub is called in such files.
            "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
            host => host.to_owned(),
        }
    };
    let found = config
        .auths
        .into_iter()
        .find(|(name, _)| host(name) == registry);
    let (_, entry) = found.ok_or_else(|| format!("has no login for {registry}"))?;
    entry
        .login()
        .ok_or_else(|| format!("has neither auth nor username and password for {registry}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldDp4"},
        "registry.example:5000": {"username": "a", "password": "b", "auth": "?"},
        "other.example": {"auth": "?"}
    }}"#;

    #[test]
    fn a_login_is_found_by_its_registry() {
        let hub = login(FILE.as_bytes(), "docker.io").expect("a login");
        assert_eq!((&*hub.user, &*hub.password), ("hub", "secret:x"));
        let own = login(FILE.as_bytes(), "registry.example:5000").expect("a login");
        assert_eq!(own.basic(), "Basic YTpi");
        assert!(!format!("{own:?}").contains("password"), "{own:?}");
    }

    #[test]
    fn what_is_missing_is_said() {
        for (content, registry, told) in [
            (
                FILE,
                "registry.example",
                "has no login for registry.example",
            ),
            (FILE, "other.example", "has neither auth nor username"),
            ("{", "a", ".dockerconfigjson cannot be read"),
            ("{}", "a", "has no login for a"),
        ] {
            let error = login(content.as_bytes(), registry).expect_err("none");
            assert!(error.starts_with(told), "{error}");
        }
    }
}
