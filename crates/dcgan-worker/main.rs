//! The program. Everything is in the library, where tests can reach it.

/// A step allocates and frees hundreds of tensors; mimalloc is faster at that than the system's
/// allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    dcgan_worker::main()
}
