//! What names and labels may look like.

use super::resource::{NAMESPACES, ResourceType, SERVICES};
use super::status::ApiError;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Refuses a name that the kind cannot have.
pub(super) fn check(info: &ResourceType, name: &str) -> Result<(), ApiError> {
    let label = info.is(&NAMESPACES) || info.is(&SERVICES);
    let problem = if label && !is_label(name) {
        LABEL
    } else if !label && !is_subdomain(name) {
        SUBDOMAIN
    } else {
        return Ok(());
    };
    let cause = (
        "metadata.name".to_owned(),
        format!("Invalid value: {name:?}: {problem}"),
    );
    Err(ApiError::invalid(info, name, &[cause]))
}

/// RFC 1123 label: what a container or a namespace is called.
pub(super) fn is_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|c| inner(*c) || *c == b'-')
        && bytes.first().is_some_and(|c| inner(*c))
        && bytes.last().is_some_and(|c| inner(*c))
}

/// RFC 1123 subdomain: labels with dots between.
pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(|label| is_label(label) || long(label))
}

/// Within a subdomain, labels may be longer than 63 characters.
fn long(label: &str) -> bool {
    label.len() > 63
        && is_label(&label[label.len() - 63..])
        && label
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !label.starts_with('-')
}

/// What is wrong with a label's value, if anything is.
pub(super) fn label_value_problem(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some("must be no more than 63 characters".to_owned());
    }
    (!is_label_text(value)).then(|| LABEL_VALUE.to_owned())
}

/// True for what a label's key may be: `name` or `prefix/name`.
pub(super) fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("x", key));
    is_subdomain(prefix) && !name.is_empty() && name.len() <= 63 && is_label_text(name)
}

fn is_label_text(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    text.bytes()
        .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
        && ends.iter().flatten().all(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        assert!(is_label("deathstar-b4b8ccfb5-lvbnx"));
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(!is_label(bad), "{bad}");
        }
        assert!(is_subdomain("ciliumnetworkpolicies.cilium.io"));
        assert!(!is_subdomain("a..b"));
        assert!(is_label_key("app.kubernetes.io/name") && is_label_key("k8s-app"));
        assert!(!is_label_key("a/b/c") && !is_label_key("/a") && !is_label_key("a/"));
        assert_eq!(label_value_problem(""), None);
        assert_eq!(label_value_problem("My_value.1"), None);
        assert!(label_value_problem("not this").is_some());
    }
}
