//! What is changed, and the changes to a list of headers.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What is changed.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Headers of requests.
    pub request: Changes,
    /// Headers of responses.
    pub response: Changes,
}

/// Made in this order: rename, remove, set, add.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Changes {
    /// Old names and new ones.
    pub rename: BTreeMap<String, String>,
    /// Names of headers to remove.
    pub remove: Vec<String>,
    /// Headers to set, in place of values that are there.
    pub set: BTreeMap<String, String>,
    /// Headers to add to.
    pub add: BTreeMap<String, String>,
}

/// The host's part: the headers of the message at hand.
pub trait Headers {
    /// The values of a header that the host gives: proxy-wasm gives one, with commas between several.
    fn values(&self, name: &str) -> Vec<Vec<u8>>;
    /// Adds a value.
    fn add(&mut self, name: &str, value: &[u8]);
    /// Replaces all values.
    fn set(&mut self, name: &str, value: &[u8]);
    /// Removes all values.
    fn remove(&mut self, name: &str);
}

impl Config {
    /// Reads the configuration; nothing is an empty object.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        if json.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let mut config: Self = serde_json::from_slice(json).map_err(|err| err.to_string())?;
        config
            .request
            .lower()
            .map_err(|why| format!("request.{why}"))?;
        config
            .response
            .lower()
            .map_err(|why| format!("response.{why}"))?;
        Ok(config)
    }
}

/// A header's name, or one that stands for where a request goes, as `:path`.
fn check_name(name: &str) -> Result<(), String> {
    let token = |byte: u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte);
    let letters = name.strip_prefix(':').unwrap_or(name);
    if letters.is_empty() || !letters.bytes().all(token) {
        return Err(format!("{name:?} is no name of a header"));
    }
    Ok(())
}

impl Changes {
    /// Names are lower case on their way to the host. It would refuse bad ones at each request.
    fn lower(&mut self) -> Result<(), String> {
        let lower = |map: &BTreeMap<String, String>| -> BTreeMap<String, String> {
            map.iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                .collect()
        };
        self.set = lower(&self.set);
        self.add = lower(&self.add);
        self.rename = lower(&self.rename);
        for name in self.remove.iter_mut().chain(self.rename.values_mut()) {
            name.make_ascii_lowercase();
        }
        for (field, values) in [("set", &self.set), ("add", &self.add)] {
            for (name, value) in values {
                check_name(name).map_err(|why| format!("{field}.{name}: {why}"))?;
                if value
                    .bytes()
                    .any(|byte| byte != b'\t' && byte.is_ascii_control())
                {
                    return Err(format!(
                        "{field}.{name}: a header's value has no control characters"
                    ));
                }
            }
        }
        for (old, new) in &self.rename {
            for name in [old, new] {
                check_name(name).map_err(|why| format!("rename.{old}: {why}"))?;
            }
        }
        for (at, name) in self.remove.iter().enumerate() {
            check_name(name).map_err(|why| format!("remove[{at}]: {why}"))?;
        }
        Ok(())
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut impl Headers) {
        for (old, new) in &self.rename {
            for value in headers.values(old) {
                headers.add(new, &value);
            }
            headers.remove(old);
        }
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.set(name, value.as_bytes());
        }
        for (name, value) in &self.add {
            headers.add(name, value.as_bytes());
        }
    }
}
