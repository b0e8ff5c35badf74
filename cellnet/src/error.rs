//! Errors, with the offending numbers and the next step. An error either carries its source or prints it,
//! never both, so that a printed chain repeats nothing.

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
        /// The system's error.
        source: std::io::Error,
    },
    /// The file does not begin with cellnet's magic bytes.
    #[error("not a model.cell file: it begins with {found:02x?}; pack the ONNX graph again")]
    Magic {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// The file has another version of the format.
    #[error(
        "model.cell format version {found}, this program reads {expected}; pack the ONNX graph again"
    )]
    Version {
        /// Version in the file.
        found: u32,
        /// [`crate::format::VERSION`].
        expected: u32,
    },
    /// The file is shorter or longer than its header says.
    #[error(
        "the file has {found} bytes but declares {expected}: it was cut short or damaged; \
         pack or copy it again"
    )]
    Length {
        /// Bytes in the file.
        found: u64,
        /// Bytes declared.
        expected: u64,
    },
    /// A part does not match its checksum.
    #[error(
        "checksum of the {part} is {found:08x}, expected {expected:08x}: the file is damaged; \
         pack or copy it again"
    )]
    Checksum {
        /// `header`, `plan` or `weights`.
        part: &'static str,
        /// The checksum of the bytes.
        found: u32,
        /// The checksum in the file.
        expected: u32,
    },
    /// The header or plan is not well formed.
    #[error("the {part} cannot be decoded ({reason}); pack the ONNX graph again")]
    Decode {
        /// `header` or `plan`.
        part: &'static str,
        /// The decoder's reason.
        reason: String,
    },
    /// A check of the plan failed.
    #[error("step {step} of the plan is not sound: {reason}; pack the ONNX graph again")]
    Plan {
        /// Index of the step, or of the map or tensor named in the reason.
        step: usize,
        /// The reason, with numbers.
        reason: String,
    },
    /// The machine is big-endian.
    #[error(
        "model.cell holds little-endian numbers and this machine is big-endian; use another engine"
    )]
    Endian,
}

/// Why a run failed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InferenceError {
    /// An input is missing.
    #[error("input `{name}` is missing; the model takes: {expected}")]
    MissingInput {
        /// The input.
        name: String,
        /// Names of all inputs.
        expected: String,
    },
    /// The model has no input of this name.
    #[error("the model has no input `{name}`; it takes: {expected}")]
    UnknownInput {
        /// The name given.
        name: String,
        /// Names of all inputs.
        expected: String,
    },
    /// An input was given twice.
    #[error("input `{name}` was given more than once; give each once")]
    RepeatedInput {
        /// The input.
        name: String,
    },
    /// An input has the wrong element type.
    #[error("input `{name}` is {found:?}, the model takes {expected:?}")]
    Dtype {
        /// The input.
        name: String,
        /// Given by the caller.
        found: Dtype,
        /// Expected by the model.
        expected: Dtype,
    },
    /// An input has the wrong number of elements.
    #[error("input `{name}` has {found} elements, the model takes {dims:?} = {expected}")]
    Length {
        /// The input.
        name: String,
        /// Given by the caller.
        found: usize,
        /// Expected by the model.
        expected: usize,
        /// Its dimensions.
        dims: Vec<u32>,
    },
    /// The memory of the workspace could not be allocated.
    #[error("no memory for a workspace of {bytes} bytes; run fewer at once")]
    Memory {
        /// Bytes requested.
        bytes: usize,
    },
    /// The workspace belongs to another model.
    #[error("this workspace was made for another model; make one with Workspace::new")]
    Workspace,
    /// A worker thread panicked, which is a bug in this crate.
    #[error("a worker thread failed; please report it with the model")]
    Worker,
}

/// Why an ONNX graph was not packed. The runner then uses another engine.
#[derive(Debug, Error)]
pub enum PackError {
    /// The file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The ONNX file could not be read.
    #[cfg(feature = "pack")]
    #[error(transparent)]
    Read(#[from] skincell_onnx::ReadError),
    /// The engine does not support the operator, or not with these attributes.
    #[error("operator {op} (node `{node}`) cannot be packed: {reason}")]
    Operator {
        /// ONNX operator type.
        op: String,
        /// Node name, or the name of its first output.
        node: String,
        /// The reason.
        reason: String,
    },
    /// The engine cannot represent the tensor.
    #[error("tensor `{name}` cannot be packed: {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// The reason.
        reason: String,
    },
    /// The finished plan fails the checks for opening it, which is a bug in this crate.
    #[error("the packed model does not pass its own checks; please report it with the model")]
    Check(#[source] OpenError),
}
