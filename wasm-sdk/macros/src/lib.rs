//! The attribute `#[filter]`; see `weft_sdk::filter`, where it is documented.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use quote::quote;
use syn::{ImplItem, ItemImpl, parse_macro_input, parse_quote};

/// Makes a filter of an `impl Filter for X`: fills in its name, version and interests, and exports
/// it where a module is built. Documented as `weft_sdk::filter`.
#[proc_macro_attribute]
pub fn filter(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let implementation = parse_macro_input!(item as ItemImpl);
    expand(&arguments.to_string(), implementation)
        .unwrap_or_else(|err| err.to_compile_error())
        .into()
}

fn expand(
    arguments: &str,
    mut implementation: ItemImpl,
) -> Result<proc_macro2::TokenStream, syn::Error> {
    if !arguments.is_empty() {
        return Err(syn::Error::new_spanned(
            &implementation.self_ty,
            "#[filter] takes no arguments; what it fills in can be written as a const of the impl",
        ));
    }
    let is_filter = implementation
        .trait_
        .as_ref()
        .and_then(|(_, path, _)| path.segments.last())
        .is_some_and(|last| last.ident == "Filter");
    if !is_filter {
        return Err(syn::Error::new_spanned(
            &implementation.self_ty,
            "#[filter] stands before an `impl Filter for ...`",
        ));
    }
    if !implementation.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            &implementation.generics,
            "a filter has no type parameters: a module holds one filter",
        ));
    }
    let missing = |name: &str| {
        !implementation
            .items
            .iter()
            .any(|item| matches!(item, ImplItem::Const(it) if it.ident == name))
    };
    let mut constants: Vec<ImplItem> = Vec::new();
    if missing("NAME") {
        constants.push(parse_quote! {
            const NAME: &'static str = ::core::env!("CARGO_PKG_NAME");
        });
    }
    if missing("VERSION") {
        constants.push(parse_quote! {
            const VERSION: &'static str = ::core::env!("CARGO_PKG_VERSION");
        });
    }
    if missing("INTERESTS") {
        let request = has(&implementation, "on_request");
        let response = has(&implementation, "on_response");
        constants.push(parse_quote! {
            const INTERESTS: ::weft_sdk::Interests =
                ::weft_sdk::Interests::of_methods(#request, #response);
        });
    }
    constants.append(&mut implementation.items);
    implementation.items = constants;
    let name = &implementation.self_ty;
    Ok(quote! {
        #implementation
        ::weft_sdk::export!(#name);
    })
}

fn has(implementation: &ItemImpl, method: &str) -> bool {
    implementation
        .items
        .iter()
        .any(|item| matches!(item, ImplItem::Fn(it) if it.sig.ident == method))
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    fn expanded(implementation: syn::ItemImpl) -> String {
        super::expand("", implementation)
            .map_or_else(|err| err.to_string(), |tokens| tokens.to_string())
    }

    #[test]
    fn interests_follow_from_the_methods() {
        let text = expanded(parse_quote! {
            impl Filter for X {
                async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {}
            }
        });
        assert!(text.contains("of_methods (false , true)"), "{text}");
        assert!(text.contains("CARGO_PKG_NAME"), "{text}");
        assert!(text.contains(":: weft_sdk :: export ! (X)"), "{text}");
    }

    #[test]
    fn what_is_written_is_left_alone() {
        let text = expanded(parse_quote! {
            impl weft_sdk::Filter for X {
                const NAME: &'static str = "mine";
                const INTERESTS: Interests = Interests::NONE;
            }
        });
        assert!(!text.contains("CARGO_PKG_NAME"), "{text}");
        assert!(!text.contains("of_methods"), "{text}");
        assert!(text.contains("CARGO_PKG_VERSION"), "{text}");
    }

    #[test]
    fn another_trait_is_refused() {
        let text = expanded(parse_quote! { impl Clone for X {} });
        assert!(text.contains("stands before an `impl Filter"), "{text}");
        let text = expanded(parse_quote! { impl<T> Filter for X<T> {} });
        assert!(text.contains("no type parameters"), "{text}");
    }
}
