//! Writes the name of a prepared folder into its card, which may be a copy of another folder's.

use std::path::Path;

use skincell_vision::card::CardError;
use thiserror::Error;

use crate::prepare::CARD_FILE;
use crate::tools::served::{ServedError, read_card};
use crate::write::{WriteError, replace};

/// Why a folder's name was not written.
#[derive(Debug, Error)]
pub enum NameError {
    /// The card cannot be read.
    #[error(transparent)]
    Served(#[from] ServedError),
    /// The folder's name is not one for a model.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The card cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Gives the model in `folder` the folder's name.
///
/// # Errors
/// [`NameError`]; the card is then unchanged.
pub fn name_as_folder(folder: &Path) -> Result<(), NameError> {
    let mut card = read_card(folder)?;
    card.name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    card.check()?;
    Ok(replace(&folder.join(CARD_FILE), card.to_json()?.as_bytes())?)
}
