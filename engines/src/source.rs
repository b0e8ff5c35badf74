//! Where a model comes from, and what its files are called.

use std::path::{Path, PathBuf};

/// File of a packed model.
pub const CELL_FILE: &str = "model.cell";
/// File of an ONNX graph; its weights lie beside it.
pub const GRAPH_FILE: &str = "model.onnx";
/// File of those weights.
pub const WEIGHTS_FILE: &str = "model.onnx.data";
/// All files of a model that engines read, the one that is preferred first.
pub const FILES: [&str; 3] = [CELL_FILE, GRAPH_FILE, WEIGHTS_FILE];

/// Where a model comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// A model folder, whose files may be mapped.
    Folder(&'a Path),
    /// Files that are part of the program.
    Static(StaticFiles<'a>),
    /// The bytes of an ONNX model that refers to no other file, from somebody who is not trusted.
    Bytes(Vec<u8>),
}

/// A model folder's files as parts of the program.
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
    /// What the packed model or the graph of this source is called in errors: `file` is one of
    /// [`CELL_FILE`] and [`GRAPH_FILE`].
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
    pub(crate) fn has_graph(&self) -> bool {
        match self {
            Self::Folder(folder) => folder.join(GRAPH_FILE).is_file(),
            Self::Static(files) => files.graph.is_some(),
            Self::Bytes(_) => true,
        }
    }
}
