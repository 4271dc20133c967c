//! The `roundel` binary: argv in, exit code out.

/// Its memory goes back to the system when connections close, which glibc's does not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    roundel::cli::main(std::env::args_os())
}
