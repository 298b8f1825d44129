//! The sidecar's own program once more, so that a test that kills one always kills the present one.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    weft_sidecar::cli::main()
}
