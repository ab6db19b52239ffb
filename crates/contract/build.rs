//! Compiles the .proto files without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "hearth/v1/function.proto",
        "hearth/v1/stream.proto",
        "hearth/v1/engine.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let stream = std::env::var_os("CARGO_FEATURE_STREAM").is_some();
    tonic_prost_build::configure()
        .build_client(stream)
        .build_server(stream)
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
