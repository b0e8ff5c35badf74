//! Serves components of WASI 0.3's release candidate as components of WASI 0.3.0.
//!
//! spin-sdk 6 names the interfaces of 2026-03-15, spin-sdk 7 those of the release. They differ in nothing but
//! their version, so the names of a component's own imports and exports are rewritten. Components inside it
//! keep their names, which only they use. Parsing everything else is left to wasmtime.

use std::borrow::Cow;
use wasm_encoder::Encode as _;
use wasmparser::{
    BinaryReader, ComponentExportSectionReader, ComponentImportSectionReader, Parser,
};

/// The version that the candidate's interfaces have.
const CANDIDATE: &str = "0.3.0-rc-2026-03-15";
/// The version that exports of the candidate get: the host's.
const RELEASE: &str = "0.3.0";
/// The version that imports of the candidate get. The host gives them its release, with which it is
/// compatible; a component that imports both, as those of spin-sdk for Python do, still has two names.
const COMPATIBLE: &str = "0.3.20260315";

/// Bytes of the magic number, version and layer.
const PREAMBLE: usize = 8;
/// Section numbers in the binary format of components.
const IMPORTS: u8 = 10;
const EXPORTS: u8 = 11;

/// The version of an interface of WASI 0.3.
fn version(interface: &str) -> Option<&str> {
    let (_, version) = interface.strip_prefix("wasi:")?.split_once('@')?;
    version.starts_with("0.3.").then_some(version)
}

/// Whether an interface may have asynchronous functions: those of WASI 0.3, and Spin's for such components.
pub(crate) fn is_concurrent(interface: &str) -> bool {
    version(interface).is_some() || interface.starts_with("spin:")
}

/// Whether an interface is of a version of WASI 0.3 that is neither the release nor compatible with it.
pub(crate) fn is_unknown(interface: &str) -> bool {
    version(interface).is_some_and(|version| version.contains('-') && version != CANDIDATE)
}

/// Whether an interface is the HTTP handler of a release candidate of WASI 0.2, all of which are of 2023.
pub(crate) fn is_handler_of_2023(interface: &str) -> bool {
    interface.starts_with("wasi:http/incoming-handler@0.2.0-rc-")
}

/// The names of a component's own imports and exports; none if `wasm` is no component. What is inside it is
/// passed over, so this takes microseconds for components of megabytes.
///
/// # Errors
/// When a section is cut off or has names that cannot be read.
pub(crate) fn own_interfaces(wasm: &[u8]) -> wasmparser::Result<Vec<&str>> {
    let mut names = Vec::new();
    for (id, content) in sections(wasm)? {
        let reader = BinaryReader::new(content, 0);
        if id == IMPORTS {
            for import in ComponentImportSectionReader::new(reader)? {
                names.push(import?.name.name);
            }
        } else if id == EXPORTS {
            for export in ComponentExportSectionReader::new(reader)? {
                names.push(export?.name.name);
            }
        }
    }
    Ok(names)
}

/// The numbers and contents of a component's own sections; none if `wasm` is no component.
fn sections(wasm: &[u8]) -> wasmparser::Result<Vec<(u8, &[u8])>> {
    let mut sections = Vec::new();
    if Parser::is_component(wasm) {
        let mut reader = BinaryReader::new(wasm, 0);
        reader.read_bytes(PREAMBLE)?;
        while !reader.eof() {
            let id = reader.read_u8()?;
            let size = reader.read_var_u32()? as usize;
            sections.push((id, reader.read_bytes(size)?));
        }
    }
    Ok(sections)
}

/// The component with the names of the release. What is no component is returned as it is; compiling it says
/// what is wrong.
///
/// # Errors
/// When a section is cut off or has names that cannot be read.
pub(crate) fn as_released(wasm: Vec<u8>) -> wasmparser::Result<Vec<u8>> {
    if !own_interfaces(&wasm)?.iter().any(|name| name.ends_with(CANDIDATE)) {
        return Ok(wasm);
    }
    let mut released = wasm[..PREAMBLE].to_vec();
    for (id, content) in sections(&wasm)? {
        let content = match id {
            IMPORTS | EXPORTS => Cow::Owned(renamed(id, content)?),
            _ => Cow::Borrowed(content),
        };
        released.push(id);
        content.as_ref().encode(&mut released);
    }
    Ok(released)
}

/// A section of imports or exports with the names of the release.
fn renamed(id: u8, section: &[u8]) -> wasmparser::Result<Vec<u8>> {
    let starts = starts(id, section)?;
    let ends = starts.iter().skip(1).copied().chain([section.len()]);
    let mut released = Vec::with_capacity(section.len());
    starts.len().encode(&mut released);
    for (start, end) in starts.iter().zip(ends) {
        let item = &section[*start..end];
        // The kind of name, the name, and what it names.
        let mut reader = BinaryReader::new(item, 0);
        released.push(reader.read_u8()?);
        let name = reader.read_string()?;
        let version = if id == IMPORTS { COMPATIBLE } else { RELEASE };
        released_name(name, version).encode(&mut released);
        released.extend_from_slice(&item[reader.original_position() as usize..]);
    }
    Ok(released)
}

/// Where each import or export begins in its section.
fn starts(id: u8, section: &[u8]) -> wasmparser::Result<Vec<usize>> {
    let reader = BinaryReader::new(section, 0);
    if id == IMPORTS {
        let imports = ComponentImportSectionReader::new(reader)?.into_iter_with_offsets();
        return imports.map(|import| Ok(import?.0 as usize)).collect();
    }
    let exports = ComponentExportSectionReader::new(reader)?.into_iter_with_offsets();
    exports.map(|export| Ok(export?.0 as usize)).collect()
}

fn released_name<'a>(name: &'a str, version: &str) -> Cow<'a, str> {
    match name
        .strip_suffix(CANDIDATE)
        .filter(|rest| name.starts_with("wasi:") && rest.ends_with('@'))
    {
        Some(interface) => Cow::Owned(format!("{interface}{version}")),
        None => Cow::Borrowed(name),
    }
}
