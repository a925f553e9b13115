//! Compiles `proto/` with a protobuf compiler that is written in Rust: no `protoc` has to be
//! installed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = ["admin", "collective", "control", "feed", "sampler"]
        .map(|name| format!("dcgan/v1/{name}.proto"));
    let descriptors = protox::compile(files, [root])?;
    let descriptor_file = PathBuf::from(std::env::var("OUT_DIR")?).join("dcgan_descriptor.bin");
    std::fs::write(descriptor_file, descriptors.encode_to_vec())?;
    // `dcgan-coord status --json` prints these messages.
    let printed = [
        "Status",
        "NewestRow",
        "Metric",
        "WorkerStatus",
        "Outsider",
        "GoneWorker",
        "Recovery",
        "BestEvaluation",
        "Alarm",
    ]
    .map(|name| format!("dcgan.v1.{name}"));
    let builder =
        printed.iter().fold(tonic_prost_build::configure().bytes("."), |builder, name| {
            builder.type_attribute(name, "#[derive(serde::Serialize)]")
        });
    builder.compile_fds(descriptors)?;
    Ok(())
}
