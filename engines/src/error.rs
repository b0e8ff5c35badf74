//! Why a model is not loaded and why it does not run, in the same words for every engine.

use std::path::PathBuf;

use crate::tensor::TensorError;

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no model file.
    #[error("there is no {0}; make it with `skincell model prepare`")]
    Missing(PathBuf),
    /// The engine does not take it.
    #[error("{engine} cannot load {model}: {reason}")]
    Refused {
        /// The engine's name.
        engine: &'static str,
        /// The model file, or what its bytes are called.
        model: String,
        /// What is wrong with it, where an engine says so in its own words.
        reason: String,
    },
    /// Its files are not what they were when loading began.
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
    /// A tensor that contradicts itself or the model, or that the engine has no type for.
    #[error("input {name:?}: {source}")]
    Tensor {
        /// The input's name.
        name: String,
        /// What is wrong.
        source: TensorError,
    },
    /// A name the model does not have.
    #[error("the model has no input {name:?}; it has {known:?}")]
    UnknownInput {
        /// The name given.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// Too few inputs.
    #[error("the input {0:?} is missing")]
    MissingInput(String),
    /// The same input twice: engines differ in which of the two they would take.
    #[error("the input {0:?} was given more than once")]
    RepeatedInput(String),
    /// The model's files were changed under it.
    #[error("{0}; the model is loaded again for the next request: replace files by rename")]
    Damaged(String),
    /// The engine's own error.
    #[error("the engine failed: {0}")]
    Engine(String),
}
