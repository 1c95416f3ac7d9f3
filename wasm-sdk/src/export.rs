//! How a filter becomes the exports of a module.

/// Exports a filter from the module that is built. `#[filter]` does it already.
///
/// Natively it does nothing, so that a crate's tests build without a host.
///
/// ```
/// use weft_sdk::prelude::*;
/// struct Nothing;
/// impl Filter for Nothing {
///     const NAME: &'static str = "nothing";
///     const VERSION: &'static str = "1.0.0";
///     const INTERESTS: Interests = Interests::empty();
///     type Config = NoConfig;
///     fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> {
///         Ok(Self)
///     }
/// }
/// weft_sdk::export!(Nothing);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export {
    ($filter:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            ::std::thread_local! {
                static RUNTIME: $crate::__private::Runtime<$filter> =
                    $crate::__private::Runtime::new();
            }

            impl $crate::__private::bindings::Guest for Component {
                fn describe() -> $crate::__private::types::Manifest {
                    $crate::__private::Runtime::<$filter>::describe()
                }

                fn configure(
                    json: ::std::vec::Vec<u8>,
                ) -> ::core::result::Result<
                    $crate::__private::types::Interests,
                    ::std::string::String,
                > {
                    $crate::__private::report_panics();
                    RUNTIME.with(|runtime| runtime.configure(&json))
                }

                fn on_event(
                    ctx: u64,
                    event: $crate::__private::types::Event,
                ) -> $crate::__private::types::Step {
                    RUNTIME.with(|runtime| runtime.on_event(ctx, event))
                }

                fn drop_context(ctx: u64) {
                    RUNTIME.with(|runtime| runtime.drop_context(ctx))
                }
            }

            $crate::__private::bindings::export_component!(
                Component with_types_in $crate::__private::bindings
            );
        };
    };
}

/// A panic becomes a trap, which says nothing of its reason: the log does.
#[cfg(target_arch = "wasm32")]
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        crate::Log::new(0).error(&panic.to_string(), &[]);
    }));
}
