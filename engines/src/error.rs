//! Errors of loading and running a model, the same for every engine.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use crate::source::CELL_FILE;
use crate::tensor::TensorError;

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model file does not exist.
    #[error("there is no {path}; {step}", path = .0.display(), step = step(.0))]
    Missing(PathBuf),
    /// The engine cannot load the model.
    #[error("{engine} cannot load {model}: {reason}")]
    Refused {
        /// The engine's name.
        engine: &'static str,
        /// The model file, or a name for its bytes.
        model: String,
        /// The reason, in the engine's own words.
        reason: String,
    },
    /// The machine has too little memory, or too few descriptors or threads, to load the model now.
    #[error("{engine} cannot load {model} now: {reason}")]
    Shortage {
        /// The engine's name.
        engine: &'static str,
        /// The model file, or a name for its bytes.
        model: String,
        /// The reason, in the engine's own words.
        reason: String,
    },
    /// The files changed while they were loaded.
    #[error("the files of the model changed while it was loaded; replace them by rename")]
    Changed,
}

/// What makes a file that is missing.
fn step(path: &Path) -> &'static str {
    if path.ends_with(CELL_FILE) {
        "make it with `skincell model pack`, or leave the choice of the engine to --engine auto"
    } else {
        "make it with `skincell model prepare`"
    }
}

/// Whether an error, or one it comes from, is the system's for too little memory, or too few descriptors or
/// threads.
fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let kinds = [io::ErrorKind::OutOfMemory, io::ErrorKind::WouldBlock];
            // ENFILE and EMFILE, which have no stable kind.
            return kinds.contains(&error.kind()) || matches!(error.raw_os_error(), Some(23 | 24));
        }
        next = error.source();
    }
    false
}

impl LoadError {
    /// Why `engine` does not load `model`.
    pub(crate) fn of(engine: &'static str, model: String, error: &(impl Error + 'static)) -> Self {
        let reason = error.to_string();
        if is_shortage(error) {
            Self::Shortage { engine, model, reason }
        } else {
            Self::Refused { engine, model, reason }
        }
    }

    /// Whether trying again may help without a change of the model's files.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Shortage { .. } | Self::Changed)
    }

    /// The reason without the paths of this machine.
    #[must_use]
    pub fn in_short(&self) -> String {
        match self {
            Self::Missing(_) => "there is no model file".to_owned(),
            Self::Refused { engine, .. } => {
                format!("{engine} cannot load it; the log has the reason")
            }
            Self::Shortage { engine, .. } => {
                format!("{engine} cannot load it now; the log has the reason")
            }
            Self::Changed => self.to_string(),
        }
    }
}

/// Why a model did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The tensor's bytes, dimensions or type do not fit the model or the engine.
    #[error("input {name:?}: {source}")]
    Tensor {
        /// The input's name.
        name: String,
        /// The reason.
        source: TensorError,
    },
    /// The model has no input of this name.
    #[error("the model has no input {name:?}; it has {known:?}")]
    UnknownInput {
        /// The name given.
        name: String,
        /// The names of the model's inputs.
        known: Vec<String>,
    },
    /// An input is missing.
    #[error("the input {0:?} is missing")]
    MissingInput(String),
    /// An input was given twice; engines differ in which of the two they would use.
    #[error("the input {0:?} was given more than once")]
    RepeatedInput(String),
    /// The model's files were changed while it was loaded.
    #[error("{0}; the model is loaded again for the next request: replace files by rename")]
    Damaged(String),
    /// wasi-nn has no type for the elements of an output.
    #[error(
        "the output {name:?} is {found}, which wasi-nn has no type for; export the model with outputs of float32"
    )]
    OutputType {
        /// The output's name.
        name: String,
        /// Its type, in the engine's words.
        found: String,
    },
    /// The engine's own error.
    #[error("the engine failed: {0}")]
    Engine(String),
}

impl RunError {
    /// The reason in names and numbers of the request and of the model's inputs, if it is one that the
    /// request can mend; an engine's own words may name files of this machine.
    #[must_use]
    pub fn of_the_request(&self) -> Option<String> {
        match self {
            Self::Tensor { .. }
            | Self::UnknownInput { .. }
            | Self::MissingInput(_)
            | Self::RepeatedInput(_) => Some(self.to_string()),
            Self::Damaged(_) | Self::OutputType { .. } | Self::Engine(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LoadError;
    use std::io;
    use std::path::PathBuf;

    #[test]
    fn a_shortage_passes_and_damage_does_not() {
        let may_pass =
            |error: io::Error| LoadError::of("cellnet", String::new(), &error).may_pass();
        assert!([11, 12, 23, 24].into_iter().all(|n| may_pass(io::Error::from_raw_os_error(n))));
        assert!(!may_pass(io::Error::other("the checksum is another")));
        assert!(LoadError::Changed.may_pass());
    }

    #[test]
    fn each_missing_file_is_said_with_what_makes_it() {
        let said = |file| LoadError::Missing(PathBuf::from("skin").join(file)).to_string();
        assert!(said("model.cell").contains("skincell model pack"));
        assert!(said("model.onnx").contains("skincell model prepare"));
    }
}
