//! Recognises a model's file by its first bytes, and an archive by its members.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use skincell_vision::photo::{Format, sniff};

use super::zip;

/// The kind of a file by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Empty,
    Onnx,
    /// Keras's archive.
    Keras,
    /// A `torch.export` program.
    Program,
    /// TorchScript.
    Script,
    /// An archive of PyTorch without a program: a state dict, or a whole module as a pickle.
    TorchPickle,
    /// Core ML in an archive.
    CoreMl,
    /// An archive with models to unpack.
    Packed,
    /// An archive of another kind.
    Archive,
    /// An archive that is cut short.
    CutArchive,
    Hdf5,
    /// An HDF5 file that is cut short.
    CutHdf5,
    Pickle,
    TfLite,
    OrtFormat,
    Safetensors,
    Gguf,
    /// gzip or tar.
    Compressed,
    GitPointer,
    WebPage,
    /// What Keras's `model.to_json()` writes.
    KerasJson,
    Photo,
    Unknown,
}

/// First bytes that are read.
const BEGIN: u64 = 512;

impl Content {
    /// The kind of a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn of(file: &mut File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let mut begin = Vec::new();
        file.by_ref().take(BEGIN).read_to_end(&mut begin)?;
        let at = |offset: usize| begin.get(offset..).unwrap_or_default();
        Ok(match &begin[..] {
            [] => Self::Empty,
            _ if begin.starts_with(b"PK\x03\x04") || begin.starts_with(b"PK\x05\x06") => {
                zip::members(file)?.map_or(Self::CutArchive, |names| Self::of_members(&names))
            }
            _ if begin.starts_with(b"\x89HDF\r\n\x1a\n") => {
                if is_cut(&begin, size) {
                    Self::CutHdf5
                } else {
                    Self::Hdf5
                }
            }
            [0x80, 2..=5, ..] => Self::Pickle,
            _ if at(4).starts_with(b"TFL3") => Self::TfLite,
            _ if at(4).starts_with(b"ORTM") => Self::OrtFormat,
            _ if begin.starts_with(b"GGUF") => Self::Gguf,
            [0x1f, 0x8b, ..] => Self::Compressed,
            _ if at(257).starts_with(b"ustar") => Self::Compressed,
            _ if at(8).starts_with(b"{\"") && length_of_header(&begin) < size => Self::Safetensors,
            _ if begin.starts_with(b"version https:") => Self::GitPointer,
            _ if is_web_page(&begin) => Self::WebPage,
            _ if is_keras_json(&begin) => Self::KerasJson,
            _ if matches!(sniff(&begin), Some(format) if format != Format::Bmp) => Self::Photo,
            _ if is_onnx(file, size)? => Self::Onnx,
            _ => Self::Unknown,
        })
    }

    fn of_members(names: &[String]) -> Self {
        let has = |end: &str| {
            names.iter().any(|n| n == end || n.strip_suffix(end).is_some_and(|b| b.ends_with('/')))
        };
        let ends = |end: &str| names.iter().any(|name| name.to_lowercase().ends_with(end));
        if has("config.json") && has("model.weights.h5") {
            return Self::Keras;
        }
        // The name of a program's description has changed with the versions of PyTorch.
        if has("archive_format") || has("serialized_exported_program.json") {
            return Self::Program;
        }
        if names.iter().any(|name| name.contains("/code/")) {
            return Self::Script;
        }
        if has("data.pkl") {
            return Self::TorchPickle;
        }
        if ends(".mlmodel") || ends("coremldata.bin") {
            return Self::CoreMl;
        }
        let models = [".onnx", "saved_model.pb", ".keras", ".h5", ".pt", ".pt2", "model.json"];
        if models.iter().any(|end| ends(end)) { Self::Packed } else { Self::Archive }
    }
}

/// Whether an HDF5 file is shorter than its superblock says.
fn is_cut(begin: &[u8], size: u64) -> bool {
    // Version 0 and 1 have more fields before the addresses, which have 8 bytes each in Keras's files.
    let (end, width) = match begin.get(8) {
        Some(0) => (40, 13),
        Some(1) => (44, 13),
        Some(2 | 3) => (28, 9),
        _ => return false,
    };
    let address = begin.get(end..end + 8).and_then(|bytes| bytes.try_into().ok());
    begin.get(width) == Some(&8) && address.is_none_or(|bytes| u64::from_le_bytes(bytes) > size)
}

/// The length of a safetensors file's header.
fn length_of_header(begin: &[u8]) -> u64 {
    let length = begin.get(..8).and_then(|bytes| bytes.try_into().ok());
    length.map_or(u64::MAX, u64::from_le_bytes)
}

fn is_web_page(begin: &[u8]) -> bool {
    let text = String::from_utf8_lossy(begin).trim_start().to_lowercase();
    text.starts_with("<!doctype html") || text.starts_with("<html")
}

/// Whether text begins as an architecture of Keras; TensorFlow.js has it too, as a part.
fn is_keras_json(begin: &[u8]) -> bool {
    let text = String::from_utf8_lossy(begin);
    let others = ["modelTopology", "weightsManifest"];
    text.trim_start().starts_with('{')
        && text.contains("\"class_name\"")
        && !others.iter().any(|name| text.contains(name))
}

/// Whether the fields of a protobuf message are those of an ONNX model, with its graph as field 7. Only their
/// tags and lengths are read.
fn is_onnx(file: &mut File, size: u64) -> io::Result<bool> {
    let (mut at, mut has_graph, mut count) = (0, false, 0);
    while at < size {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        file.by_ref().take(20).read_to_end(&mut bytes)?;
        let Some((tag, first)) = varint(&bytes) else { return Ok(false) };
        let Some((value, second)) = varint(&bytes[first..]) else { return Ok(false) };
        // The fields of `ModelProto`; all others are of other messages.
        if !matches!((tag >> 3, tag & 7), (1 | 5, 0) | (2..=4 | 6..=8 | 14 | 20 | 25 | 26, 2)) {
            return Ok(false);
        }
        has_graph |= tag >> 3 == 7;
        count += 1;
        let length = if tag & 7 == 2 { value } else { 0 };
        let Some(next) = at.checked_add((first + second) as u64 + length) else { return Ok(false) };
        // A model that is cut short is one still.
        at = next;
    }
    Ok(has_graph && count > 1)
}

/// A varint and its length in bytes.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let length = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let value = bytes[..length].iter().rev().fold(0, |v: u64, b| v << 7 | u64::from(b & 0x7f));
    Some((value, length))
}
