//! Reading and writing the parts that all objects share, on untyped JSON.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

/// Characters of generated names: no vowels and no look-alikes, as Kubernetes has it.
const NAME_CHARACTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A text field of `metadata`, "" when absent.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    meta(object, "name")
}

/// `metadata.namespace`, "" for cluster-scoped objects.
pub fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    meta(object, "uid")
}

/// True once deletion has been asked for.
pub fn is_deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// One label's value.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["labels"][key].as_str()
}

/// The list at a JSON pointer; empty when it is absent.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The number at a JSON pointer; 0 when it is absent.
pub fn number(object: &Value, pointer: &str) -> i64 {
    object
        .pointer(pointer)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

/// The text at a JSON pointer; "" when it is absent.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The object inside `parent[key]`, made (in place of null or anything else) when there is none.
pub fn child<'a>(parent: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !parent.is_object() {
        *parent = json!({});
    }
    let slot = &mut parent[key];
    if !slot.is_object() {
        *slot = json!({});
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// The slot for `parent[key]`; `parent` becomes a map when it is none.
pub fn child_or_null<'a>(parent: &'a mut Value, key: &str) -> &'a mut Value {
    if !parent.is_object() {
        *parent = json!({});
    }
    &mut parent[key]
}

/// `metadata`, made when there is none.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// True when the object has a condition of that type with status True.
pub fn has_condition(object: &Value, kind: &str) -> bool {
    list(object, "/status/conditions")
        .iter()
        .any(|c| c["type"] == kind && c["status"] == "True")
}

/// The owner reference that says `controller: true`.
pub fn controller_of(object: &Value) -> Option<&Value> {
    list(object, "/metadata/ownerReferences")
        .iter()
        .find(|o| o["controller"] == true)
}

/// True when the controller of `object` has that uid.
pub fn is_controlled_by(object: &Value, owner_uid: &str) -> bool {
    controller_of(object).is_some_and(|o| o["uid"] == owner_uid)
}

/// The owner reference to put on what `owner` makes.
pub fn owner_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name(owner), "uid": uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// Now, to the second, as `metadata` timestamps are written.
pub fn now() -> String {
    in_seconds(0)
}

/// So many seconds from now.
pub fn in_seconds(seconds: i64) -> String {
    let time = Timestamp::now().saturating_add(SignedDuration::from_secs(seconds));
    let second = time.unwrap_or(Timestamp::MAX).as_second();
    Timestamp::from_second(second).map_or_else(|_| String::new(), |t| t.to_string())
}

/// So many characters for a generated name.
pub fn name_suffix(length: usize) -> String {
    let mut out = String::with_capacity(length);
    while out.len() < length {
        let bytes = uuid::Uuid::new_v4().into_bytes();
        let wanted = length - out.len();
        // Of a version 4 UUID, bytes 6 and 8 are partly fixed.
        let random = bytes.iter().enumerate().filter(|(i, _)| *i != 6 && *i != 8);
        out.extend(random.take(wanted).map(|(_, b)| safe_character(*b)));
    }
    out
}

/// Text of digits in the characters of generated names: `pod-template-hash` labels.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(safe_character).collect()
}

fn safe_character(byte: u8) -> char {
    char::from(NAME_CHARACTERS[usize::from(byte) % NAME_CHARACTERS.len()])
}

/// A short hash of a pod template, stable under the order of keys.
pub fn template_hash(template: &Value) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in canonical(template).to_string().bytes() {
        hash ^= u32::from(byte);
        hash = hash.wrapping_mul(0x0100_0193);
    }
    safe_encode(&hash.to_string())
}

fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            let sorted = entries.into_iter().map(|(k, v)| (k.clone(), canonical(v)));
            Value::Object(sorted.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_ignore_key_order_and_use_the_alphabet() {
        let one = json!({"a": 1, "b": {"c": [1, 2], "d": null}});
        let two = json!({"b": {"c": [1, 2]}, "a": 1});
        assert_eq!(template_hash(&one), template_hash(&two));
        assert_ne!(template_hash(&one), template_hash(&json!({"a": 2})));
        // Digits can only become these: which is why real hashes look like b4b8ccfb5.
        assert!(
            template_hash(&one)
                .chars()
                .all(|c| "456789bcdf".contains(c))
        );
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn suffixes_have_the_asked_length() {
        for length in [0, 5, 14, 15, 40] {
            let suffix = name_suffix(length);
            assert_eq!(suffix.len(), length);
            assert!(suffix.bytes().all(|b| NAME_CHARACTERS.contains(&b)));
        }
    }
}
