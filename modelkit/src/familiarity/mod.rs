//! Adds the output `familiarity`: how far a photo is from the photos that a model was made for.
//!
//! The distance is Mahalanobis's on the pooled features before the head, each divided by its L2 norm, with a
//! covariance of low rank (`distance`; Lee et al. 2018, arXiv:1807.03888; Mueller and Hein 2025,
//! arXiv:2505.18032). `sheet` writes it as ordinary operators of the graph, so every engine computes it in
//! the same run.
//!
//! - `gather` lists the photos with their labels and runs the graph on them.
//! - `folds` scores each photo by a fit that has not seen its picture, and takes the threshold from these
//!   scores: the order statistic of conformal prediction. Outliers among the photos are left out.
//! - `foreign` draws pictures of other kinds, on which the fit must tell the difference.
//! - [`calibration`] fits a temperature to labelled photos, only together with a familiarity output: it makes
//!   pictures of other kinds surer too.
//!
//! A familiar photo is not one whose classes are right.

pub mod calibration;
pub mod diagram;
mod distance;
mod folds;
mod foreign;
pub(crate) mod gather;
mod sheet;

use std::path::PathBuf;

use skincell_vision::card::{Card, Familiarity};
use thiserror::Error;

use crate::fields;
use crate::interface;
use crate::onnx::engine::EngineError;
use crate::onnx::graph::Graph;
use crate::photos::PhotosError;

use calibration::Calibrated;
use folds::Fitted;
use gather::{Gathered, Picture};
pub(crate) use sheet::PREFIX;

/// Fewest different pictures that a fit needs.
pub const FEWEST: usize = 35;
/// Most photos that are tried on the familiarity a model had before.
const TRIED: usize = 40;
/// Least area under the ROC curve against pictures of other kinds.
const LEAST_AUROC: f64 = 0.95;
/// Share of unseen photos of the same kind that should be familiar.
const ACCEPTED: f64 = 0.975;
/// Number of steps between the quantiles in the card.
const QUANTILES: usize = 100;
/// A probability that no other class can reach at the same time.
const CERTAIN_ABOVE: f32 = 0.5;
const METHOD: &str = "Mahalanobis distance on L2-normalised pooled features, covariance of rank";

/// Why familiarity could not be fitted.
#[derive(Debug, Error)]
pub enum FamiliarityError {
    /// A photo cannot be read.
    #[error(transparent)]
    Photos(#[from] PhotosError),
    /// The graph cannot be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A folder holds no photo.
    #[error(
        "{0}, and neither do the folders in it; familiarity needs at least {FEWEST} different pictures"
    )]
    Empty(PhotosError),
    /// Some photos cannot be read.
    #[error("{}", unreadable(*photos, files))]
    Unreadable {
        /// Number of photos.
        photos: usize,
        /// What is wrong with each that cannot be read, with its path.
        files: Vec<String>,
    },
    /// There are too few different pictures.
    #[error(
        "familiarity needs at least {FEWEST} different pictures; of {photos} photos {copies} are copies, crops \
         or other versions, so {missing} more are needed",
        copies = photos - pictures,
        missing = FEWEST - pictures
    )]
    TooFew {
        /// Number of photos.
        photos: usize,
        /// Number of different pictures among them.
        pictures: usize,
    },
    /// The photos do not show one kind of picture, so that they cannot be told from others.
    #[error(
        "familiarity is not available: these photos are too different from each other, so that pictures of \
         other kinds are not recognised (area under the ROC curve {auroc:.3}, {LEAST_AUROC} is needed); give \
         photos of the kind the model is used for, without others among them"
    )]
    Diverse {
        /// Area under the ROC curve.
        auroc: f64,
    },
    /// The graph has no features to fit to.
    #[error("familiarity is not available: {0}")]
    NoFeatures(String),
}

/// What was fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct FamiliarityReport {
    /// As in the card.
    pub familiarity: Familiarity,
    /// The rank of the covariance.
    pub rank: usize,
    /// Number of features.
    pub features: usize,
    /// Bytes that the model's files grow by.
    pub bytes: u64,
    /// The calibration, if the photos are labelled.
    pub calibrated: Option<Calibrated>,
    /// Notes for users.
    pub notes: Vec<String>,
}

/// Fits familiarity to the folders among the photos, if there are any. If the photos are too different from
/// each other, or the graph has no features, that is noted.
///
/// # Errors
/// Any other [`FamiliarityError`].
pub(crate) fn add_or_note(
    graph: &mut Graph,
    card: &mut Card,
    photos: &[PathBuf],
    basis: &str,
    notes: &mut Vec<String>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<FamiliarityReport>, FamiliarityError> {
    let folders: Vec<PathBuf> = photos.iter().filter(|path| path.is_dir()).cloned().collect();
    if folders.is_empty() {
        return Ok(None);
    }
    match add(graph, card, &folders, basis, progress) {
        Ok(report) => Ok(Some(report)),
        Err(error @ (FamiliarityError::Diverse { .. } | FamiliarityError::NoFeatures(_))) => {
            notes.push(error.to_string());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Fits familiarity to photos and adds it to a graph, prepared but for this, and to its card. An output that
/// it has already is replaced.
///
/// # Errors
/// [`FamiliarityError`]; then the graph has no familiarity output.
pub(crate) fn add(
    graph: &mut Graph,
    card: &mut Card,
    photos: &[PathBuf],
    basis: &str,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<FamiliarityReport, FamiliarityError> {
    let pictures = gather::list(photos, card).map_err(|error| match error {
        PhotosError::Empty(_) => FamiliarityError::Empty(error),
        error => error.into(),
    })?;
    let mut notes: Vec<String> = gather::unlabelled(&pictures, card).into_iter().collect();
    if let Some(old) = card.familiarity.take() {
        notes.extend(strangers(graph, card, &old, &pictures)?);
        graph.outputs.retain(|output| output.name.as_deref() != Some(&old.output));
        graph.drop_unused();
    }
    card.calibration = None;
    let (mut alone, shape) = floats(graph, card);
    let (features, added) = sheet::features(&mut alone, &card.output.name, &shape)?
        .map_err(FamiliarityError::NoFeatures)?;
    let seen = gather::run(&alone, card, &features, &pictures, progress)?;
    let foreign = gather::drawn(&alone, card, &features)?;
    let fitted = folds::fit(&seen, &foreign)?;
    if fitted.auroc < LEAST_AUROC {
        return Err(FamiliarityError::Diverse { auroc: fitted.auroc });
    }
    graph.nodes.extend(added);
    let constants = alone.constants.into_iter().filter(|(name, _)| name.starts_with(sheet::PREFIX));
    graph.constants.extend(constants);
    let before = graph.parameters();
    let output = sheet::add(graph, &features, &fitted.distance, fitted.threshold);
    let bytes = (graph.parameters() - before) * 4;
    let familiarity = described(&fitted, output, basis, &pictures);
    let (calibrated, more) = calibrate(card, &pictures, &seen, &fitted);
    notes.extend(more);
    card.familiarity = Some(familiarity.clone());
    card.calibration = calibrated.as_ref().map(|c| c.calibration.clone());
    let (rank, features) = (fitted.distance.rank, fitted.distance.mean.len());
    Ok(FamiliarityReport { familiarity, rank, features, bytes, calibrated, notes })
}

/// A note if most of the photos are unfamiliar to `old`, the familiarity that the graph has.
fn strangers(
    graph: &Graph,
    card: &Card,
    old: &Familiarity,
    pictures: &[Picture],
) -> Result<Option<String>, FamiliarityError> {
    let sample: Vec<&Picture> = pictures.iter().step_by(pictures.len().div_ceil(TRIED)).collect();
    let scores = gather::scores(&floats(graph, card).0, card, &old.output, &sample)?;
    let unknown = scores.iter().filter(|score| !old.read(**score).is_familiar).count();
    Ok((unknown * 2 > scores.len()).then(|| {
        format!(
            "{unknown} of {} photos tried were unfamiliar by the familiarity that the model had (fitted to \
             {}): if the model is not made for this kind of photo, give others",
            scores.len(),
            old.basis
        )
    }))
}

/// The error for photos that cannot be read.
fn unreadable(photos: usize, files: &[String]) -> String {
    let shown = files.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    let more = files.len().saturating_sub(5);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let left = photos - files.len();
    let missing = match FEWEST.saturating_sub(left) {
        0 => String::new(),
        missing => format!(
            "; familiarity needs at least {FEWEST} different pictures, so with the {left} others at least \
             {missing} more are needed"
        ),
    };
    format!(
        "{} of {photos} photos cannot be read; repair or remove them: {shown}{more}{missing}",
        files.len()
    )
}

/// A copy of the graph with one input, the photo in float32, and that input's shape.
fn floats(graph: &Graph, card: &Card) -> (Graph, [usize; 4]) {
    let mut alone = fields::closed(graph, &card.fields);
    interface::bytes_to_float(&mut alone);
    (alone, interface::shape_of(&card.input))
}

fn described(fitted: &Fitted, output: String, basis: &str, pictures: &[Picture]) -> Familiarity {
    let count = fitted.kept.len();
    let logs: Vec<f64> = fitted.scores.iter().map(|score| score.max(1e-9).ln()).collect();
    let mean = logs.iter().sum::<f64>() / count as f64;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count as f64 - 1.0);
    let rounded = |value: f64, digits: i32| {
        ((value * 10_f64.powi(digits)).round() / 10_f64.powi(digits)) as f32
    };
    let quantile = |step: usize| {
        let at = step as f64 / QUANTILES as f64 * (count as f64 - 1.0);
        let (low, high) = (fitted.scores[at.floor() as usize], fitted.scores[at.ceil() as usize]);
        rounded(low + (high - low) * at.fract(), 4)
    };
    Familiarity {
        output,
        method: format!("{METHOD} {} (arXiv:1807.03888, arXiv:2505.18032)", fitted.distance.rank),
        basis: if basis.is_empty() { format!("{count} photos") } else { basis.to_owned() },
        photos: count as u32,
        pictures: fitted.pictures as u32,
        // The largest of n scores accepts n of n + 1 photos; no threshold of few photos accepts more.
        accepted: rounded(ACCEPTED.min(count as f64 / (count as f64 + 1.0)), 4),
        auroc: rounded(fitted.auroc, 4),
        against: foreign::DESCRIPTION.to_owned(),
        quantiles: (0..=QUANTILES).map(quantile).collect(),
        log_mean: rounded(fitted.log_mean, 4),
        log_deviation: rounded(variance.sqrt().max(1e-4), 4),
        outliers: fitted.outliers.iter().map(|index| pictures[*index].name.clone()).collect(),
    }
}

fn calibrate(
    card: &Card,
    pictures: &[Picture],
    seen: &[Gathered],
    fitted: &Fitted,
) -> (Option<Calibrated>, Vec<String>) {
    let mut notes = Vec::new();
    let outliers = fitted.outliers.len();
    if outliers * 100 > pictures.len() * 8 {
        notes.push(format!(
            "{outliers} of {} photos are of another kind; above 8 % the rest is not reliable: look at them \
             and fit again",
            pictures.len()
        ));
    }
    let rows: Vec<(Vec<f32>, usize)> = fitted
        .kept
        .iter()
        .filter_map(|index| Some((seen[*index].probabilities.clone(), pictures[*index].class?)))
        .collect();
    if rows.is_empty() {
        return (None, notes);
    }
    if rows.len() < FEWEST {
        notes.push(format!(
            "{} labelled photos are too few for a calibration; {} more are needed",
            rows.len(),
            FEWEST - rows.len()
        ));
        return (None, notes);
    }
    let calibrated = calibration::fit(&rows, card.output.activation, CERTAIN_ABOVE);
    if calibrated.before.accuracy < 1.5 / card.classes.len() as f64 {
        notes.push(format!(
            "no calibration: the model's first class is right on {:.1} % of the labelled photos only; check \
             the names of the folders and the preprocessing",
            calibrated.before.accuracy * 100.0
        ));
        return (None, notes);
    }
    (Some(calibrated), notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_files_that_cannot_be_read_and_what_is_missing() {
        let files = |count: usize| (0..count).map(|i| format!("{i}.png: bad")).collect();
        let said = FamiliarityError::Unreadable { photos: 42, files: files(7) }.to_string();
        assert!(said.starts_with("7 of 42 photos cannot be read"), "{said}");
        assert!(said.ends_with("4.png: bad; and 2 more"), "{said}");
        let said = FamiliarityError::Unreadable { photos: 42, files: files(8) }.to_string();
        assert!(said.ends_with("with the 34 others at least 1 more are needed"), "{said}");
    }
}
