//! `model familiarize`: adds a familiarity output to a prepared folder.

use std::path::Path;

use skincell_vision::card::CardError;
use thiserror::Error;

use crate::familiarity::{self, FamiliarityError, FamiliarityReport, FamiliarizeOptions};
use crate::onnx::external::{self, GRAPH_FILE, WEIGHTS_FILE};
use crate::onnx::read::{ReadError, read};
use crate::prepare::CARD_FILE;
use crate::tools::served::{ServedError, read_card};
use crate::write::{Draft, WriteError};

/// Why a folder could not be given a familiarity output.
#[derive(Debug, Error)]
pub enum FamiliarizeError {
    /// The folder cannot be read.
    #[error(transparent)]
    Served(#[from] ServedError),
    /// Its graph cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The photos do not allow a fit.
    #[error(transparent)]
    Fit(#[from] FamiliarityError),
    /// The files cannot be encoded.
    #[error("the graph cannot be encoded: {0}")]
    Encode(String),
    /// The card would be invalid.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The folder cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Fits the familiarity of a prepared folder to photos and writes the folder anew. `progress` is called with
/// the photos done and all of them.
///
/// # Errors
/// [`FamiliarizeError`]; then nothing is written.
pub fn familiarize(
    folder: &Path,
    options: &FamiliarizeOptions<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<FamiliarityReport, FamiliarizeError> {
    let mut card = read_card(folder)?;
    let mut graph = read(&folder.join(GRAPH_FILE))?;
    let report = familiarity::add(&mut graph, &mut card, options, progress)?;
    card.check()?;
    let files = external::lay_out(&graph).map_err(|e| FamiliarizeError::Encode(e.to_string()))?;
    let draft = Draft::begin(folder, true)?;
    draft.write(GRAPH_FILE, &files.graph)?;
    draft.write(WEIGHTS_FILE, &files.weights)?;
    draft.write(CARD_FILE, card.to_json()?.as_bytes())?;
    draft.publish()?;
    Ok(report)
}
