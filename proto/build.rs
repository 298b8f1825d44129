//! Compiles the wire definitions without `protoc`.

use std::error::Error;

const FILES: [&str; 12] = [
    "envoy/service/discovery/v3/ads.proto",
    "opentelemetry/proto/collector/logs/v1/logs_service.proto",
    "opentelemetry/proto/collector/metrics/v1/metrics_service.proto",
    "opentelemetry/proto/collector/trace/v1/trace_service.proto",
    "weft/config/v1/config.proto",
    "weft/identity/v1/identity.proto",
    "weft/quota/v1/quota.proto",
    "weft/catalog/v1/catalog.proto",
    "weft/status/v1/status.proto",
    "weft/audit/v1/audit.proto",
    "weft/ask/v1/ask.proto",
    "weft/replica/v1/replica.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    // The tests and the schema lock read the same descriptors that the code was made from.
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .build_transport(false)
        // Sorted maps: equal messages encode to equal bytes, which is what content-hash versions stand on.
        .btree_map(".weft")
        .bytes(".weft.catalog")
        .bytes(".weft.replica")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
