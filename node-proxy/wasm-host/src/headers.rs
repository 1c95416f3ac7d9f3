//! What a filter may do to headers. Both kinds of filters go through here.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::exchange::Exchange;
use crate::types::Fields;

/// Longest value that a filter may set.
pub(crate) const MAX_VALUE: usize = 16 * 1024;
/// Fields that a message may have before a filter can add no more.
const MAX_FIELDS: usize = 256;
/// Bytes of names and values that a filter may write to one exchange.
const MAX_WRITTEN: usize = 64 * 1024;

/// Why a change of headers was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("there are no such fields now")]
    Absent,
    #[error("the name is not allowed in a header")]
    Name,
    #[error("the value has a line break or another control character")]
    Value,
    #[error("the header frames the message or is the proxy's own")]
    Reserved,
    #[error("there are too many headers, or too large ones")]
    TooLarge,
}

/// Whether a value comes in place of those that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    Replace,
    Append,
}

/// Headers that say where a message ends or how the connection goes on, and the request's
/// authority, which has a place of its own.
pub(crate) fn frames(name: &HeaderName) -> bool {
    static FRAMING: [HeaderName; 7] = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::HOST,
    ];
    FRAMING.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Header names that came from a filter.
pub(crate) fn name(name: &[u8]) -> Result<HeaderName, Refusal> {
    HeaderName::from_bytes(name).map_err(|_error| Refusal::Name)
}

/// Header values that came from a filter.
pub(crate) fn value(value: &[u8]) -> Result<HeaderValue, Refusal> {
    if value.len() > MAX_VALUE {
        return Err(Refusal::TooLarge);
    }
    HeaderValue::from_bytes(value).map_err(|_error| Refusal::Value)
}

/// The values of a header.
pub(crate) fn values<'a>(
    fields: &'a HeaderMap,
    name: &[u8],
) -> impl Iterator<Item = &'a HeaderValue> {
    std::str::from_utf8(name)
        .ok()
        .map(|name| fields.get_all(name).into_iter())
        .into_iter()
        .flatten()
}

/// Sets or adds a value.
pub(crate) fn put(
    exchange: &mut dyn Exchange,
    of: Fields,
    name: HeaderName,
    value: HeaderValue,
    how: Put,
    written: &mut usize,
) -> Result<(), Refusal> {
    if frames(&name) || exchange.is_reserved(of, &name) {
        return Err(Refusal::Reserved);
    }
    let fields = exchange.fields_mut(of).ok_or(Refusal::Absent)?;
    let after = written.saturating_add(name.as_str().len() + value.len());
    if after > MAX_WRITTEN {
        return Err(Refusal::TooLarge);
    }
    let is_full = fields.len() >= MAX_FIELDS;
    if is_full && !(how == Put::Replace && fields.contains_key(&name)) {
        return Err(Refusal::TooLarge);
    }
    let put = match how {
        Put::Replace => fields.try_insert(name, value).map(|_before| ()),
        Put::Append => fields.try_append(name, value).map(|_before| ()),
    };
    put.map_err(|_full| Refusal::TooLarge)?;
    *written = after;
    Ok(())
}

/// Removes all values of a header.
pub(crate) fn remove(
    exchange: &mut dyn Exchange,
    of: Fields,
    name: &HeaderName,
) -> Result<(), Refusal> {
    if frames(name) || exchange.is_reserved(of, name) {
        return Err(Refusal::Reserved);
    }
    let fields = exchange.fields_mut(of).ok_or(Refusal::Absent)?;
    fields.remove(name);
    Ok(())
}

/// What the fields of a message are when a filter has given all of them: nothing is changed yet.
/// Those that the filter may not change stay as they are. What was there before is not judged or
/// counted again: the client sent it, not the filter. Also returns the bytes that it has written
/// then.
pub(crate) fn replaced<'a>(
    exchange: &dyn Exchange,
    of: Fields,
    pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    written: usize,
) -> Result<(HeaderMap, usize), Refusal> {
    let before = exchange.fields(of).ok_or(Refusal::Absent)?;
    let stays = |name: &HeaderName| frames(name) || exchange.is_reserved(of, name);
    let most = MAX_FIELDS.max(before.len());
    let mut fields = HeaderMap::new();
    let (mut written, mut changed) = (written, false);
    for (name, value) in before.iter().filter(|(name, _)| stays(name)) {
        fields
            .try_append(name.clone(), value.clone())
            .map_err(|_full| Refusal::TooLarge)?;
    }
    for (name, value) in pairs {
        let name = self::name(name)?;
        if stays(&name) {
            continue;
        }
        let equal = |one: &&HeaderValue| one.as_bytes() == value;
        let taken = fields.get_all(&name).into_iter().filter(equal).count();
        let known = before.get_all(&name).into_iter().filter(equal).nth(taken);
        let value = match known {
            Some(known) => known.clone(),
            None => {
                let value = self::value(value)?;
                written = written.saturating_add(name.as_str().len() + value.len());
                changed = true;
                value
            }
        };
        if written > MAX_WRITTEN || (changed && fields.len() >= most) {
            return Err(Refusal::TooLarge);
        }
        fields
            .try_append(name, value)
            .map_err(|_full| Refusal::TooLarge)?;
    }
    Ok((fields, written))
}

/// Makes the headers of a reply or a fetch from what a filter gave. Those that frame a message are
/// left out: it is framed by whoever sends it.
pub(crate) fn collect<'a>(
    pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    let mut written = 0;
    for (name, value) in pairs {
        let name = self::name(name)?;
        let value = self::value(value)?;
        written += name.as_str().len() + value.len();
        if written > MAX_WRITTEN || headers.len() >= MAX_FIELDS {
            return Err(Refusal::TooLarge);
        }
        if !frames(&name) {
            headers
                .try_append(name, value)
                .map_err(|_full| Refusal::TooLarge)?;
        }
    }
    Ok(headers)
}
