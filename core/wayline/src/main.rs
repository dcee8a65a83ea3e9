//! The `wayline` command. Everything it does is in the library beside it.

use std::process::ExitCode;

/// Request handling allocates and frees in short bursts on many cores; glibc's allocator keeps what
/// such bursts leave behind.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    wayline::main()
}
