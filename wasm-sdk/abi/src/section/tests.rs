use proptest::prelude::*;

use super::*;

const SCHEMA: &str = r#"{"type":"object","description":"für alle"}"#;

/// A section with a length that may be wrong.
fn section(id: u8, length: &[u8], content: &[u8]) -> Vec<u8> {
    [&[id], length, content].concat()
}

/// A short one.
fn custom(name: &[u8], content: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u8::try_from(bytes).expect("short");
    let content = [&[length(name.len())], name, content].concat();
    section(CUSTOM, &[length(content.len())], &content)
}

fn component(sections: &[Vec<u8>]) -> Vec<u8> {
    [COMPONENT.to_vec(), sections.concat()].concat()
}

fn ours(content: &[u8]) -> Vec<u8> {
    custom(CONFIG_SCHEMA.as_bytes(), content)
}

#[test]
fn what_was_written_is_read() {
    for start in [COMPONENT, MODULE] {
        for schema in ["1", SCHEMA, &"x".repeat(MAX_SCHEMA)] {
            let bytes = with_config_schema(start.to_vec(), schema);
            assert_eq!(config_schema(&bytes), Ok(Some(schema)));
            assert!(bytes.ends_with(schema.as_bytes()));
        }
    }
}

#[test]
fn other_sections_are_passed_over() {
    let others = [
        custom(b"name", b"anything"),
        custom(b"", b""),
        custom(b"\xff", b""),
        section(7, &[2], &[0xff, 0xff]),
    ];
    let bytes = component(&others);
    assert_eq!(config_schema(&bytes), Ok(None));
    let bytes = with_config_schema(bytes, SCHEMA);
    assert_eq!(config_schema(&bytes), Ok(Some(SCHEMA)));
    let bytes = [bytes, others.concat()].concat();
    assert_eq!(config_schema(&bytes), Ok(Some(SCHEMA)));
}

#[test]
fn a_module_inside_of_a_component_is_not_the_component() {
    let inner = with_config_schema(MODULE.to_vec(), SCHEMA);
    let mut length = Vec::new();
    write_number(&mut length, inner.len());
    let bytes = component(&[section(1, &length, &inner)]);
    assert_eq!(config_schema(&bytes), Ok(None));
}

#[test]
fn an_empty_schema_is_none() {
    assert_eq!(config_schema(&component(&[ours(b"")])), Ok(None));
}

#[test]
fn what_is_malformed_is_said() {
    let twice = [ours(b"1"), ours(b"1")];
    let emptied = [ours(b""), ours(b"1")];
    for (bytes, why) in [
        (Vec::new(), Malformed::NoModule),
        (b"\0asm".to_vec(), Malformed::NoModule),
        (b"\0asm\x02\0\0\0".to_vec(), Malformed::NoModule),
        (b"(module)".to_vec(), Malformed::NoModule),
        (component(&twice), Malformed::Twice),
        (component(&emptied), Malformed::Twice),
        (component(&[ours(b"\xff")]), Malformed::NoText),
        (
            with_config_schema(COMPONENT.to_vec(), &"x".repeat(MAX_SCHEMA + 1)),
            Malformed::TooLong,
        ),
        // No length, one that is cut off, and ones that are too long for what follows.
        (component(&[vec![CUSTOM]]), Malformed::Sections),
        (component(&[vec![CUSTOM, 0x80]]), Malformed::Sections),
        (component(&[section(1, &[1], b"")]), Malformed::Sections),
        (
            component(&[section(1, &[0xff, 0xff, 0xff, 0xff, 0x0f], b"1")]),
            Malformed::Sections,
        ),
        // 33 bits, and six bytes.
        (
            component(&[section(1, &[0x80, 0x80, 0x80, 0x80, 0x10], b"")]),
            Malformed::Sections,
        ),
        (
            component(&[section(1, &[0x80, 0x80, 0x80, 0x80, 0x80, 0], b"")]),
            Malformed::Sections,
        ),
        // A name that is longer than its section, whatever follows.
        (
            component(&[section(CUSTOM, &[2], &[2, b'x']), ours(b"1")]),
            Malformed::Sections,
        ),
    ] {
        assert_eq!(config_schema(&bytes), Err(why), "{bytes:x?}");
        assert!(!why.to_string().is_empty());
    }
}

#[test]
fn a_number_may_be_written_longer_than_it_needs() {
    let bytes = component(&[section(1, &[0x81, 0x80, 0x80, 0x80, 0], b"1"), ours(b"1")]);
    assert_eq!(config_schema(&bytes), Ok(Some("1")));
}

#[test]
fn numbers_are_read_as_they_are_written() {
    for number in [0, 1, 127, 128, 300, 16_384, u32::MAX] {
        let mut bytes = Vec::new();
        write_number(&mut bytes, number as usize);
        let mut reader = Reader(&bytes);
        assert_eq!(reader.number(), Some(number));
        assert_eq!(reader.byte(), None);
    }
}

#[test]
fn each_part_of_a_module_is_malformed_or_has_no_schema() {
    let whole = component(&[custom(b"name", b"x"), ours(SCHEMA.as_bytes())]);
    for end in 0..whole.len() {
        assert!(
            !matches!(config_schema(&whole[..end]), Ok(Some(_))),
            "{end}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_their_end(
        component in any::<bool>(),
        bytes in prop::collection::vec(
            prop_oneof![3 => 0_u8..24, 1 => any::<u8>()],
            0..200,
        ),
    ) {
        let start = if component { COMPONENT } else { MODULE };
        let bytes = [&start[..], &bytes].concat();
        let read = config_schema(&bytes);
        // What can be read can be written to, and read again.
        if read == Ok(None) {
            let written = with_config_schema(bytes, SCHEMA);
            let read = config_schema(&written);
            prop_assert!(matches!(read, Ok(Some(SCHEMA)) | Err(Malformed::Twice)), "{read:?}");
        }
    }
}
