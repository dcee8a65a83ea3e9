//! The functions that modules import, one file per concern, and linking a module to them.

mod base;
mod buffers;
mod callouts;
mod foreign;
mod maps;
mod metrics;
mod properties;
mod shared;
mod streams;
mod wasi;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmtime::{
    Caller, Engine, ExternType, FuncType, InstancePre, Linker, Module, Val, ValType, WasmRet,
    WasmTy,
};

use crate::abi::{HOST, WASI, number_of};
use crate::error::LoadError;
use crate::state::State;
use crate::status::{Answer, Status, code};

/// A module with its imports resolved.
pub(crate) struct Linked {
    pub(crate) pre: InstancePre<State>,
    /// Functions that nobody offers, as `module.name`.
    pub(crate) missing: Vec<Arc<str>>,
}

/// Resolves a module's imports. The same import may be there twice, and old SDKs declare some without
/// the status that they answer: what the module declares is what it gets.
pub(crate) fn link(engine: &Engine, module: &Module) -> Result<Linked, LoadError> {
    let broken = |error: wasmtime::Error| LoadError::Artifact(format!("{error:#}").into());
    let mut table = Table {
        linker: Linker::new(engine),
        offered: Vec::new(),
    };
    table.linker.allow_shadowing(true);
    offer(&mut table).map_err(broken)?;
    let mut missing: Vec<Arc<str>> = Vec::new();
    for import in module.imports() {
        let ExternType::Func(wanted) = import.ty() else {
            return Err(LoadError::Import {
                module: import.module().into(),
                name: import.name().into(),
            });
        };
        if table.offers(import.module(), import.name(), &wanted) {
            continue;
        }
        let name: Arc<str> = format!("{}.{}", import.module(), import.name()).into();
        if table.adapt(import.name(), &wanted).map_err(broken)? {
            continue;
        }
        table
            .stub(import.module(), import.name(), wanted)
            .map_err(broken)?;
        if !missing.contains(&name) {
            missing.push(name);
        }
    }
    let pre = table.linker.instantiate_pre(module).map_err(broken)?;
    Ok(Linked { pre, missing })
}

/// What host functions answer. A trap of the module's allocator ends the call they were made in.
pub(crate) fn answer(caller: &mut Caller<'_, State>, answer: Answer) -> wasmtime::Result<u32> {
    match caller.data_mut().trapped.take() {
        Some(trap) => Err(trap),
        None => Ok(code(answer)),
    }
}

/// Host functions with the types by which they can be linked.
struct Table {
    linker: Linker<State>,
    offered: Vec<(&'static str, &'static str, Types)>,
}

/// Parameters and results.
type Types = (Vec<char>, Vec<char>);

impl Table {
    /// Offers a function to modules.
    fn offer<M, F: Typed<M>>(
        &mut self,
        module: &'static str,
        name: &'static str,
        function: F,
    ) -> wasmtime::Result<()> {
        let number = number_of(module, name)
            .ok_or_else(|| wasmtime::Error::msg(format!("{module}.{name} is not in the list")))?;
        self.offered.push((module, name, F::types()));
        function.link(&mut self.linker, (module, name), number)
    }

    fn offers(&self, module: &str, name: &str, wanted: &FuncType) -> bool {
        let kinds = |types: &mut dyn Iterator<Item = ValType>| -> Vec<char> {
            types.map(|kind| kind_of(&kind)).collect()
        };
        let wanted = (kinds(&mut wanted.params()), kinds(&mut wanted.results()));
        self.offered
            .iter()
            .any(|offered| (offered.0, offered.1) == (module, name) && offered.2 == wanted)
    }

    /// Links what 0.1.0 has by two signatures. Says whether it did.
    fn adapt(&mut self, name: &str, wanted: &FuncType) -> wasmtime::Result<bool> {
        if wanted.params().len() + wanted.results().len() > 0 {
            return Ok(false);
        }
        match name {
            "proxy_continue_request" => {
                self.linker
                    .func_wrap(HOST, name, |caller: Caller<'_, State>| {
                        streams::continue_request(caller);
                    })?;
            }
            "proxy_continue_response" => {
                self.linker
                    .func_wrap(HOST, name, |caller: Caller<'_, State>| {
                        streams::continue_response(caller);
                    })?;
            }
            "proxy_clear_route_cache" => {
                self.linker
                    .func_wrap(HOST, name, |_: Caller<'_, State>| {})?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Links a function that fails, and says so in the log once.
    fn stub(&mut self, module: &str, name: &str, wanted: FuncType) -> wasmtime::Result<()> {
        let failure = if WASI.contains(&module) {
            wasi::NOSYS
        } else {
            Status::Unimplemented as u32
        };
        let (kinds, told) = (wanted.clone(), AtomicBool::new(false));
        let full = format!("{module}.{name}");
        self.linker
            .func_new(module, name, wanted, move |caller, _, results| {
                if !told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        plugin = &*caller.data().plugin.name,
                        function = &*full,
                        "a Wasm plugin calls a function that is not offered: it fails"
                    );
                }
                for (result, kind) in results.iter_mut().zip(kinds.results()) {
                    *result = match kind {
                        ValType::I32 => Val::I32(failure.cast_signed()),
                        kind => Val::default_for_ty(&kind)
                            .ok_or_else(|| wasmtime::Error::msg("no such function"))?,
                    };
                }
                Ok(())
            })?;
        Ok(())
    }
}

fn kind_of(kind: &ValType) -> char {
    match kind {
        ValType::I32 => 'i',
        ValType::I64 => 'I',
        _ => '?',
    }
}

/// Functions whose types can be told before there is a store, and whose calls are counted.
trait Typed<M> {
    fn types() -> Types;

    fn link(
        self,
        linker: &mut Linker<State>,
        name: (&str, &str),
        number: usize,
    ) -> wasmtime::Result<()>;
}

/// What a host function takes or answers.
trait Kind {
    fn kinds() -> Vec<char>;
}

impl Kind for () {
    fn kinds() -> Vec<char> {
        Vec::new()
    }
}

impl Kind for u32 {
    fn kinds() -> Vec<char> {
        vec!['i']
    }
}

impl Kind for u64 {
    fn kinds() -> Vec<char> {
        vec!['I']
    }
}

impl Kind for i64 {
    fn kinds() -> Vec<char> {
        vec!['I']
    }
}

impl<K: Kind> Kind for wasmtime::Result<K> {
    fn kinds() -> Vec<char> {
        K::kinds()
    }
}

macro_rules! typed {
    ($($input:ident)*) => {
        impl<F, R, $($input),*> Typed<(R, $($input,)*)> for F
        where
            F: Fn(Caller<'_, State>, $($input),*) -> R + Send + Sync + 'static,
            R: Kind + WasmRet,
            $($input: Kind + WasmTy,)*
        {
            fn types() -> Types {
                ([$($input::kinds(),)* Vec::new()].concat(), R::kinds())
            }

            #[allow(non_snake_case, reason = "a parameter has the name of its type")]
            fn link(
                self,
                linker: &mut Linker<State>,
                (module, name): (&str, &str),
                number: usize,
            ) -> wasmtime::Result<()> {
                let counted = move |caller: Caller<'_, State>, $($input: $input),*| {
                    caller.data().tally.host_call(number);
                    self(caller, $($input),*)
                };
                linker.func_wrap(module, name, counted)?;
                Ok(())
            }
        }
    };
}

typed!();
typed!(A);
typed!(A B);
typed!(A B C);
typed!(A B C D);
typed!(A B C D E);
typed!(A B C D E G);
typed!(A B C D E G H);
typed!(A B C D E G H I);
typed!(A B C D E G H I J);
typed!(A B C D E G H I J K);
typed!(A B C D E G H I J K L);
typed!(A B C D E G H I J K L N);

fn offer(table: &mut Table) -> wasmtime::Result<()> {
    base::offer(table)?;
    buffers::offer(table)?;
    callouts::offer(table)?;
    foreign::offer(table)?;
    maps::offer(table)?;
    metrics::offer(table)?;
    properties::offer(table)?;
    shared::offer(table)?;
    streams::offer(table)?;
    wasi::offer(table)
}
