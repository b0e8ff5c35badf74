//! `model measure --calibration`: how honest a prepared model's probabilities are, on labelled photos, with
//! and without the temperature in its card.

use std::path::{Path, PathBuf};

use skincell_engines::Engine;
use skincell_vision::rank::{answered, probabilities};
use thiserror::Error;

use crate::familiarity::calibration::{Honesty, measure};
use crate::familiarity::gather;
use crate::photos::{self, PhotosError};
use crate::tools::served::{Served, ServedError};

/// Why honesty could not be measured.
#[derive(Debug, Error)]
pub enum HonestyError {
    /// A photo cannot be read.
    #[error(transparent)]
    Photos(#[from] PhotosError),
    /// The model cannot be run.
    #[error(transparent)]
    Served(#[from] ServedError),
    /// No photo has a label.
    #[error(
        "none of {photos} photos lies in a subfolder named as a class; the classes are {classes}"
    )]
    NoLabels {
        /// Number of photos.
        photos: usize,
        /// Labels of the classes.
        classes: String,
    },
}

/// Honesty of a model's probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Of the probabilities without a temperature.
    pub before: Honesty,
    /// With the card's temperature, if it has one.
    pub after: Option<(f32, Honesty)>,
    /// Of the familiar photos, with the temperature, if the model tells them.
    pub familiar: Option<Honesty>,
    /// Photos without a label, which were left out.
    pub unlabelled: usize,
}

/// Runs the labelled photos among files, folders and their subfolders. `progress` is called with the photos
/// done and all of them.
///
/// # Errors
/// [`HonestyError`].
pub fn honesty(
    folder: &Path,
    engine: &dyn Engine,
    paths: &[PathBuf],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Measured, HonestyError> {
    let served = Served::open(folder, engine)?;
    let card = served.card();
    let pictures = gather::list(paths, card)?;
    let labelled: Vec<_> = pictures.iter().filter_map(|p| Some((&p.file, p.class?))).collect();
    if labelled.is_empty() {
        let labels: Vec<&str> = card.classes.iter().map(|class| class.label.as_str()).collect();
        let (photos, classes) = (pictures.len(), labels.join(", "));
        return Err(HonestyError::NoLabels { photos, classes });
    }
    let temperature = card.calibration.as_ref().map(|calibration| calibration.temperature);
    let (mut plain, mut scaled, mut familiar) = (Vec::new(), Vec::new(), Vec::new());
    for (done, (file, class)) in labelled.iter().enumerate() {
        progress(done, labelled.len());
        let outcome = served.run(&photos::load(file, &card.input)?)?;
        let engine = served.engine();
        let row = probabilities(&outcome.scores, &card.output)
            .map_err(|error| ServedError::Scores { engine, error })?;
        let after = answered(&row, card);
        let scored = card.familiarity.as_ref().zip(outcome.familiarity);
        if scored.is_some_and(|(familiarity, score)| familiarity.read(score).is_familiar) {
            familiar.push((after.clone(), *class));
        }
        scaled.push((after, *class));
        plain.push((row, *class));
    }
    progress(labelled.len(), labelled.len());
    Ok(Measured {
        before: measure(&plain),
        after: temperature.map(|temperature| (temperature, measure(&scaled))),
        familiar: card.familiarity.as_ref().map(|_| measure(&familiar)),
        unlabelled: pictures.len() - labelled.len(),
    })
}
