//! What a request must be before anything is decided about it.

use std::borrow::Cow;

use http::header::{COOKIE, HOST};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use weft_core::policy::http::{NormalizeError, normalize};

use crate::failure::Failure;
use crate::http::alphanumeric_and;

/// What is left to do about the path of an admitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Nothing: the request is forwarded with it.
    Plain,
    /// It held an escaped slash, about which servers disagree: an allowed
    /// request is sent back to ask for the path as it was judged.
    Redirect,
}

/// Checks what HTTP/1 and HTTP/2 have in common and brings both into one
/// form: an authority that is neither missing nor ambiguous, and a path that
/// is normalised, since what is judged is what is forwarded.
///
/// # Errors
/// [`Failure::Malformed`], [`Failure::Connect`], [`Failure::UriTooLong`] or
/// [`Failure::HeadTooLarge`].
pub fn admit(head: &mut Parts, max_uri: usize, max_headers: usize) -> Result<Path, Failure> {
    if head.method == Method::CONNECT {
        return Err(Failure::Connect);
    }
    // The strict reader has counted those of HTTP/1.
    if head.version >= Version::HTTP_2 {
        if head.headers.len() > max_headers {
            return Err(Failure::HeadTooLarge);
        }
        join_cookies(&mut head.headers);
    }
    one_authority(head)?;
    normalise(head, max_uri)
}

/// HTTP/2 may send a cookie in crumbs, for compression; nothing else may see
/// them so (RFC 9113, section 8.2.3). Rules judge, and HTTP/1 servers read, the
/// one line that it stands for.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(COOKIE).iter();
    let crumbs: Vec<&[u8]> = crumbs.map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// Whether a host is surely valid: a name or an IPv4 address, of letters,
/// digits, `.` and `-`, and perhaps a port. Nearly all are.
fn plain(host: &str) -> bool {
    const PLAIN: [bool; 256] = alphanumeric_and(b".-");
    let bytes = host.as_bytes();
    let end = bytes.iter().position(|byte| !PLAIN[usize::from(*byte)]);
    match end.map(|end| bytes.split_at(end)) {
        None => true,
        Some((name, [b':', port @ ..])) => {
            !name.is_empty() && !port.is_empty() && port.iter().all(u8::is_ascii_digit)
        }
        Some(_) => false,
    }
}

/// Every request names one host: in the URI, in `host`, or in both alike.
fn one_authority(head: &mut Parts) -> Result<(), Failure> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Failure::Malformed("more than one host"));
    }
    let host = host
        .map(|host| host.to_str().map_err(|_error| Failure::Malformed("host")))
        .transpose()?;
    match (head.uri.authority(), host) {
        (None, None) if head.version < Version::HTTP_11 => Ok(()),
        (None, None) => Err(Failure::Malformed("no host")),
        (None, Some(host)) => {
            // Userinfo has no place in it, and an empty one names nobody.
            if plain(host) || host.parse::<Authority>().is_ok() && !host.contains('@') {
                Ok(())
            } else {
                Err(Failure::Malformed("host"))
            }
        }
        (Some(authority), _) if authority.as_str().contains('@') => {
            Err(Failure::Malformed("userinfo in the authority"))
        }
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(Failure::Malformed("host differs from the authority"))
        }
        (Some(_), _) => Ok(()),
    }
}

/// Normalises the path, keeps the query as it is.
fn normalise(head: &mut Parts, max_uri: usize) -> Result<Path, Failure> {
    let target = match head.uri.path_and_query().map(PathAndQuery::as_str) {
        None | Some("") => "/",
        Some(target) => target,
    };
    if target.len() > max_uri {
        return Err(Failure::UriTooLong);
    }
    if target == "*" && head.method != Method::OPTIONS {
        // Only OPTIONS may speak of the whole server (RFC 9112, 3.2.4).
        return Err(Failure::Malformed("target"));
    }
    let normal = normalize(target).map_err(refused)?;
    let path = if normal.redirect {
        Path::Redirect
    } else {
        Path::Plain
    };
    let Cow::Owned(changed) = normal.target else {
        return Ok(path);
    };
    let changed: PathAndQuery = changed
        .parse()
        .map_err(|_error| Failure::Malformed("target"))?;
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(changed);
    head.uri = Uri::from_parts(parts).map_err(|_error| Failure::Malformed("target"))?;
    Ok(path)
}

fn refused(error: NormalizeError) -> Failure {
    Failure::Malformed(match error {
        NormalizeError::NotAbsolute => "target is not a path",
        NormalizeError::Nul => "null byte in path",
        NormalizeError::BadEscape => "invalid percent-encoding in path",
        NormalizeError::BadCharacter => "invalid character in path",
    })
}

#[cfg(test)]
mod tests {
    use http::request::Parts;
    use http::{HeaderValue, Method, Request, Version};

    use http::uri::Authority;

    use super::{Path, admit, plain};
    use crate::failure::Failure;

    fn head(method: Method, uri: &str, hosts: &[&str], version: Version) -> Parts {
        let mut request = Request::builder().method(method).uri(uri).version(version);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).expect("valid").into_parts().0
    }

    fn get(uri: &str, hosts: &[&str]) -> Result<Parts, Failure> {
        let mut head = head(Method::GET, uri, hosts, Version::HTTP_11);
        admit(&mut head, 1024, 4).map(|_path| head)
    }

    #[test]
    fn a_plain_host_is_an_authority() {
        let hosts = [
            "a", "a.b", "1.2.3.4", "a:80", "a:", ":80", "a:b", "a:8:0", "a@b", "[::1]",
        ];
        let found: Vec<_> = hosts.into_iter().filter(|host| plain(host)).collect();
        assert_eq!(found, ["a", "a.b", "1.2.3.4", "a:80"]);
        assert!(found.iter().all(|host| host.parse::<Authority>().is_ok()));
    }

    #[test]
    fn a_request_names_one_host() {
        assert!(get("/", &["a"]).is_ok());
        assert!(get("http://a/", &["A"]).is_ok());
        assert!(get("/", &[]).is_err());
        assert!(get("/", &["a", "a"]).is_err());
        assert!(get("http://a/", &["b"]).is_err());
        assert!(get("/", &["user@a"]).is_err());
        assert!(get("/", &["a b"]).is_err());
        let mut old = head(Method::GET, "/", &[], Version::HTTP_10);
        assert_eq!(admit(&mut old, 1024, 4), Ok(Path::Plain));
    }

    #[test]
    fn what_is_judged_is_what_is_forwarded() {
        let head = get("//admin/./x/../y?q=/../z", &["a"]).expect("normalised");
        assert_eq!(
            head.uri.path_and_query().expect("path").as_str(),
            "/admin/y?q=/../z"
        );
    }

    #[test]
    fn paths_that_hide_something_are_refused_or_asked_for_again() {
        for path in ["/%00", "/%zz"] {
            assert!(
                matches!(get(path, &["a"]), Err(Failure::Malformed(_))),
                "{path}"
            );
        }
        for path in ["/x/..%2fadmin", "/x/..%5cadmin"] {
            let mut head = head(Method::GET, path, &["a"], Version::HTTP_11);
            assert_eq!(admit(&mut head, 1024, 4), Ok(Path::Redirect), "{path}");
            assert_eq!(head.uri.path(), "/admin", "{path}");
        }
    }

    #[test]
    fn crumbs_of_a_cookie_are_counted_and_joined() {
        let with = |crumbs: &[&'static str]| {
            let mut head = head(Method::GET, "http://a/", &[], Version::HTTP_2);
            for crumb in crumbs {
                head.headers
                    .append("cookie", HeaderValue::from_static(crumb));
            }
            admit(&mut head, 1024, 4).map(|_path| head)
        };
        let head = with(&["a=1", "b=2", "c=3"]).expect("admitted");
        let lines: Vec<_> = head.headers.get_all("cookie").iter().collect();
        assert_eq!(lines, ["a=1; b=2; c=3"]);
        assert_eq!(with(&["a"; 5]).map(|_| ()), Err(Failure::HeadTooLarge));
    }

    #[test]
    fn long_targets_and_connect_are_refused() {
        let long = format!("/{}", "x".repeat(1024));
        assert_eq!(get(&long, &["a"]).map(|_| ()), Err(Failure::UriTooLong));
        let mut connect = head(Method::CONNECT, "a:80", &["a:80"], Version::HTTP_11);
        assert_eq!(admit(&mut connect, 1024, 4), Err(Failure::Connect));
    }
}
