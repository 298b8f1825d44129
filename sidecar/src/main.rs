//! `weft-sidecar`: the data plane of a Weft mesh as a program of its own.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    weft_sidecar::cli::main()
}
