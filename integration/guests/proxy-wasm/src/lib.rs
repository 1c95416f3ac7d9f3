//! Ten small filters in one module, for tests that compare proxies: the root id says which one a
//! plugin is.

#[cfg(target_arch = "wasm32")]
mod callout;
#[cfg(target_arch = "wasm32")]
mod heads;
#[cfg(target_arch = "wasm32")]
mod messages;
#[cfg(target_arch = "wasm32")]
mod root;
