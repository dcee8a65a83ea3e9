//! Operations to be counted: `cargo xtask instructions` runs this program under callgrind.
//!
//! `bench-instructions OPERATION COUNT` does one thing so many times inside [`measured`], and everything that
//! is the same for all of them (configuration, connections, the first requests) before; `bench-instructions
//! --list` names the operations and how often each should be done. It refuses to count anything itself.

mod lookups;
mod requests;

use std::process::ExitCode;

use wayline_benches::single::Failure;

/// The product's allocator: what it executes belongs to a request.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Something that can be done again and again.
struct Operation {
    name: &'static str,
    /// So often that what happens once in a while (a tick, a growing table) is no part of the count.
    count: usize,
    run: fn(usize) -> Result<(), Failure>,
}

const REQUESTS: usize = 5_000;
const LOOKUPS: usize = 50_000;

const OPERATIONS: [Operation; 10] = [
    Operation {
        name: "direct",
        count: REQUESTS,
        run: requests::direct,
    },
    Operation {
        name: "plain",
        count: REQUESTS,
        run: requests::plain,
    },
    Operation {
        name: "plain-policy",
        count: REQUESTS,
        run: requests::plain_policy,
    },
    Operation {
        name: "hbone-plain",
        count: REQUESTS,
        run: requests::hbone,
    },
    Operation {
        name: "tunnel-open",
        count: REQUESTS,
        run: requests::tunnel_open,
    },
    Operation {
        name: "route-1",
        count: LOOKUPS,
        run: |count| lookups::route(1, count),
    },
    Operation {
        name: "route-1000",
        count: LOOKUPS,
        run: |count| lookups::route(1_000, count),
    },
    Operation {
        name: "route-10000",
        count: LOOKUPS,
        run: |count| lookups::route(10_000, count),
    },
    Operation {
        name: "policy-10",
        count: LOOKUPS,
        run: |count| lookups::policy(0, count),
    },
    Operation {
        name: "policy-10000",
        count: LOOKUPS,
        run: |count| lookups::policy(10_000, count),
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["--list"] => {
            for operation in &OPERATIONS {
                println!("{} {}", operation.name, operation.count);
            }
            Ok(())
        }
        [name, count] => run(name, count),
        _ => Err("start it with `cargo xtask instructions`".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench-instructions: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What is counted: callgrind collects while this function is on the stack.
#[inline(never)]
pub(crate) fn measured<T>(work: impl FnOnce() -> T) -> T {
    // Looked at here, lest the call becomes a jump and the function is left at once.
    std::hint::black_box(work())
}

fn run(name: &str, count: &str) -> Result<(), Failure> {
    let operation = OPERATIONS.iter().find(|operation| operation.name == name);
    let operation = operation.ok_or_else(|| format!("there is no operation {name}"))?;
    (operation.run)(count.parse()?)
}
