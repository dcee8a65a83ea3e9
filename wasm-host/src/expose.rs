//! Making a module's state reachable before it is compiled, so that an instance can be copied.
//!
//! What a module remembers lies in its memory, its mutable globals and its tables. Its memory is
//! exported already; this adds exports for its globals, which change nothing else about it. Modules
//! that remember things elsewhere are left as they are: their instances are never copied.
//!
//! Refuses to know what a copy is for.

use std::ops::Range;

use wasmparser::{
    BinaryReaderError, ExternalKind, FunctionBody, GlobalType, Operator, Parser, Payload, TypeRef,
    ValType,
};

/// Under these names the state is found: [`MARK`] for the memory, and a number after
/// [`GLOBAL`] for each mutable global. A module that uses them itself is left as it is.
const PREFIX: &str = "wayline:";

/// The memory under a name of ours: that it is there says that all state is exported.
pub(crate) const MARK: &str = "wayline:memory";

/// Mutable globals under names of ours: this and their numbers, from 0.
pub(crate) const GLOBAL: &str = "wayline:global:";

/// More mutable globals than any compiler makes are not worth copying.
const MAX_GLOBALS: usize = 64;

/// The module with exports for its state, or nothing where its state is not only memory and globals,
/// or it is no module: what is wrong with it is for the compiler to say.
pub(crate) fn expose(module: &[u8]) -> Option<Vec<u8>> {
    let layout = Layout::of(module).ok()??;
    let mut exposed = module.get(..HEADER)?.to_vec();
    exposed.reserve(module.len() + 64 * (layout.globals.len() + 1));
    for (id, range) in layout.sections {
        let content = module.get(range)?;
        exposed.push(id);
        if id == EXPORTS {
            let more = exports(&layout.globals);
            let (count, rest) = (layout.exports, &content[layout.exports_at..]);
            let mut edited = Vec::with_capacity(content.len() + more.len() + 1);
            write_u32(&mut edited, count + 1 + count_of(&layout.globals));
            edited.extend_from_slice(rest);
            edited.extend_from_slice(&more);
            write_u32(&mut exposed, u32::try_from(edited.len()).ok()?);
            exposed.extend_from_slice(&edited);
        } else {
            write_u32(&mut exposed, u32::try_from(content.len()).ok()?);
            exposed.extend_from_slice(content);
        }
    }
    Some(exposed)
}

/// Magic number and version.
const HEADER: usize = 8;

/// The id of the export section.
const EXPORTS: u8 = 7;

/// What has to be known of a module.
#[derive(Default)]
struct Layout {
    /// Ids and contents of all sections.
    sections: Vec<(u8, Range<usize>)>,
    /// Indices of mutable globals.
    globals: Vec<u32>,
    all_globals: u32,
    memories: u32,
    /// How many exports there are, and where in their section the first is.
    exports: u32,
    exports_at: usize,
}

impl Layout {
    /// Nothing for a module that is to stay as it is.
    fn of(module: &[u8]) -> Result<Option<Self>, BinaryReaderError> {
        let mut layout = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            let payload = payload?;
            if let Some(section) = payload.as_section() {
                let (id, range) = section;
                layout.sections.push((id, at(range.start)..at(range.end)));
            }
            if !layout.read(payload)? {
                return Ok(None);
            }
        }
        let whole =
            layout.memories == 1 && layout.exports_at > 0 && layout.globals.len() <= MAX_GLOBALS;
        Ok(whole.then_some(layout))
    }

    /// Whether a copy may still be thought of.
    fn read(&mut self, payload: Payload<'_>) -> Result<bool, BinaryReaderError> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if !matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                        return Ok(false);
                    }
                }
            }
            Payload::MemorySection(section) => self.memories += section.count(),
            Payload::GlobalSection(section) => {
                for global in section {
                    let kind = global?.ty;
                    if !self.global(&kind) {
                        return Ok(false);
                    }
                }
            }
            Payload::ExportSection(section) => {
                self.exports = section.count();
                let content = section.range();
                for export in section.into_iter_with_offsets() {
                    let (offset, export) = export?;
                    if self.exports_at == 0 {
                        self.exports_at = at(offset - content.start);
                    }
                    if export.name.starts_with(PREFIX) {
                        return Ok(false);
                    }
                }
            }
            // It would run again in each copy, before there is anything to copy into.
            Payload::StartSection { .. } => return Ok(false),
            Payload::CodeSectionEntry(body) => return keeps_tables(&body),
            _ => {}
        }
        Ok(true)
    }

    fn global(&mut self, kind: &GlobalType) -> bool {
        let index = self.all_globals;
        self.all_globals += 1;
        if !kind.mutable {
            return true;
        }
        self.globals.push(index);
        !matches!(kind.content_type, ValType::Ref(_))
    }
}

/// Whether a function leaves tables and passive segments as they are.
fn keeps_tables(body: &FunctionBody<'_>) -> Result<bool, BinaryReaderError> {
    for operator in body.get_operators_reader()? {
        match operator? {
            Operator::TableSet { .. }
            | Operator::TableGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. }
            | Operator::ElemDrop { .. }
            | Operator::MemoryInit { .. }
            | Operator::DataDrop { .. } => return Ok(false),
            _ => {}
        }
    }
    Ok(true)
}

/// A position in a module, which is in memory.
fn at(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// The exports to be added.
fn exports(globals: &[u32]) -> Vec<u8> {
    let mut added = Vec::new();
    export(&mut added, MARK, ExternalKind::Memory, 0);
    for (number, index) in globals.iter().enumerate() {
        let name = format!("{GLOBAL}{number}");
        export(&mut added, &name, ExternalKind::Global, *index);
    }
    added
}

fn export(target: &mut Vec<u8>, name: &str, kind: ExternalKind, index: u32) {
    write_u32(target, u32::try_from(name.len()).unwrap_or(0));
    target.extend_from_slice(name.as_bytes());
    target.push(match kind {
        ExternalKind::Memory => 2,
        _ => 3,
    });
    write_u32(target, index);
}

fn count_of(globals: &[u32]) -> u32 {
    u32::try_from(globals.len()).unwrap_or(0)
}

/// LEB128.
fn write_u32(target: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        target.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    target.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(text: &str) -> Option<Vec<String>> {
        let exposed = expose(&wat::parse_str(text).unwrap())?;
        wasmtime::Module::validate(&wasmtime::Engine::default(), &exposed).unwrap();
        let mut names = Vec::new();
        for payload in Parser::new(0).parse_all(&exposed) {
            if let Payload::ExportSection(section) = payload.unwrap() {
                names.extend(section.into_iter().map(|it| it.unwrap().name.to_owned()));
            }
        }
        Some(names)
    }

    #[test]
    fn mutable_globals_and_the_memory_are_exported() {
        let names = exposed(
            r#"(module
                (import "env" "f" (func))
                (memory (export "memory") 1)
                (global i32 (i32.const 1))
                (global (mut i64) (i64.const 2))
                (global $sp (mut i32) (i32.const 3))
                (func (export "g") (global.set $sp (i32.const 4)))
                (data (i32.const 0) "x"))"#,
        );
        let expected = [
            "memory",
            "g",
            "wayline:memory",
            "wayline:global:0",
            "wayline:global:1",
        ];
        assert_eq!(names.unwrap(), expected);
    }

    #[test]
    fn a_module_with_hundreds_of_exports_keeps_them() {
        let many: String = (0..300)
            .map(|number| format!("(func (export \"f{number}\"))"))
            .collect();
        let names = exposed(&format!("(module (memory 1) {many})")).unwrap();
        assert_eq!(names.len(), 301);
        assert_eq!(names[299], "f299");
    }

    #[test]
    fn what_remembers_elsewhere_stays_as_it_is() {
        for text in [
            r#"(module (memory 1) (func $f) (start $f) (func (export "g")))"#,
            r#"(module (memory 1) (table 1 funcref)
                (func (export "g") (table.set (i32.const 0) (ref.null func))))"#,
            r#"(module (memory 1) (global (mut funcref) (ref.null func)) (func (export "g")))"#,
            r#"(module (memory 1) (data "x") (func (export "g") (data.drop 0)))"#,
            r#"(module (memory 1) (func (export "wayline:memory")))"#,
            r#"(module (func (export "g")))"#,
            r#"(module (memory 1))"#,
        ] {
            assert_eq!(exposed(text), None, "{text}");
        }
        assert_eq!(expose(b"\0asm"), None);
        assert_eq!(expose(b""), None);
    }
}
