//! What wasmtime makes of the contract.

wasmtime::component::bindgen!({
    path: "../../wasm-sdk/abi/wit",
    world: "filter",
    ownership: Borrowing { duplicate_if_necessary: true },
});
