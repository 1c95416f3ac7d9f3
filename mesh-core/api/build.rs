//! Compiles the protocol definitions below `proto/`, without protoc.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// Between agent and proxy.
const NODE: &[&str] = &["weft/node/v1/node.proto"];
/// Between the observer, the relay and their clients.
const HUBBLE: &[&str] = &["observer/observer.proto", "peer/peer.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    node(&out)?;
    hubble()
}

fn node(out: &Path) -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(NODE, ["proto"])?;
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(descriptors.clone())?;
    let encoded = descriptors.encode_to_vec();
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .preserve_proto_field_names()
        .build(&[".weft"])?;
    Ok(())
}

/// The well-known types are our own here (`src/hubble/wkt.rs`): clients compare
/// the JSON byte for byte, so a time ends in `Z`, not in `+00:00`.
fn hubble() -> Result<(), Box<dyn Error>> {
    let descriptors: FileDescriptorSet = protox::compile(HUBBLE, ["proto"])?;
    let wkt = "crate::hubble::wkt";
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf.Any", format!("{wkt}::Any"))
        .extern_path(".google.protobuf.Timestamp", format!("{wkt}::Timestamp"))
        .extern_path(".google.protobuf.FieldMask", format!("{wkt}::FieldMask"))
        .extern_path(".google.protobuf.BoolValue", "bool")
        .extern_path(".google.protobuf.Int32Value", "i32")
        .extern_path(".google.protobuf.UInt32Value", "u32")
        .compile_fds(descriptors.clone())?;
    pbjson_build::Builder::new()
        .register_descriptors(&descriptors.encode_to_vec())?
        .preserve_proto_field_names()
        .ignore_unknown_fields()
        .build(&[".flow", ".observer", ".relay", ".peer"])?;
    Ok(())
}
