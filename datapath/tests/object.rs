//! What the compiled programs must be like for any compiler's code to pass the
//! verifier, read from the object's own type information (BTF).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, and so do its helpers"
)]

use std::collections::BTreeMap;

use weft_datapath::testing::object;

// Kinds of types, from the kernel's `btf.h`.
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// A type as it is in the section: name, kind, and its size or the type that it
/// refers to.
struct Type {
    name: String,
    kind: u32,
    size_or_type: u32,
}

/// What a function gives back.
#[derive(Debug, PartialEq, Eq)]
enum Returned {
    Nothing,
    /// An integer or a pointer: one register, all of it written.
    Number,
    /// Anything else, by its bytes.
    Bytes(u32),
}

fn word(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().unwrap())
}

fn long(data: &[u8], at: usize) -> usize {
    u64::from_le_bytes(data[at..at + 8].try_into().unwrap()) as usize
}

fn short(data: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(data[at..at + 2].try_into().unwrap()))
}

fn string(data: &[u8], at: usize) -> String {
    let bytes = data[at..].iter().take_while(|byte| **byte != 0);
    String::from_utf8(bytes.copied().collect()).unwrap()
}

/// A section of a 64-bit ELF file.
fn section<'a>(elf: &'a [u8], wanted: &str) -> &'a [u8] {
    let (table, size) = (long(elf, 0x28), short(elf, 0x3a));
    let (count, of_names) = (short(elf, 0x3c), short(elf, 0x3e));
    let header = |index: usize| &elf[table + index * size..][..size];
    let body = |index: usize| {
        let header = header(index);
        &elf[long(header, 0x18)..][..long(header, 0x20)]
    };
    let found =
        (0..count).find(|index| string(body(of_names), word(header(*index), 0) as usize) == wanted);
    body(found.unwrap_or_else(|| panic!("the object has no section {wanted}")))
}

/// All types, by number; number 0 stands for none.
fn types(btf: &[u8]) -> BTreeMap<u32, Type> {
    let header = word(btf, 4) as usize;
    let part = |at: usize| &btf[header + word(btf, at) as usize..][..word(btf, at + 4) as usize];
    let (types, strings) = (part(8), part(16));
    let mut found = BTreeMap::new();
    let mut at = 0;
    while at < types.len() {
        let info = word(types, at + 4);
        let (kind, members) = (info >> 24 & 31, (info & 0xffff) as usize);
        let one = Type {
            name: string(strings, word(types, at) as usize),
            kind,
            size_or_type: word(types, at + 8),
        };
        found.insert(found.len() as u32 + 1, one);
        at += 12
            + match kind {
                INT | VAR | DECL_TAG => 4,
                ARRAY => 12,
                STRUCT | UNION | DATASEC | ENUM64 => 12 * members,
                ENUM | FUNC_PROTO => 8 * members,
                _ => 0,
            };
    }
    found
}

/// The functions that are left after inlining, programs and called ones.
fn functions() -> Vec<(String, Returned)> {
    let types = types(section(object(), ".BTF"));
    let functions = types.values().filter(|one| one.kind == FUNC);
    let returned = |function: &Type| {
        let prototype = &types[&function.size_or_type];
        assert_eq!(prototype.kind, FUNC_PROTO, "{}", function.name);
        match types.get(&prototype.size_or_type) {
            None => Returned::Nothing,
            Some(one) if matches!(one.kind, INT | PTR) => Returned::Number,
            Some(one) => Returned::Bytes(one.size_or_type),
        }
    };
    functions
        .map(|one| (one.name.clone(), returned(one)))
        .collect()
}

/// The verifier refuses a program that reads bytes of a register that nobody
/// wrote. A function that is not inlined returns a `Result<u16, _>` or a larger
/// one in such a register, or through memory of its caller: whether all of it is
/// written is the compiler's whim.
#[test]
fn functions_return_a_byte_or_a_number() {
    let functions = functions();
    for (name, returned) in &functions {
        assert!(
            !matches!(returned, Returned::Bytes(2..)),
            "{name} returns {returned:?}: make it inline(always), or give it an out parameter"
        );
    }
    // What the rule is about was found at all.
    let has = |name: &str, returned: Returned| {
        let found = functions
            .iter()
            .any(|one| one.0 == name && one.1 == returned);
        assert!(found, "{name} is not among {functions:?}");
    };
    for program in ["from_pod", "to_pod", "from_net", "to_net", "to_overlay"] {
        has(program, Returned::Number);
    }
    has("judge", Returned::Bytes(1));
    has("inward", Returned::Bytes(1));
    has("from_proxy", Returned::Bytes(1));
    has("identity_of", Returned::Number);
}
