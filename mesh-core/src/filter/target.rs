//! Where a filter may send a request: what the proxy takes from it, and what is
//! tried of it offline.

use std::borrow::Cow;

use http::Method;
use http::uri::{Authority, PathAndQuery};

use crate::policy::http::normalize;

/// Longest request target, in bytes.
pub const MAX_URI_BYTES: usize = 16 * 1024;

/// A method that may stand in place of another: what a request means to its
/// connection does not change on its way.
pub fn method(before: &Method, value: &str) -> Option<Method> {
    let method = Method::from_bytes(value.as_bytes()).ok()?;
    (method != Method::CONNECT && *before != Method::HEAD).then_some(method)
}

/// A path in its one form. Only one that has one meaning: what is judged is
/// what is sent.
pub fn path(value: &str) -> Option<PathAndQuery> {
    if value.len() > MAX_URI_BYTES || value == "*" {
        return None;
    }
    let normal = normalize(value).ok().filter(|normal| !normal.redirect)?;
    match normal.target {
        Cow::Borrowed(target) => target.parse().ok(),
        Cow::Owned(target) => target.try_into().ok(),
    }
}

/// A host, with a port where there is one.
pub fn authority(value: &str) -> Option<Authority> {
    value.parse().ok().filter(|_host| !value.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::{Method, authority, method, path};

    #[test]
    fn a_path_has_one_meaning() {
        for (value, expected) in [
            ("/a/../b?q=1", "/b?q=1"),
            ("/%41", "/A"),
            ("/a?x=%00", "/a?x=%00"),
        ] {
            let found = path(value).expect("it is good");
            assert_eq!(found.as_str(), expected);
        }
        let long = format!("/{}", "a".repeat(16 * 1024));
        for wrong in ["", "b", "*", "/%00", "/x/..%2fadmin", "/a b", &long] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_host_has_no_user() {
        for good in ["a", "a.b:80", "10.0.0.1", "[::1]:80"] {
            assert_eq!(authority(good).expect("it is good").as_str(), good);
        }
        for wrong in ["u@b", "u:p@b:80", "a b", "", "a/b"] {
            assert_eq!(authority(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_method_stays_what_the_connection_takes_it_for() {
        assert_eq!(method(&Method::GET, "POST"), Some(Method::POST));
        for wrong in ["CONNECT", "a b", ""] {
            assert_eq!(method(&Method::GET, wrong), None, "{wrong}");
        }
        assert_eq!(
            method(&Method::HEAD, "GET"),
            None,
            "the client reads no body"
        );
    }
}
