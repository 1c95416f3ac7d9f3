//! Whether a command came to what was expected. Pure.

use serde_json::Value;

use super::script::Expect;

/// What differs, one line each; nothing when all is well.
pub(super) fn differences(expect: &Expect, exit: i32, output: &str) -> Vec<String> {
    let mut found = Vec::new();
    if exit != expect.exit {
        found.push(format!("exit code {exit} instead of {}", expect.exit));
    }
    if let Some(whole) = &expect.output
        && !matches(whole.trim_end(), output.trim_end())
    {
        found.push(format!("the output is not {:?}", whole.trim_end()));
    }
    let count = |pattern: &str| output.lines().filter(|line| matches(pattern, line)).count();
    for pattern in &expect.lines {
        if count(pattern) == 0 {
            found.push(format!("no line like: {pattern}"));
        }
    }
    for pattern in &expect.never {
        if count(pattern) > 0 {
            found.push(format!("there is a line like: {pattern}"));
        }
    }
    for (pattern, wanted) in &expect.count {
        let there = count(pattern);
        if there != *wanted {
            found.push(format!("{there} lines instead of {wanted} like: {pattern}"));
        }
    }
    if let Some(wanted) = &expect.json {
        found.extend(json_differences(wanted, output));
    }
    found
}

/// The newest line for each pattern that was looked for, in their order.
pub(super) fn telling<'a>(expect: &Expect, output: &'a str) -> Vec<&'a str> {
    let lines: Vec<_> = output.lines().collect();
    let newest = |pattern: &String| lines.iter().rposition(|line| matches(pattern, line));
    let mut places: Vec<_> = expect.lines.iter().filter_map(newest).collect();
    places.sort_unstable();
    places.dedup();
    places.into_iter().map(|place| lines[place]).collect()
}

fn json_differences(wanted: &[Value], output: &str) -> Vec<String> {
    let values = serde_json::Deserializer::from_str(output).into_iter::<Value>();
    let mut there = match values.collect::<Result<Vec<_>, _>>() {
        Ok(there) => there,
        Err(error) => return vec![format!("the output is not JSON: {error}")],
    };
    let mut found = Vec::new();
    for value in wanted {
        match there.iter().position(|there| contains(there, value)) {
            Some(place) => {
                there.remove(place);
            }
            None => found.push(format!("no JSON like: {value}")),
        }
    }
    if !there.is_empty() {
        found.push(format!("{} more JSON values than expected", there.len()));
    }
    found
}

/// Whether a value has everything that is wanted of it. Texts are patterns;
/// each element of a wanted list must be found somewhere in the list.
fn contains(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| there.get(key).is_some_and(|there| contains(there, wanted))),
        (Value::Array(there), Value::Array(wanted)) => wanted
            .iter()
            .all(|wanted| there.iter().any(|there| contains(there, wanted))),
        (Value::String(there), Value::String(wanted)) => matches(wanted, there),
        (there, wanted) => there == wanted,
    }
}

/// Whether a text is like a pattern, in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, like) in [
            ("Ship landed", "Ship landed", true),
            ("Ship", "Ship landed", false),
            ("*(ID:*) -> *:80 *", "a (ID:1) -> b:80 c", true),
            ("a*a", "a", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
        ] {
            assert_eq!(matches(pattern, text), like, "{pattern} on {text}");
        }
    }

    fn expect(yaml: &str) -> Expect {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn every_difference_is_told() {
        let expect = expect(
            "exit: 28\nlines: ['*DROPPED*', '*FORWARDED*']\nnever: ['*error*']\ncount: {'a*': 1}\n",
        );
        assert!(differences(&expect, 28, "a DROPPED\nb FORWARDED\n").is_empty());
        assert_eq!(
            differences(&expect, 0, "a DROPPED\na error\n"),
            [
                "exit code 0 instead of 28",
                "no line like: *FORWARDED*",
                "there is a line like: *error*",
                "2 lines instead of 1 like: a*",
            ]
        );
    }

    #[test]
    fn json_has_at_least_what_is_wanted_and_no_more_values() {
        let wanted = [json!({"type": "REQUEST", "headers": [{"key": "X-*"}]})];
        let output = r#"{"type": "REQUEST", "n": 1, "headers": [{"key": "A"}, {"key": "X-Id"}]}"#;
        assert!(json_differences(&wanted, output).is_empty());
        assert_eq!(json_differences(&wanted, &output.repeat(2)).len(), 1);
        assert_eq!(json_differences(&wanted, "{}").len(), 2);
        assert_eq!(json_differences(&wanted, "not").len(), 1);
    }

    #[test]
    fn what_tells_most_is_the_newest_of_each() {
        let expect = expect("lines: ['b*', 'a*', 'c*']\n");
        assert_eq!(telling(&expect, "a1\nb1\na2\nx\n"), ["b1", "a2"]);
    }

    #[test]
    fn an_empty_output_can_be_wanted() {
        let expect = expect("output: ''\n");
        assert!(differences(&expect, 0, "").is_empty());
        assert_eq!(differences(&expect, 0, "x").len(), 1);
    }
}
