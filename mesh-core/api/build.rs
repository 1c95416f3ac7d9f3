//! Compiles the protocol definitions below `proto/`, without protoc.

use std::error::Error;
use std::path::PathBuf;

const FILES: &[&str] = &["weft/node/v1/node.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(descriptors.clone())?;
    let encoded = prost_encode(&descriptors);
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .preserve_proto_field_names()
        .build(&[".weft"])?;
    Ok(())
}

fn prost_encode(descriptors: &prost_types::FileDescriptorSet) -> Vec<u8> {
    use prost::Message as _;
    descriptors.encode_to_vec()
}
