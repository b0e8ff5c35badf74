//! What can go wrong, with the offending numbers and what to do next. No error here hides another:
//! a source is either carried or told, never both.

use std::path::PathBuf;

use thiserror::Error;

use crate::plan::Dtype;

/// Why a `model.cell` was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It does not begin like one of ours.
    #[error("not a model.cell file: it begins with {found:02x?}; pack the ONNX graph again")]
    Magic {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// Written by another version.
    #[error(
        "model.cell format version {found}, this program reads {expected}; pack the ONNX graph again"
    )]
    Version {
        /// Version in the file.
        found: u32,
        /// [`crate::format::VERSION`].
        expected: u32,
    },
    /// Shorter or longer than its header says.
    #[error(
        "the file has {found} bytes where {expected} are declared: it was cut or damaged; pack or copy it again"
    )]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// A part does not match its checksum.
    #[error(
        "checksum of the {part} is {found:08x}, expected {expected:08x}: the file is damaged; pack or copy it again"
    )]
    Checksum {
        /// `header`, `plan` or `weights`.
        part: &'static str,
        /// What the bytes give.
        found: u32,
        /// What the file declares.
        expected: u32,
    },
    /// The header or plan is not well formed.
    #[error("the {part} cannot be decoded ({reason}); pack the ONNX graph again")]
    Decode {
        /// `header` or `plan`.
        part: &'static str,
        /// Why not.
        reason: String,
    },
    /// The plan would read or write where it must not.
    #[error("step {step} of the plan is not sound: {reason}; pack the ONNX graph again")]
    Plan {
        /// Index of the step, or of the map or tensor named in the reason.
        step: usize,
        /// What is wrong, with numbers.
        reason: String,
    },
    /// This machine stores numbers the other way round.
    #[error(
        "model.cell holds little-endian numbers and this machine is big-endian; use another engine"
    )]
    Endian,
}

/// Why a run gave no result.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InferenceError {
    /// The caller did not give this input.
    #[error("input `{name}` is missing; the model takes: {expected}")]
    MissingInput {
        /// The input.
        name: String,
        /// Names of all inputs.
        expected: String,
    },
    /// The caller gave a tensor the model does not know.
    #[error("the model has no input `{name}`; it takes: {expected}")]
    UnknownInput {
        /// The name given.
        name: String,
        /// Names of all inputs.
        expected: String,
    },
    /// The caller gave a tensor twice.
    #[error("input `{name}` was given more than once; give each once")]
    RepeatedInput {
        /// The input.
        name: String,
    },
    /// Wrong element type.
    #[error("input `{name}` is {found:?}, the model takes {expected:?}")]
    Dtype {
        /// The input.
        name: String,
        /// What was given.
        found: Dtype,
        /// What it takes.
        expected: Dtype,
    },
    /// Wrong number of elements.
    #[error("input `{name}` has {found} elements, the model takes {dims:?} = {expected}")]
    Length {
        /// The input.
        name: String,
        /// What was given.
        found: usize,
        /// What it takes.
        expected: usize,
        /// Its dimensions.
        dims: Vec<u32>,
    },
    /// The workspace could not be made or grown.
    #[error("no memory for a workspace of {bytes} bytes; run fewer at once")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The workspace belongs to another model.
    #[error("this workspace was made for another model; make one with Workspace::new")]
    Workspace,
    /// A thread panicked at work, which is a bug in this crate.
    #[error("a worker thread failed; please report it with the model")]
    Worker,
}

/// Why an ONNX graph was not packed. The runner then takes another engine.
#[derive(Debug, Error)]
pub enum PackError {
    /// The file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The ONNX file could not be read.
    #[cfg(feature = "pack")]
    #[error(transparent)]
    Read(#[from] skincell_onnx::ReadError),
    /// An operator the engine does not know, or not with these attributes.
    #[error(
        "operator {op} (node `{node}`) cannot be packed: {reason}; use another engine for this model"
    )]
    Operator {
        /// ONNX operator type.
        op: String,
        /// Node name, or the name of its first output.
        node: String,
        /// Why.
        reason: String,
    },
    /// A tensor the engine cannot hold.
    #[error("tensor `{name}` cannot be packed: {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The finished plan does not pass the reader's own checks, which is a bug in this crate.
    #[error("the packed model does not pass its own checks; please report it with the model")]
    Check(#[source] OpenError),
}
