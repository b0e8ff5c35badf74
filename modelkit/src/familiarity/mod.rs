//! Adds the output `familiarity`: how far a photo is from the photos that a model was made for.
//!
//! The distance is Mahalanobis's on the pooled features before the head, each divided by its L2 norm, with a
//! covariance of low rank (`distance`; Lee et al. 2018, arXiv:1807.03888; Mueller and Hein 2025,
//! arXiv:2505.18032). `sheet` writes it as ordinary operators of the graph, so every engine computes it in
//! the same run.
//!
//! - `gather` lists the photos with their labels and runs the graph on them.
//! - `versions` tells which of them show the same picture.
//! - `outliers` finds photos of other kinds among those given, which are left out.
//! - `folds` scores each photo by a fit that has not seen its picture, and takes the threshold from these
//!   scores: the order statistic of conformal prediction, each picture counted once.
//! - `foreign` draws pictures of other kinds, on which the fit must tell the difference.
//! - [`calibration`] fits a temperature to labelled photos, only together with a familiarity output: it makes
//!   pictures of other kinds surer too.
//!
//! A familiar photo is not one whose classes are right.

pub mod calibration;
pub mod diagram;
mod distance;
mod exchanged;
mod folds;
mod foreign;
pub(crate) mod gather;
mod held;
mod hidden;
mod outliers;
mod sheet;
mod versions;

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
/// Most files that an error names.
const SHOWN: usize = 5;
/// Largest share of outliers with which a fit is reliable.
const MOST_OUTLIERS: f64 = 0.08;
/// Standard errors by which the share of labelled photos that are classified rightly must exceed guessing.
const ABOVE_CHANCE: f64 = 2.0;
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
    #[error("{}", too_few(*photos, *pictures, outliers))]
    TooFew {
        /// Number of photos.
        photos: usize,
        /// Number of different pictures of one kind among them.
        pictures: usize,
        /// Names of the photos of another kind.
        outliers: Vec<String>,
    },
    /// Subfolders are named as no class.
    #[error(
        "{0}. Rename the subfolders, or give photos without labels as folders of their own, such as --photos \
         2025 2026"
    )]
    NoClasses(String),
    /// Too many of the photos are of another kind than the others.
    #[error(
        "{} of {photos} photos are of another kind than the others; above {:.0} % the fit is not reliable: \
         remove them, or give more photos like them: {}",
        outliers.len(), MOST_OUTLIERS * 100.0, some_of(outliers, SHOWN, "; ")
    )]
    Mixed {
        /// Number of photos.
        photos: usize,
        /// Names of those of another kind.
        outliers: Vec<String>,
    },
    /// The model does not tell the labelled photos apart.
    #[error(
        "the model's first class is right on {:.1} % of {labelled} labelled photos, and guessing among \
         {classes} classes on {:.1} %: the photos are of another kind, or the folders' names, the order of \
         the labels or the preprocessing are wrong",
        accuracy * 100.0, 100.0 / *classes as f64
    )]
    AtChance {
        /// Share of labelled photos whose first class is right.
        accuracy: f64,
        /// Number of labelled photos.
        labelled: usize,
        /// Number of classes.
        classes: usize,
    },
    /// Most photos are unfamiliar by the familiarity that the model has.
    #[error(
        "{unknown} of {tried} photos tried are unfamiliar to the model, whose familiarity was fitted to {basis}: \
         they are of another kind. If the model is made for this kind, replace its familiarity with --replace"
    )]
    Strangers {
        /// Number of unfamiliar photos.
        unknown: usize,
        /// Number of photos tried.
        tried: usize,
        /// What the familiarity was fitted to.
        basis: String,
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

/// What to fit familiarity to.
#[derive(Debug, Clone, Copy, Default)]
pub struct FamiliarizeOptions<'a> {
    /// Photos of the kind the model is made for: files, and folders with subfolders named as classes.
    pub photos: &'a [PathBuf],
    /// The photos in words; if empty, their number.
    pub basis: &'a str,
    /// Whether a familiarity by which most of the photos are unfamiliar is replaced.
    pub replace: bool,
}

/// Fits familiarity to the folders among the photos, if there are any. If the photos are too different from
/// each other, or the graph has no features, that is noted.
///
/// # Errors
/// Any other [`FamiliarityError`].
pub(crate) fn add_or_note(
    graph: &mut Graph,
    card: &mut Card,
    options: &FamiliarizeOptions<'_>,
    notes: &mut Vec<String>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<FamiliarityReport>, FamiliarityError> {
    let folders: Vec<PathBuf> =
        options.photos.iter().filter(|path| path.is_dir()).cloned().collect();
    if folders.is_empty() {
        return Ok(None);
    }
    match add(graph, card, &FamiliarizeOptions { photos: &folders, ..*options }, progress) {
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
    options: &FamiliarizeOptions<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<FamiliarityReport, FamiliarityError> {
    let pictures = gather::list(options.photos, card).map_err(|error| match error {
        PhotosError::Empty(_) => FamiliarityError::Empty(error),
        error => error.into(),
    })?;
    if let Some(wrong) = gather::unlabelled(&pictures, card) {
        return Err(FamiliarityError::NoClasses(wrong));
    }
    versions::enough(&pictures, card)?;
    if let Some(old) = card.familiarity.take() {
        if !options.replace {
            refuse_strangers(graph, card, &old, &pictures)?;
        }
        graph.outputs.retain(|output| output.name.as_deref() != Some(&old.output));
        graph.drop_unused();
    }
    card.calibration = None;
    let (mut alone, shape) = floats(graph, card);
    let (features, added) = sheet::features(&mut alone, &card.output.name, &shape)?
        .map_err(FamiliarityError::NoFeatures)?;
    let seen = gather::run(&alone, card, &features, &pictures, progress)?;
    let foreign = gather::drawn(&alone, card, &features)?;
    let names = |indices: &[usize]| -> Vec<String> {
        indices.iter().map(|index| pictures[*index].name.clone()).collect()
    };
    let fitted = folds::fit(&seen, &foreign).map_err(|few| FamiliarityError::TooFew {
        photos: pictures.len(),
        pictures: few.pictures,
        outliers: names(&few.outliers),
    })?;
    if fitted.auroc < LEAST_AUROC {
        return Err(FamiliarityError::Diverse { auroc: fitted.auroc });
    }
    let outliers = names(&fitted.outliers);
    if fitted.outliers.len() as f64 > pictures.len() as f64 * MOST_OUTLIERS {
        return Err(FamiliarityError::Mixed { photos: pictures.len(), outliers });
    }
    let (calibrated, notes) = calibrate(card, &pictures, &seen, &fitted)?;
    graph.nodes.extend(added);
    let constants = alone.constants.into_iter().filter(|(name, _)| name.starts_with(sheet::PREFIX));
    graph.constants.extend(constants);
    let before = graph.parameters();
    let output = sheet::add(graph, &features, &fitted.distance, fitted.threshold);
    let bytes = (graph.parameters() - before) * 4;
    let familiarity = Familiarity { outliers, ..described(&fitted, output, options.basis) };
    card.familiarity = Some(familiarity.clone());
    card.calibration = calibrated.as_ref().map(|c| c.calibration.clone());
    let (rank, features) = (fitted.distance.rank, fitted.distance.mean.len());
    Ok(FamiliarityReport { familiarity, rank, features, bytes, calibrated, notes })
}

/// Refuses photos most of which are unfamiliar by `old`, the familiarity that the graph has.
fn refuse_strangers(
    graph: &Graph,
    card: &Card,
    old: &Familiarity,
    pictures: &[Picture],
) -> Result<(), FamiliarityError> {
    let sample: Vec<&Picture> = pictures.iter().step_by(pictures.len().div_ceil(TRIED)).collect();
    let scores = gather::scores(&floats(graph, card).0, card, &old.output, &sample)?;
    let unknown = scores.iter().filter(|score| !old.read(**score).is_familiar).count();
    if unknown * 2 <= scores.len() {
        return Ok(());
    }
    Err(FamiliarityError::Strangers { unknown, tried: scores.len(), basis: old.basis.clone() })
}

/// The first `most` of a list of names or sentences, and how many more there are.
fn some_of(all: &[String], most: usize, between: &str) -> String {
    let shown = all[..all.len().min(most)].join(between);
    match all.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown}{between}and {more} more"),
    }
}

/// The error for too few pictures.
fn too_few(photos: usize, pictures: usize, outliers: &[String]) -> String {
    let copies = photos - outliers.len() - pictures;
    let others = match outliers.len() {
        0 => String::new(),
        count => format!(
            ", {count} are of another kind than the others ({})",
            some_of(outliers, SHOWN, "; ")
        ),
    };
    format!(
        "familiarity needs at least {FEWEST} different pictures; photos: {photos}, of which copies, crops or \
         other versions: {copies}{others}; so {} needed",
        more_are(FEWEST.saturating_sub(pictures))
    )
}

/// `1 more is`, `2 more are`.
fn more_are(count: usize) -> String {
    format!("{count} more {}", if count == 1 { "is" } else { "are" })
}

/// The error for photos that cannot be read.
fn unreadable(photos: usize, files: &[String]) -> String {
    let left = photos - files.len();
    let missing = match FEWEST.saturating_sub(left) {
        0 => String::new(),
        missing => format!(
            "; familiarity needs at least {FEWEST} different pictures, so with the {left} others at least \
             {} needed",
            more_are(missing)
        ),
    };
    format!(
        "{} of {photos} photos cannot be read; repair or remove them: {}{missing}",
        files.len(),
        some_of(files, SHOWN, "; ")
    )
}

/// A copy of the graph with one input, the photo in float32, and that input's shape.
fn floats(graph: &Graph, card: &Card) -> (Graph, [usize; 4]) {
    let mut alone = fields::closed(graph, &card.fields);
    interface::bytes_to_float(&mut alone);
    (alone, interface::shape_of(&card.input))
}

/// What the card says, but for the outliers' names.
fn described(fitted: &Fitted, output: String, basis: &str) -> Familiarity {
    let (count, pictures) = (fitted.kept.len(), fitted.pictures as f64);
    let mean = folds::log_mean(&fitted.scores);
    let squares = fitted.scores.iter().map(|s| s.weight * (s.value.max(1e-9).ln() - mean).powi(2));
    let variance = squares.sum::<f64>() / (pictures - 1.0);
    let rounded = |value: f64, digits: i32| {
        ((value * 10_f64.powi(digits)).round() / 10_f64.powi(digits)) as f32
    };
    let share = |step: usize| step as f64 / QUANTILES as f64;
    let quantile = |step: usize| rounded(folds::quantile(&fitted.scores, share(step)), 4);
    Familiarity {
        output,
        method: format!("{METHOD} {} (arXiv:1807.03888, arXiv:2505.18032)", fitted.distance.rank),
        basis: if basis.is_empty() { format!("{count} photos") } else { basis.to_owned() },
        photos: count as u32,
        pictures: fitted.pictures as u32,
        // The largest score of n pictures accepts n of n + 1; no threshold of few accepts more.
        accepted: rounded(ACCEPTED.min(pictures / (pictures + 1.0)), 4),
        auroc: rounded(fitted.auroc, 4),
        against: foreign::DESCRIPTION.to_owned(),
        quantiles: (0..=QUANTILES).map(quantile).collect(),
        log_mean: rounded(mean, 4),
        log_deviation: rounded(variance.sqrt().max(1e-4), 4),
        outliers: Vec::new(),
    }
}

/// The calibration by the labelled photos, if they are enough; otherwise a note if there are some.
fn calibrate(
    card: &Card,
    pictures: &[Picture],
    seen: &[Gathered],
    fitted: &Fitted,
) -> Result<(Option<Calibrated>, Vec<String>), FamiliarityError> {
    let rows: Vec<(Vec<f32>, usize)> = fitted
        .kept
        .iter()
        .filter_map(|index| Some((seen[*index].probabilities.clone(), pictures[*index].class?)))
        .collect();
    if rows.len() < FEWEST {
        let note = format!(
            "{} labelled photos are too few for a calibration; {} needed",
            rows.len(),
            more_are(FEWEST - rows.len())
        );
        return Ok((None, if rows.is_empty() { Vec::new() } else { vec![note] }));
    }
    let calibrated = calibration::fit(&rows, card.output.activation, CERTAIN_ABOVE);
    let (accuracy, labelled, classes) =
        (calibrated.before.accuracy, rows.len(), card.classes.len());
    if !is_above_chance(accuracy, labelled, 1.0 / classes.max(1) as f64) {
        return Err(FamiliarityError::AtChance { accuracy, labelled, classes });
    }
    let answers = exchanged::Answers::of(&rows);
    if let Some(exchanged) = answers.exchanged() {
        let label = |class: usize| card.classes.get(class).map_or("", |class| class.label.as_str());
        let pairs: Vec<String> = exchanged
            .iter()
            .map(|(folder, answer)| format!("{:?} as {:?}", label(*folder), label(*answer)))
            .collect();
        let note = format!(
            "not calibrated: labels seem to be exchanged, because the model answers most photos in the folders {}: \
             check the folders' names and the order of the model's labels, then run model familiarize again",
            some_of(&pairs, SHOWN, ", ")
        );
        return Ok((None, vec![note]));
    }
    let chance = answers.chance();
    if answers.folders() > 1 && !is_above_chance(accuracy, labelled, chance) {
        let note = format!(
            "not calibrated: the first class is right on {:.1} % of {labelled} labelled photos, and answers in \
             the same shares that ignore the photo on {:.1} %; a temperature would make them only seem honest",
            accuracy * 100.0,
            chance * 100.0
        );
        return Ok((None, vec![note]));
    }
    Ok((Some(calibrated), Vec::new()))
}

/// Whether a model is right more often than by `chance`, a share: by two standard errors of the share of
/// `labelled` guesses that are right.
fn is_above_chance(accuracy: f64, labelled: usize, chance: f64) -> bool {
    let error = (chance * (1.0 - chance) / labelled.max(1) as f64).sqrt();
    chance >= 1.0 || accuracy > chance + ABOVE_CHANCE * error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_must_be_right_more_often_than_guessing() {
        // Of 100 guesses between two classes 50 are right, and 60 by two standard errors.
        assert!(!is_above_chance(0.6, 100, 0.5) && is_above_chance(0.61, 100, 0.5));
        assert!(!is_above_chance(0.0, 1000, 0.001) && is_above_chance(0.3, 35, 1.0 / 7.0));
        assert!(is_above_chance(1.0, 35, 1.0), "a single class is always right");
    }

    #[test]
    fn the_error_names_files_that_cannot_be_read_and_what_is_missing() {
        let files = |count: usize| (0..count).map(|i| format!("{i}.png: bad")).collect();
        let said = FamiliarityError::Unreadable { photos: 42, files: files(7) }.to_string();
        assert!(said.starts_with("7 of 42 photos cannot be read"), "{said}");
        assert!(said.ends_with("4.png: bad; and 2 more"), "{said}");
        let said = FamiliarityError::Unreadable { photos: 42, files: files(8) }.to_string();
        assert!(said.ends_with("with the 34 others at least 1 more is needed"), "{said}");
    }
}
