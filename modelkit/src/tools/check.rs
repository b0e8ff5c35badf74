//! `model check`: compares the results of a prepared folder on all engines.
//!
//! Each engine that supports the folder runs the photos or tensors. Probabilities and heatmaps are compared
//! with those of the first engine and, if given, with a file of earlier results. Measuring time and memory is
//! left to [`crate::measure`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use skincell_engines::Engine;
use skincell_vision::card::Card;
use skincell_vision::rank::rank;
use thiserror::Error;

use crate::photos::{self, PhotosError};
pub use crate::tools::answer::{Answer, Difference, TOLERANCE};
use crate::tools::answer::{answer, difference};
use crate::tools::pack::{CellError, verify};
use crate::tools::served::{Served, ServedError, read_card, takers};

/// Number of likeliest classes of which heatmaps are compared, besides those in the file of results.
const CLASSES: usize = 5;

/// Parameters of [`check`].
#[derive(Debug, Clone, PartialEq)]
pub struct CheckOptions {
    /// The prepared folder.
    pub folder: PathBuf,
    /// Photos, tensors (`.npy`) and folders of them.
    pub inputs: Vec<PathBuf>,
    /// File of earlier results, a [`Reference`] in JSON.
    pub reference: Option<PathBuf>,
    /// Largest accepted difference of a probability.
    pub probability_tolerance: f32,
    /// Largest accepted difference of a normalised heatmap, whose values are 0 to 1.
    pub heatmap_tolerance: f32,
}

/// Why the check could not be made.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The folder cannot be read, or no engine can run it.
    #[error(transparent)]
    Served(#[from] ServedError),
    /// The folder's packed file is damaged.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// A photo cannot be read.
    #[error(transparent)]
    Photos(#[from] PhotosError),
    /// The file of earlier results cannot be read.
    #[error("{path}: {problem}", path = path.display())]
    Reference {
        /// Its path.
        path: PathBuf,
        /// The reason.
        problem: String,
    },
}

/// The result of one photo on one engine.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckRow {
    /// The photo's path.
    pub file: String,
    /// Name of the engine.
    pub engine: &'static str,
    /// Label of the likeliest class, and its probability.
    pub top: (String, f32),
    /// Time of the run.
    pub milliseconds: f64,
    /// Difference from the first engine; `None` for the first engine itself.
    pub engines: Option<Difference>,
    /// Difference from the file of earlier results; `None` without one.
    pub kept: Option<Difference>,
    /// Whether every difference is within its tolerance.
    pub passed: bool,
}

/// Result of [`check`].
#[derive(Debug, Clone, PartialEq)]
pub struct CheckReport {
    /// One row for each photo and engine.
    pub rows: Vec<CheckRow>,
    /// The first engine's results, to be written to a file for later checks.
    pub reference: Reference,
}

impl CheckReport {
    /// Whether all rows passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.passed)
    }
}

/// The results that a file keeps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The model's name.
    pub model: String,
    /// By the photo's path as given in the options.
    pub photos: BTreeMap<String, Answer>,
}

/// Runs every photo on every engine that supports the folder, and compares the results.
///
/// `progress` is called with the number of runs done and of all runs.
///
/// # Errors
/// [`CheckError`] if a run fails or a file cannot be read; differences are in the report.
pub fn check(
    options: &CheckOptions,
    engines: &[Box<dyn Engine>],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<CheckReport, CheckError> {
    let card = read_card(&options.folder)?;
    let kept = options.reference.as_deref().map(read_reference).transpose()?;
    let files = photos::list(&options.inputs)?;
    let engines = takers(engines, &options.folder)?;
    verify(&options.folder)?;
    let mut report = CheckReport {
        rows: Vec::new(),
        reference: Reference { model: card.name.clone(), photos: BTreeMap::new() },
    };
    let total = files.len() * engines.len();
    for engine in engines {
        let name = engine.name();
        let served = Served::open(&options.folder, engine)?;
        for file in &files {
            progress(report.rows.len(), total);
            let photo = photos::load(file, &card.input)?;
            let start = Instant::now();
            let outcome = served.run(&photo)?;
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            let file = file.display().to_string();
            let before = kept.as_ref().map(|kept| kept.photos.get(&file));
            let also = before.flatten().map(|b| b.heatmaps.keys().copied().collect::<Vec<_>>());
            let classes = (CLASSES, &also.unwrap_or_default()[..]);
            let answer = answer(&card, name, &file, &outcome, classes)?;
            let first = report.reference.photos.get(&file);
            let engines = first.map(|first| difference(first, &answer));
            let kept = before.map(|b| b.map_or(FAR, |b| difference(b, &answer)));
            let within = |d: &Difference| {
                d.probability <= options.probability_tolerance
                    && d.heatmap <= options.heatmap_tolerance
            };
            let passed = engines.iter().chain(&kept).all(within);
            let top = top(&card, &answer);
            report.rows.push(CheckRow {
                file: file.clone(),
                engine: name,
                top,
                milliseconds,
                engines,
                kept,
                passed,
            });
            report.reference.photos.entry(file).or_insert(answer);
        }
    }
    Ok(report)
}

/// The difference for a photo that is not in the file of earlier results.
const FAR: Difference = Difference { probability: f32::INFINITY, heatmap: f32::INFINITY };

fn read_reference(path: &Path) -> Result<Reference, CheckError> {
    let fail = |problem: String| CheckError::Reference { path: path.to_owned(), problem };
    let bytes = fs::read(path).map_err(|e| fail(e.to_string()))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| fail(format!("{e}; `skincell model check --keep FILE` writes such a file")))
}

fn top(card: &Card, answer: &Answer) -> (String, f32) {
    let first = rank(&answer.probabilities, 1);
    let label = |index: usize| card.classes.get(index).map(|c| c.label.clone());
    first
        .first()
        .map_or_else(Default::default, |r| (label(r.index).unwrap_or_default(), r.probability))
}
