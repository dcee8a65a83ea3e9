//! Reading a module without running it.
//!
//! [`inspect`] looks at the sections that say what a module offers and wants. Function bodies are
//! skipped: that they are valid is found when a module is compiled.

use std::collections::BTreeSet;

use serde::Serialize;
use thiserror::Error;
use wasmparser::{BinaryReaderError, Encoding, ExternalKind, MemoryType, Parser, Payload, TypeRef};

use crate::abi::{self, AbiVersion};

/// Size in bytes above which a module is not looked at.
pub const MAX_MODULE_BYTES: usize = 16 * 1024 * 1024;

/// What a module is, by its own account.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// Size of the module in bytes.
    pub bytes: usize,
    /// The ABI it is written for: the newest that it declares and that we know.
    pub abi: Option<AbiVersion>,
    /// Exports that look like a declaration of an ABI we do not know, sorted.
    pub unknown_abis: Vec<String>,
    /// What is called once after instantiation, in this order: `_initialize` and then `main` or
    /// `__main_void`; or else `_start`.
    pub entry_points: Vec<&'static str>,
    /// The export that gives the host memory to write into.
    pub allocator: Option<&'static str>,
    /// Exports that are called when something happens, sorted.
    pub callbacks: Vec<String>,
    /// Exports that look like callbacks and that nobody will ever call, sorted.
    pub unknown_callbacks: Vec<String>,
    /// What it wants from the host.
    pub imports: Imports,
    /// Its memories, imported ones first.
    pub memories: Vec<Memory>,
}

/// What a module wants from its host. Each list is sorted and names everything once, though modules
/// may import the same function twice.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Imports {
    /// Functions of the Proxy-Wasm ABI.
    pub proxy: Vec<String>,
    /// Functions of WASI preview 1.
    pub wasi: Vec<String>,
    /// All others.
    pub unknown: Vec<Import>,
}

/// An import that no host of this ABI knows.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Import {
    /// The module it is imported from.
    pub module: String,
    /// Its name there.
    pub name: String,
    /// `function`, `memory`, `table`, `global` or `tag`.
    pub kind: &'static str,
}

/// A linear memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Size at the start, in pages.
    pub min_pages: u64,
    /// Size up to which the module lets it grow, in pages; none: as far as the host allows.
    pub max_pages: Option<u64>,
    /// Whether threads share it.
    pub shared: bool,
    /// Whether its addresses have 64 bits.
    pub memory64: bool,
}

/// Why something is no module that could be looked at.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum InspectError {
    /// Larger than [`MAX_MODULE_BYTES`].
    #[error(
        "the module is {bytes} bytes long and {MAX_MODULE_BYTES} are allowed; build it in release mode and strip its debug information"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Another kind of file.
    #[error(
        "this is no WebAssembly module: it does not start with \\0asm; compile the filter for wasm32-wasip1, and unpack archives and images"
    )]
    NotWasm,
    /// A component, as wasm32-wasip2 makes them.
    #[error(
        "this is a WebAssembly component, and Proxy-Wasm filters are core modules; compile the filter for wasm32-wasip1"
    )]
    Component,
    /// It starts like a module and goes on like none.
    #[error("the module is broken at byte {offset}: {reason}; build or download it again")]
    Malformed {
        /// Where, in bytes from the start.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

/// A reason for which a module that can be read is not hosted.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Obstacle {
    /// It declares no ABI that we speak.
    #[error(
        "it exports none of proxy_abi_version_0_1_0, _0_2_0 and _0_2_1{}; build it with a Proxy-Wasm SDK",
        declared(.unknown)
    )]
    Abi {
        /// What it declares instead.
        unknown: Vec<String>,
    },
    /// The host could hand it nothing.
    #[error(
        "it exports neither proxy_on_memory_allocate nor malloc, so that it can be given no header; build it with a Proxy-Wasm SDK"
    )]
    Allocator,
    /// It exports or defines no memory.
    #[error("it has no memory; build it with a Proxy-Wasm SDK")]
    NoMemory,
    /// It has several memories, and pointers do not say into which.
    #[error("it has {count} memories and the ABI knows one; build it without multi-memory")]
    SeveralMemories {
        /// How many.
        count: usize,
    },
    /// It wants threads.
    #[error(
        "its memory is shared between threads, which no filter has; build it without threads and atomics"
    )]
    SharedMemory,
    /// It is compiled for 64-bit addresses.
    #[error(
        "its memory has 64-bit addresses, and the ABI's pointers have 32; compile it for wasm32-wasip1"
    )]
    Memory64,
    /// It wants something from the host that is not a function.
    #[error(
        "it imports the {} {}.{}, and hosts offer functions only; link it as a module of its own",
        .0.kind, .0.module, .0.name
    )]
    Import(Import),
}

fn declared(unknown: &[String]) -> String {
    if unknown.is_empty() {
        return String::new();
    }
    format!(" (but {})", unknown.join(", "))
}

impl Inspection {
    /// What its callbacks are about, by the `type` of a WasmPlugin that would run it. Some SDKs export
    /// callbacks of both, whatever the filter does.
    #[must_use]
    pub fn hears(&self) -> Vec<&'static str> {
        let about = |words: &[&str]| {
            let mut callbacks = self.callbacks.iter();
            callbacks.any(|name| words.iter().any(|word| name.contains(word)))
        };
        let requests = about(&["_on_request_", "_on_response_"]);
        let connections = about(&["_connection", "_on_downstream_", "_on_upstream_"]);
        let hears = [
            requests.then_some("requests (type HTTP)"),
            connections.then_some("connections (type NETWORK)"),
        ];
        hears.into_iter().flatten().collect()
    }

    /// Why it would not be hosted; empty for a module that would. Unknown *functions* are no
    /// obstacle, as most modules never call those they import.
    #[must_use]
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let mut found = Vec::new();
        if self.abi.is_none() {
            found.push(Obstacle::Abi {
                unknown: self.unknown_abis.clone(),
            });
        }
        if self.allocator.is_none() {
            found.push(Obstacle::Allocator);
        }
        match self.memories.len() {
            0 => found.push(Obstacle::NoMemory),
            1 => {}
            count => found.push(Obstacle::SeveralMemories { count }),
        }
        if self.memories.iter().any(|memory| memory.shared) {
            found.push(Obstacle::SharedMemory);
        }
        if self.memories.iter().any(|memory| memory.memory64) {
            found.push(Obstacle::Memory64);
        }
        let others = self.imports.unknown.iter();
        let others = others.filter(|import| import.kind != FUNCTION);
        found.extend(others.cloned().map(Obstacle::Import));
        found
    }
}

/// Reads what a module says about itself.
///
/// # Errors
///
/// [`InspectError`] where the bytes are too many, or no core module.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, InspectError> {
    if bytes.len() > MAX_MODULE_BYTES {
        return Err(InspectError::TooLarge { bytes: bytes.len() });
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(InspectError::NotWasm);
    }
    // Version and layer; a component is told by them, without the features to read one.
    if bytes.get(6..8) == Some(&[1, 0]) {
        return Err(InspectError::Component);
    }

    let mut reader = Reader::default();
    for payload in Parser::new(0).parse_all(bytes) {
        reader.read(payload?)?;
    }
    Ok(reader.finish(bytes.len()))
}

const FUNCTION: &str = "function";

/// What has been seen so far.
#[derive(Default)]
struct Reader {
    exports: BTreeSet<String>,
    proxy: BTreeSet<String>,
    wasi: BTreeSet<String>,
    unknown: BTreeSet<Import>,
    memories: Vec<Memory>,
}

impl Reader {
    fn read(&mut self, payload: Payload<'_>) -> Result<(), InspectError> {
        match payload {
            Payload::Version {
                encoding: Encoding::Component,
                ..
            } => return Err(InspectError::Component),
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    self.import(import.module, import.name, import.ty);
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.memories.push(Memory::of(memory?));
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    if matches!(export.kind, ExternalKind::Func) {
                        self.exports.insert(export.name.to_owned());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, module: &str, name: &str, ty: TypeRef) {
        let kind = match ty {
            TypeRef::Func(_) | TypeRef::FuncExact(_) => FUNCTION,
            TypeRef::Table(_) => "table",
            TypeRef::Memory(memory) => {
                self.memories.push(Memory::of(memory));
                "memory"
            }
            TypeRef::Global(_) => "global",
            TypeRef::Tag(_) => "tag",
        };
        if kind == FUNCTION && module == abi::HOST && abi::HOST_FUNCTIONS.contains(&name) {
            self.proxy.insert(name.to_owned());
        } else if kind == FUNCTION
            && abi::WASI.contains(&module)
            && abi::WASI_FUNCTIONS.contains(&name)
        {
            self.wasi.insert(name.to_owned());
        } else {
            self.unknown.insert(Import {
                module: module.to_owned(),
                name: name.to_owned(),
                kind,
            });
        }
    }

    fn finish(self, bytes: usize) -> Inspection {
        let exports = &self.exports;
        let known = |names: &[&'static str]| {
            let found = names.iter().find(|name| exports.contains(**name));
            found.copied()
        };
        let entry_points = match known(&["_initialize"]) {
            Some(first) => [Some(first), known(&["main", "__main_void"])],
            None => [known(&["_start"]), None],
        };
        let named = |wanted: &dyn Fn(&str) -> bool| {
            let names = exports.iter().filter(|name| wanted(name));
            names.cloned().collect::<Vec<_>>()
        };
        let callback = |name: &str| abi::CALLBACKS.contains(&name);
        Inspection {
            bytes,
            abi: exports
                .iter()
                .filter_map(|name| AbiVersion::declared_by(name))
                .max(),
            unknown_abis: named(&|name| {
                name.starts_with("proxy_abi_") && AbiVersion::declared_by(name).is_none()
            }),
            entry_points: entry_points.into_iter().flatten().collect(),
            allocator: known(&abi::ALLOCATORS),
            callbacks: named(&callback),
            unknown_callbacks: named(&|name| {
                name.starts_with("proxy_on_") && !callback(name) && !abi::ALLOCATORS.contains(&name)
            }),
            imports: Imports {
                proxy: self.proxy.into_iter().collect(),
                wasi: self.wasi.into_iter().collect(),
                unknown: self.unknown.into_iter().collect(),
            },
            memories: self.memories,
        }
    }
}

impl Memory {
    fn of(memory: MemoryType) -> Self {
        Self {
            min_pages: memory.initial,
            max_pages: memory.maximum,
            shared: memory.shared,
            memory64: memory.memory64,
        }
    }
}

impl From<BinaryReaderError> for InspectError {
    fn from(error: BinaryReaderError) -> Self {
        Self::Malformed {
            offset: error.offset(),
            reason: error.message().to_owned(),
        }
    }
}
