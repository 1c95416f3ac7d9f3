//! What a request asks for: its path, its query, the answer's form.

use axum::http::{HeaderMap, header};

use super::resource::{ResourceId, ResourceType};
use super::selector::{FieldSelector, LabelSelector, Selector};
use super::status::ApiError;
use super::table::Include;

/// A path below `/api/v1` or `/apis/GROUP/VERSION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which resource.
    pub id: ResourceId,
    /// In which version.
    pub version: String,
    /// In which namespace; `None` for all, or for cluster-scoped resources.
    pub namespace: Option<String>,
    /// Which object; `None` for the collection.
    pub name: Option<String>,
    /// Such as `status` or `log`; "" for the object itself.
    pub subresource: String,
}

impl Target {
    /// Reads the segments of a path. `None` when it cannot be one.
    pub fn parse(segments: &[&str]) -> Option<Self> {
        let (group, version, rest) = match segments {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let of_namespace = |sub: &&str| matches!(*sub, "status" | "finalize");
        let (namespace, rest) = match rest {
            ["namespaces", _] => (None, rest),
            ["namespaces", _, sub] if group.is_empty() && of_namespace(sub) => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
            _ => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, ""),
            [plural, name] => (plural, Some(*name), ""),
            [plural, name, sub] => (plural, Some(*name), *sub),
            _ => return None,
        };
        Some(Self {
            id: ResourceId::new(group, plural),
            version: version.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: subresource.to_owned(),
        })
    }

    /// The namespace to read or write in: "" for cluster-scoped resources.
    ///
    /// # Errors
    /// 404 when the path gives a namespace to a resource that has none, or the reverse.
    pub fn namespace_for(&self, info: &ResourceType) -> Result<&str, ApiError> {
        match (&self.namespace, info.namespaced) {
            (Some(namespace), true) => Ok(namespace),
            (None, false) => Ok(""),
            _ => Err(ApiError::no_such_resource()),
        }
    }
}

/// The query's parameters, decoded, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a raw query.
    pub fn parse(raw: &str) -> Self {
        let pairs = raw.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// A parameter's first value, "" when it is absent.
    pub fn get(&self, key: &str) -> &str {
        let found = self.0.iter().find(|(k, _)| k == key);
        found.map_or("", |(_, value)| value)
    }

    /// All values of a parameter.
    pub fn all(&self, key: &str) -> Vec<String> {
        let found = self.0.iter().filter(|(k, _)| k == key);
        found.map(|(_, value)| value.clone()).collect()
    }

    /// True for `1` and `true`.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), "1" | "true" | "True")
    }

    /// A number, if it is given.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key).parse().ok()
    }

    /// Both selectors.
    pub fn selector(&self) -> Result<Selector, ApiError> {
        let labels = LabelSelector::parse(self.get("labelSelector"));
        let fields = FieldSelector::parse(self.get("fieldSelector"));
        Ok(Selector {
            labels: labels.map_err(ApiError::bad_request)?,
            fields: fields.map_err(ApiError::bad_request)?,
        })
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| char::from(digit?).to_digit(16);
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut ahead = rest.clone();
                let pair = hex(ahead.next()).zip(hex(ahead.next()));
                match pair.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
                    Some(decoded) => {
                        bytes.push(decoded);
                        rest = ahead;
                    }
                    None => bytes.push(byte),
                }
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// In which form the answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// The objects.
    #[default]
    Objects,
    /// A table of them.
    Table(Include),
    /// Their metadata.
    Partial,
}

impl Form {
    /// From `Accept` and `includeObject`: the first form that is spoken here.
    pub fn of(headers: &HeaderMap, query: &Query) -> Self {
        let accepts = headers.get_all(header::ACCEPT).iter();
        let offers = accepts
            .filter_map(|a| a.to_str().ok())
            .flat_map(|a| a.split(','));
        for offer in offers {
            let mut parts = offer.split(';').map(str::trim);
            let json = matches!(
                parts.next(),
                Some("application/json" | "*/*" | "application/*")
            );
            let parameters: Vec<&str> = parts.collect();
            let asked = |wanted: &str| parameters.contains(&wanted);
            let meta = asked("g=meta.k8s.io") && asked("v=v1");
            let form = parameters.iter().find_map(|p| p.strip_prefix("as="));
            match form {
                _ if !json => {}
                None => return Self::Objects,
                Some("Table") if meta => {
                    return Self::Table(match query.get("includeObject") {
                        "None" => Include::None,
                        "Object" => Include::Object,
                        _ => Include::Metadata,
                    });
                }
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") if meta => {
                    return Self::Partial;
                }
                Some(_) => {}
            }
        }
        Self::Objects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Option<(String, Option<String>, Option<String>, String)> {
        let segments: Vec<&str> = path.split('/').collect();
        let t = Target::parse(&segments)?;
        let resource = format!("{}/{}/{}", t.id.group, t.version, t.id.plural);
        Some((resource, t.namespace, t.name, t.subresource))
    }

    #[test]
    fn paths() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            target("api/v1/pods"),
            Some(("/v1/pods".into(), None, None, String::new()))
        );
        assert_eq!(
            target("api/v1/namespaces/a/pods/b/log"),
            Some(("/v1/pods".into(), some("a"), some("b"), "log".into()))
        );
        assert_eq!(
            target("api/v1/namespaces/a"),
            Some(("/v1/namespaces".into(), None, some("a"), String::new()))
        );
        assert_eq!(
            target("api/v1/namespaces/a/finalize"),
            Some(("/v1/namespaces".into(), None, some("a"), "finalize".into()))
        );
        assert_eq!(
            target("apis/cilium.io/v2/namespaces/a/ciliumnetworkpolicies"),
            Some((
                "cilium.io/v2/ciliumnetworkpolicies".into(),
                some("a"),
                None,
                String::new()
            ))
        );
        assert_eq!(target("apis/cilium.io"), None);
        assert_eq!(target("healthz"), None);
    }

    #[test]
    fn queries() {
        let query = Query::parse(
            "command=sh&command=-c&labelSelector=a%3Db%2Cc+in+%28d%29&watch=true&x=%zz",
        );
        assert_eq!(query.all("command"), ["sh", "-c"]);
        assert_eq!(query.get("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch") && !query.flag("follow"));
        assert_eq!(query.get("x"), "%zz");
    }

    #[test]
    fn forms() {
        let form = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a header"));
            Form::of(&headers, &Query::default())
        };
        assert_eq!(
            form("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
            Form::Table(Include::Metadata)
        );
        assert_eq!(form("application/json"), Form::Objects);
        assert_eq!(
            form("application/vnd.kubernetes.protobuf,application/json"),
            Form::Objects
        );
        assert_eq!(
            form("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Form::Partial
        );
    }
}
