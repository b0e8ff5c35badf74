//! Errors of loading and running a model, the same for every engine.

use std::path::PathBuf;

use crate::tensor::TensorError;

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model file does not exist.
    #[error("there is no {0}; make it with `skincell model prepare`")]
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
    /// The files changed while they were loaded.
    #[error("the files of the model changed while it was loaded; replace them by rename")]
    Changed,
}

impl LoadError {
    /// The reason without the paths of this machine.
    #[must_use]
    pub fn in_short(&self) -> String {
        match self {
            Self::Missing(_) => "there is no model file".to_owned(),
            Self::Refused { engine, .. } => {
                format!("{engine} cannot load it; the log has the reason")
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
            Self::Damaged(_) | Self::Engine(_) => None,
        }
    }
}
