//! The program; everything is in the library.

/// Tensors are allocated anew for every result.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    dcgan_worker::main()
}
