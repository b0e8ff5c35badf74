//! Where a model comes from, and the names of its files.

use std::path::{Path, PathBuf};

pub use skincell_onnx::regular;

/// File of a packed model.
pub const CELL_FILE: &str = "model.cell";
/// File of an ONNX graph; its weights lie beside it.
pub const GRAPH_FILE: &str = "model.onnx";
/// File of the ONNX graph's weights.
pub const WEIGHTS_FILE: &str = "model.onnx.data";
/// The files of a model that engines read, in order of preference.
pub const FILES: [&str; 3] = [CELL_FILE, GRAPH_FILE, WEIGHTS_FILE];

/// Where a model comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// A model folder, whose files may be mapped.
    Folder(&'a Path),
    /// Files compiled into the program.
    Static(StaticFiles<'a>),
    /// The untrusted bytes of an ONNX model without data files.
    Bytes(Vec<u8>),
}

/// A model folder's files, compiled into the program.
#[derive(Debug, Clone, Copy)]
pub struct StaticFiles<'a> {
    /// The model's name, for errors.
    pub name: &'a str,
    /// `model.cell`.
    pub cell: Option<&'static [u8]>,
    /// `model.onnx`.
    pub graph: Option<&'static [u8]>,
    /// `model.onnx.data`.
    pub weights: Option<&'static [u8]>,
}

impl Source<'_> {
    /// The path of `file` ([`CELL_FILE`] or [`GRAPH_FILE`]) in this source, or a name for it in errors.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(file),
            Self::Static(files) => Path::new(files.name).join(file),
            Self::Bytes(_) => PathBuf::from("the given bytes"),
        }
    }

    /// Whether there is a `model.cell`.
    pub(crate) fn has_cell(&self) -> bool {
        match self {
            Self::Folder(folder) => folder.join(CELL_FILE).is_file(),
            Self::Static(files) => files.cell.is_some(),
            Self::Bytes(_) => false,
        }
    }

    /// Whether there is an ONNX graph.
    #[cfg(feature = "rten")]
    pub(crate) fn has_graph(&self) -> bool {
        match self {
            Self::Folder(folder) => folder.join(GRAPH_FILE).is_file(),
            Self::Static(files) => files.graph.is_some(),
            Self::Bytes(_) => true,
        }
    }
}
