//! Bakes models into the compiled `portable`: adds them as a data segment at the end of its memory, and
//! writes their place into the slot that [`crate::baked`] reads.
//!
//! Code is not changed. A snapshot of an instance with loaded models (`wasmtime-wizer`) would also save
//! decoding a plan, a fraction of a millisecond for cellnet, but every build of this workspace would then
//! compile wasmtime with other features. Opening a model does not read its weights, so a snapshot would save
//! nothing there.
//!
//! The models begin where the compiled memory ended. The guest's heap does not reach them: wasi-libc's
//! allocator begins with the memory up to the linker's `__heap_end`, which is at or before that place, and
//! takes more only by growing memory.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use skincell_engines::source::{CELL_FILE, FILES};
use wasm_encoder::Encode;
use wasmparser::{BinaryReaderError, DataKind, MemoryType, Operator, Parser, Payload};

use crate::baked::{Archive, MARK};
use crate::store::is_plain;

/// Bytes of a page of linear memory.
const PAGE: u64 = 64 << 10;
/// Id of a component's section with a core module.
const MODULE_SECTION: u8 = 1;
/// Ids of a module's sections.
const MEMORY_SECTION: u8 = 5;
const DATA_SECTION: u8 = 11;
const DATA_COUNT_SECTION: u8 = 12;

/// Why models cannot be baked.
#[derive(Debug, thiserror::Error)]
pub enum BakeError {
    /// The bytes are not WebAssembly.
    #[error(
        "the component to bake into cannot be read: {0}; build skincell-portable with the command in \
         `skincell model bake --help`"
    )]
    Wasm(#[from] BinaryReaderError),
    /// The component is another one, or has models already.
    #[error(
        "this is not the component to bake into ({0}); build skincell-portable with the command in \
         `skincell model bake --help`"
    )]
    Other(&'static str),
    /// The folder has no model.
    #[error(
        "{0} has neither a model.cell nor a model.onnx; make one with `skincell model prepare`"
    )]
    NoModel(PathBuf),
    /// No request could name the folder's model.
    #[error(
        "{0} is no name of a model; rename the folder to at most 64 letters, digits, '.', '_' and '-' that do \
         not begin with a dot"
    )]
    Name(PathBuf),
    /// Two folders have the same name.
    #[error(
        "two folders are named {0}; a component has one model of a name, so rename one of them"
    )]
    Twice(String),
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The models do not fit into a 32-bit memory.
    #[error("{0}")]
    TooLarge(String),
}

/// The component `provider` (`skincell_portable.wasm`) with the models of `folders` in its memory, each
/// under its folder's name, packed if the folder has a packed model. The result reads no files and has no
/// other models.
///
/// # Errors
/// [`BakeError`] with the file or the reason.
pub fn bake(provider: &[u8], folders: &[impl AsRef<Path>]) -> Result<Vec<u8>, BakeError> {
    let mut files = Vec::new();
    let mut names = BTreeSet::new();
    for folder in folders {
        let name = model_name(folder.as_ref())?;
        if !names.insert(name.clone()) {
            return Err(BakeError::Twice(name));
        }
        files.extend(model_files(folder.as_ref(), &name)?);
    }
    let archive = Archive::pack(&files).map_err(BakeError::TooLarge)?;
    let module = module_with_slot(provider)?;
    let baked = with_archive(&provider[module.clone()], &archive)?;
    let head = header(MODULE_SECTION, provider[module.clone()].len());
    // Lengths must be in their shortest form, as `header` writes them; otherwise the parts would be cut at
    // the wrong place.
    let before = provider[..module.start].strip_suffix(&head[..]);
    let before = before.ok_or(BakeError::Other("its sections are written in an unusual way"))?;
    let new_head = header(MODULE_SECTION, baked.len());
    Ok([before, &new_head, &baked, &provider[module.end..]].concat())
}

/// The folder's own name, by which requests name its model.
fn model_name(folder: &Path) -> Result<String, BakeError> {
    let whole = folder.canonicalize();
    let whole = whole.map_err(|source| BakeError::Read { path: folder.into(), source })?;
    let name = whole.file_name().and_then(|name| name.to_str()).filter(|name| is_plain(name));
    name.map(str::to_owned).ok_or_else(|| BakeError::Name(folder.into()))
}

/// The files of a model that an engine reads, with their paths in the archive.
fn model_files(folder: &Path, name: &str) -> Result<Vec<(String, Vec<u8>)>, BakeError> {
    let read =
        |path: PathBuf| std::fs::read(&path).map_err(|source| BakeError::Read { path, source });
    let there: Vec<&str> = FILES.into_iter().filter(|file| folder.join(file).is_file()).collect();
    // The packed model alone, or the graph and its weights.
    let taken = if there.contains(&CELL_FILE) { &[CELL_FILE][..] } else { &there[..] };
    if taken.is_empty() {
        return Err(BakeError::NoModel(folder.to_path_buf()));
    }
    taken.iter().map(|file| Ok((format!("{name}/{file}"), read(folder.join(file))?))).collect()
}

/// The range of the component that is the module with the slot.
fn module_with_slot(component: &[u8]) -> Result<Range<usize>, BakeError> {
    let (mut depth, mut found) = (0, None);
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ModuleSection { unchecked_range, .. } if depth == 1 => {
                let range = within(&unchecked_range);
                if position(&component[range.clone()], &MARK).is_some() {
                    found = Some(range);
                }
            }
            _ => {}
        }
    }
    found.ok_or(BakeError::Other("it has no place for models"))
}

/// A range of bytes in memory.
fn within(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The parts of a module that change when its memory grows.
struct Layout {
    memory: MemoryType,
    /// Address of the slot's numbers.
    slot: u32,
    /// Data segments, and their bytes in the module.
    segments: u32,
    data: Range<usize>,
}

fn layout(module: &[u8]) -> Result<Layout, BakeError> {
    let (mut memory, mut slot, mut data) = (None, None, None);
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::MemorySection(reader) => {
                memory = reader.into_iter().collect::<Result<Vec<_>, _>>()?.first().copied();
            }
            Payload::DataSection(reader) => {
                data = Some((reader.count(), within(&reader.range())));
                for segment in reader {
                    let segment = segment?;
                    let Some(at) = position(segment.data, &MARK) else { continue };
                    let address = start(&segment.kind)?.checked_add(at + MARK.len());
                    slot = address.and_then(|address| u32::try_from(address).ok());
                    let numbers = segment.data.get(at + MARK.len()..at + MARK.len() + 8);
                    if numbers.is_some_and(|numbers| numbers.iter().any(|byte| *byte != 0)) {
                        return Err(BakeError::Other("it has models already"));
                    }
                }
            }
            _ => {}
        }
    }
    let missing = BakeError::Other("it has no memory, or no place for models");
    match (memory, slot, data) {
        (Some(memory), Some(slot), Some((segments, data))) => {
            Ok(Layout { memory, slot, segments, data })
        }
        _ => Err(missing),
    }
}

/// The address of an active segment.
fn start(kind: &DataKind<'_>) -> Result<usize, BakeError> {
    let unusual = BakeError::Other("its data has no fixed address");
    let DataKind::Active { memory_index: 0, offset_expr } = kind else { return Err(unusual) };
    match offset_expr.get_operators_reader().read()? {
        Operator::I32Const { value } => Ok(value.cast_unsigned() as usize),
        _ => Err(unusual),
    }
}

/// The module with `archive` at the end of its memory and the archive's place in the slot.
fn with_archive(module: &[u8], archive: &[u8]) -> Result<Vec<u8>, BakeError> {
    let layout = layout(module)?;
    let too_large =
        || BakeError::TooLarge("the models do not fit a 32-bit memory; bake fewer".to_owned());
    let address = layout.memory.initial.checked_mul(PAGE).ok_or_else(too_large)?;
    let pages = layout.memory.initial + (archive.len() as u64).div_ceil(PAGE);
    if pages.checked_mul(PAGE).is_none_or(|bytes| bytes > u64::from(u32::MAX)) {
        return Err(too_large());
    }
    let address = u32::try_from(address).map_err(|_| too_large())?;
    let length = u32::try_from(archive.len()).map_err(|_| too_large())?;
    let numbers = [address.to_le_bytes(), length.to_le_bytes()].concat();
    let mut out = Vec::with_capacity(module.len() + archive.len() + 64);
    let mut copied = 0;
    for payload in Parser::new(0).parse_all(module) {
        let (id, range, body) = match payload? {
            Payload::MemorySection(reader) => {
                let memory = MemoryType { initial: pages, ..layout.memory };
                (MEMORY_SECTION, reader.range(), memory_section(memory)?)
            }
            Payload::DataCountSection { range, .. } => {
                let mut body = Vec::new();
                (layout.segments + 2).encode(&mut body);
                (DATA_COUNT_SECTION, range, body)
            }
            Payload::DataSection(reader) => {
                let mut body = Vec::new();
                (layout.segments + 2).encode(&mut body);
                let mut count = Vec::new();
                layout.segments.encode(&mut count);
                // Later segments overwrite earlier ones: the slot's numbers come after the segment that holds
                // the empty slot.
                let segments = module[layout.data.clone()].strip_prefix(&count[..]);
                let unusual = BakeError::Other("its segments are counted in an unusual way");
                body.extend_from_slice(segments.ok_or(unusual)?);
                segment(layout.slot, &numbers, &mut body);
                segment(address, archive, &mut body);
                (DATA_SECTION, reader.range(), body)
            }
            _ => continue,
        };
        let range = within(&range);
        // As in `bake`, lengths must be in their shortest form.
        let old = header(id, range.len());
        let before = module[copied..range.start].strip_suffix(&old[..]);
        let before =
            before.ok_or(BakeError::Other("its sections are written in an unusual way"))?;
        out.extend_from_slice(before);
        out.extend(header(id, body.len()));
        out.extend(body);
        copied = range.end;
    }
    out.extend_from_slice(&module[copied..]);
    Ok(out)
}

fn memory_section(memory: MemoryType) -> Result<Vec<u8>, BakeError> {
    if memory.memory64 || memory.shared || memory.maximum.is_some() {
        return Err(BakeError::Other("its memory has an unsupported type"));
    }
    let mut section = wasm_encoder::MemorySection::new();
    section.memory(wasm_encoder::MemoryType {
        minimum: memory.initial,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: memory.page_size_log2,
    });
    // The encoder writes the length first, which `header` writes here.
    let mut body = Vec::new();
    section.encode(&mut body);
    let mut length = Vec::new();
    u32::try_from(body.len()).unwrap_or(u32::MAX).encode(&mut length);
    Ok(body.split_off(length.len()))
}

/// An active segment at `address` of the only memory.
fn segment(address: u32, bytes: &[u8], out: &mut Vec<u8>) {
    const ACTIVE: u8 = 0;
    const I32_CONST: u8 = 0x41;
    const END: u8 = 0x0b;
    out.extend([ACTIVE, I32_CONST]);
    address.cast_signed().encode(out);
    out.push(END);
    bytes.encode(out);
}

/// The id and length of a section.
fn header(id: u8, length: usize) -> Vec<u8> {
    let mut header = vec![id];
    length.encode(&mut header);
    header
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use std::path::{Path, PathBuf};

    use super::{BakeError, bake};

    /// A folder of this name with a file for a model.
    fn model(home: &Path, name: &str) -> PathBuf {
        let folder = home.join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("model.cell"), "a model").unwrap();
        folder
    }

    #[test]
    fn other_components_and_missing_models_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = model(home.path(), "skin");
        let none: [&std::path::Path; 0] = [];
        assert!(matches!(bake(b"text", &none), Err(BakeError::Wasm(_))));
        let empty = wasm_encoder::Component::new().finish();
        assert!(matches!(bake(&empty, &[&folder]), Err(BakeError::Other(_))));
        let missing = folder.join("not");
        assert!(matches!(bake(&empty, &[missing]), Err(BakeError::Read { .. })));
        std::fs::remove_file(folder.join("model.cell")).unwrap();
        assert!(matches!(bake(&empty, &[&folder]), Err(BakeError::NoModel(_))));
    }

    #[test]
    fn models_that_no_request_could_name_are_refused() {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let empty = wasm_encoder::Component::new().finish();
        for name in ["my model", ".hidden", "é", "a".repeat(65).as_str()] {
            let folder = model(home.path(), name);
            assert!(matches!(bake(&empty, &[folder]), Err(BakeError::Name(_))), "{name}");
        }
        let both = [home.path(), other.path()].map(|home| model(home, "skin"));
        let refused = bake(&empty, &both);
        assert!(matches!(refused, Err(BakeError::Twice(name)) if name == "skin"));
    }
}
