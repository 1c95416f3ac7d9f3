//! What wit-bindgen makes of the WIT text.

/// Generated.
#[expect(missing_docs, reason = "generated; the WIT text documents it")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "abi/wit",
        world: "filter",
        pub_export_macro: true,
        export_macro_name: "export_component",
        default_bindings_module: "weft_sdk::__private::bindings",
        additional_derives: [PartialEq],
    });
}

pub use bindings::weft::filter::{host, types};
