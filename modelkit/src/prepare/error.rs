//! Why a model cannot be prepared.

use skincell_vision::card::CardError;
use thiserror::Error;

use crate::compare::CompareError;
use crate::familiarity::FamiliarityError;
use crate::interface::InterfaceError;
use crate::onnx::engine::EngineError;
use crate::onnx::read::ReadError;
use crate::photos::PhotosError;
use crate::scores::ScoresError;
use crate::write::WriteError;

/// Why a model could not be prepared.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The ONNX file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its inputs or outputs do not fit.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The engine cannot run it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine cannot run it for one photo, because it was exported for several.
    #[error(
        "{error}; the file takes {batch} photos at once: export the model for one photo, or with an open \
         axis for the batch"
    )]
    Batch {
        /// The number of photos.
        batch: usize,
        /// The engine's error.
        error: EngineError,
    },
    /// The kind of its scores is unclear or contradictory.
    #[error(transparent)]
    Scores(#[from] ScoresError),
    /// The photos to compare on cannot be read.
    #[error(transparent)]
    Photos(#[from] PhotosError),
    /// The comparison with the original failed.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// Familiarity cannot be fitted to the folders of photos.
    #[error(transparent)]
    Familiarity(#[from] FamiliarityError),
    /// There are no labels.
    #[error(
        "the model does not name its classes; name them with --labels FILE or --labels a,b,c, in the \
         order of its scores"
    )]
    NoLabels,
    /// The model cannot have its name.
    #[error(
        "the model would be called \"{name}\", but a name has only small letters, digits, `.`, `_` and `-`, begins \
         with a letter or digit and has at most 64 of them: {advice}"
    )]
    Name {
        /// The name.
        name: String,
        /// What to do.
        advice: String,
    },
    /// The named layer cannot have a heatmap.
    #[error("--cam-layer: {0}")]
    Layer(String),
    /// The card would be invalid.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The files cannot be encoded.
    #[error("the graph cannot be encoded: {0}")]
    Encode(String),
    /// The folder cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}
