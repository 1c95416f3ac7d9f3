//! The contract between the node proxy and its filters. Host and SDK are both made from this one
//! text, so that they cannot drift apart.
#![forbid(unsafe_code)]

pub mod section;

/// The WIT package `weft:filter`.
///
/// ```
/// assert!(weft_abi::WIT.contains("world filter"));
/// ```
pub const WIT: &str = include_str!("../wit/filter.wit");

/// Name of the world that a filter's component targets.
///
/// ```
/// assert!(weft_abi::WIT.contains(&format!("world {} {{", weft_abi::WORLD)));
/// ```
pub const WORLD: &str = "filter";

/// The package with its version: a component made for another one is refused by its name.
///
/// ```
/// assert!(weft_abi::WIT.contains(&format!("package {};", weft_abi::PACKAGE)));
/// ```
pub const PACKAGE: &str = "weft:filter@0.1.0";

#[cfg(test)]
mod tests {
    use wit_parser::{Resolve, WorldItem, WorldKey};

    fn resolved() -> (Resolve, wit_parser::WorldId) {
        let mut resolve = Resolve::default();
        let package = resolve
            .push_str("filter.wit", super::WIT)
            .expect("the text is WIT");
        let world = resolve
            .select_world(&[package], Some(super::WORLD))
            .expect("the world is in it");
        (resolve, world)
    }

    #[test]
    fn a_filter_imports_nothing_but_the_host() {
        let (resolve, world) = resolved();
        let names: Vec<String> = resolve.worlds[world]
            .imports
            .iter()
            .filter(|(_, item)| !matches!(item, WorldItem::Type { .. }))
            .map(|(key, _)| match key {
                WorldKey::Name(name) => name.clone(),
                WorldKey::Interface(id) => resolve.interfaces[*id].name.clone().unwrap_or_default(),
            })
            .collect();
        // `types` has no functions.
        assert_eq!(names, ["types", "host"]);
    }

    #[test]
    fn a_filter_exports_four_functions() {
        let (resolve, world) = resolved();
        let names: Vec<String> = resolve.worlds[world]
            .exports
            .keys()
            .map(|key| resolve.name_world_key(key))
            .collect();
        assert_eq!(names, ["describe", "configure", "on-event", "drop-context"]);
    }

    #[test]
    fn the_package_has_the_name_that_is_promised() {
        let (resolve, world) = resolved();
        let package = resolve.worlds[world].package.expect("a package");
        assert_eq!(resolve.packages[package].name.to_string(), super::PACKAGE);
    }
}
