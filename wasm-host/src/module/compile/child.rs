//! The compiler's side: confine ourselves, read a module, write what it becomes.

use std::io::{self, Read as _, Write as _};

use rustix::process::{Resource, Rlimit, setrlimit};
use wasmparser::{FunctionBody, Operator, Parser, Payload};
use wayline_model::defence::stands;

use super::REFUSED;
use crate::engine::Engine;
use crate::inspect::MAX_MODULE_BYTES;

/// Blocks within blocks at the most. Compilers of real languages nest as many as a `switch` has cases.
const MAX_NESTING: u32 = 10_000;

/// Is the compiler: a module comes in on stdin, code goes out on stdout, a sentence about a module that
/// is refused on stderr. To be called before anything else in a process of its own, which is not to be
/// used afterwards: its limits stay. Returns the exit status.
#[must_use]
pub fn run_child(cpu_seconds: u64, memory: u64) -> u8 {
    match confine(cpu_seconds, memory)
        .map_err(|error| {
            format!("the compiler can not be confined: {error}; look at the limits of this process")
        })
        .and_then(|()| compile())
    {
        Ok(()) => 0,
        Err(reason) => {
            // Where nobody listens, the status says enough.
            let _ = writeln!(io::stderr(), "{reason}");
            REFUSED
        }
    }
}

fn confine(cpu_seconds: u64, memory: u64) -> io::Result<()> {
    // The hard limit is where the kernel kills, a second after it has told.
    limit(Resource::Cpu, cpu_seconds, cpu_seconds.saturating_add(1))?;
    limit(Resource::As, memory, memory)?;
    limit(Resource::Core, 0, 0)?;
    // All that follows is for the others' sake, and is not worth failing for.
    let _ = rustix::process::setpriority_process(None, 10);
    #[cfg(target_os = "linux")]
    {
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
        let kill = rustix::process::Signal::KILL;
        let _ = rustix::process::set_parent_process_death_signal(Some(kill));
    }
    Ok(())
}

fn limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let ours = rustix::process::getrlimit(resource);
    // What we have been limited to already can not be raised.
    let hard = hard.min(ours.maximum.unwrap_or(u64::MAX));
    let new = Rlimit {
        current: Some(soft.min(hard)),
        maximum: Some(hard),
    };
    setrlimit(resource, new).map_err(io::Error::from)
}

fn compile() -> Result<(), String> {
    let mut module = Vec::new();
    io::stdin()
        .take(MAX_MODULE_BYTES as u64 + 1)
        .read_to_end(&mut module)
        .map_err(|error| format!("the module can not be read: {error}; try again"))?;
    crate::inspect::inspect(&module).map_err(|error| error.to_string())?;
    check_nesting(&module)?;
    let code = Engine::for_compilation()
        .and_then(|engine| engine.precompile(&module))
        .map_err(|error| error.to_string())?;
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&code)
        .and_then(|()| stdout.flush())
        .map_err(|error| format!("nobody takes the code: {error}; try again"))
}

/// Refuses what would keep a compiler busy for nothing but its depth.
fn check_nesting(module: &[u8]) -> Result<(), String> {
    for payload in Parser::new(0).parse_all(module) {
        if let Ok(Payload::CodeSectionEntry(body)) = payload
            && nesting(&body).is_ok_and(|depth| depth > MAX_NESTING)
            && stands("compile-nesting")
        {
            return Err(format!(
                "a function of it nests more than {MAX_NESTING} blocks; split it"
            ));
        }
    }
    Ok(())
}

fn nesting(body: &FunctionBody<'_>) -> wasmparser::Result<u32> {
    let (mut depth, mut deepest) = (0_u32, 0);
    for operator in body.get_operators_reader()? {
        match operator? {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            Operator::End => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(deepest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn nested(depth: usize) -> Vec<u8> {
        let text = format!(
            "(module (func {} {}))",
            "block ".repeat(depth),
            "end ".repeat(depth)
        );
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn depth_has_a_limit() {
        let most = MAX_NESTING as usize;
        assert_eq!(check_nesting(&nested(most)), Ok(()));
        assert!(
            check_nesting(&nested(most + 1))
                .unwrap_err()
                .contains("nests")
        );
    }
}
