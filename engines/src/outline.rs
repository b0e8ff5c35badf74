//! The check that every ONNX file passes before an engine reads it.
//!
//! Engines get a [`Graph`] only from here, after `skincell_onnx::outline` has checked the file's lengths:
//! rten's reader never returns from some damaged files. Data files outside the model's folder are refused
//! too.

use std::path::PathBuf;

use skincell_onnx::{external, outline, regular};

use crate::error::LoadError;
use crate::source::{GRAPH_FILE, Source, StaticFiles, WEIGHTS_FILE};

/// A checked ONNX graph, for an engine to read.
pub(crate) struct Graph<'a> {
    /// The file, or a name for the bytes.
    pub(crate) name: String,
    pub(crate) place: Place<'a>,
}

/// Where the graph is.
pub(crate) enum Place<'a> {
    /// A file; the data files it names are relative to its folder.
    File(PathBuf),
    /// Bytes compiled into the program.
    Static(&'static [u8], StaticFiles<'a>),
    /// Bytes in memory, without data files.
    Bytes(Vec<u8>),
}

impl<'a> Graph<'a> {
    /// The graph of `source`, for `engine`.
    pub(crate) fn of(source: Source<'a>, engine: &'static str) -> Result<Self, LoadError> {
        let path = source.path(GRAPH_FILE);
        if !source.has_graph() {
            return Err(LoadError::Missing(path));
        }
        match source {
            Source::Folder(_) => Self::file(path, engine),
            Source::Static(files) => {
                let graph = files.graph.unwrap_or_default();
                let known = files.weights.is_some().then_some(WEIGHTS_FILE);
                let checked = check(graph, known);
                let place = Place::Static(graph, files);
                Self { name: path.display().to_string(), place }.if_ok(checked, engine)
            }
            Source::Bytes(bytes) => {
                let checked = check(&bytes, None);
                let place = Place::Bytes(bytes);
                Self { name: path.display().to_string(), place }.if_ok(checked, engine)
            }
        }
    }

    /// The ONNX file at `path`, of any name.
    pub(crate) fn file(path: PathBuf, engine: &'static str) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let refused = |reason| refused(engine, &name, reason);
        let bytes =
            regular::read(&path).map_err(|error| LoadError::of(engine, name.clone(), &error))?;
        let outline = outline::check(&bytes).map_err(|error| refused(error.to_string()))?;
        for file in outline.data_files {
            external::resolve(&path, file)
                .map_err(|error| refused(format!("weights in {file:?}: {error}")))?;
        }
        Ok(Self { name, place: Place::File(path) })
    }

    fn if_ok(self, checked: Result<(), String>, engine: &'static str) -> Result<Self, LoadError> {
        match checked {
            Ok(()) => Ok(self),
            Err(reason) => Err(self.refused(engine, reason)),
        }
    }

    /// The error that refuses this graph for `reason`.
    pub(crate) fn refused(&self, engine: &'static str, reason: impl ToString) -> LoadError {
        refused(engine, &self.name, reason.to_string())
    }
}

fn refused(engine: &'static str, name: &str, reason: String) -> LoadError {
    LoadError::Refused { engine, model: name.to_owned(), reason }
}

/// Checks a graph in memory; its weights must be in the graph itself or in the file `known`.
fn check(bytes: &[u8], known: Option<&str>) -> Result<(), String> {
    let outline = outline::check(bytes).map_err(|error| error.to_string())?;
    match outline.data_files.into_iter().find(|file| Some(*file) != known) {
        Some(file) => {
            Err(format!("weights in {file:?}: this data file was not given with the model"))
        }
        None => Ok(()),
    }
}
