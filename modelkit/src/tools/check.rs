//! `model check`: does a prepared folder still say what it should, on every engine?
//!
//! Photos or tensors are run through each engine the folder is made for; the answers are compared
//! with those of the first engine and, if there is one, with a file of answers kept from before.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use skincell_engines::Engine;
use skincell_vision::card::Card;
use skincell_vision::gradcam::{GradCamError, Heatmap, heatmap};
use skincell_vision::rank::{probabilities, rank};
use thiserror::Error;

use crate::photos::{self, PhotosError};
use crate::tools::served::{Outcome, Served, ServedError, read_card, takers};

/// Heatmaps are made for so many of the likeliest classes, and for those the file of answers has.
const CLASSES: usize = 5;

/// What `check` is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckOptions {
    /// The prepared folder.
    pub folder: PathBuf,
    /// Photos, tensors (`.npy`) and folders of such.
    pub inputs: Vec<PathBuf>,
    /// Answers kept from before, written by [`CheckReport::reference`].
    pub reference: Option<PathBuf>,
    /// Largest difference of a probability that passes.
    pub probability_tolerance: f32,
    /// Largest difference of a normalised heatmap, 0 to 1, that passes.
    pub heatmap_tolerance: f32,
}

/// Why nothing could be checked.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The folder or an engine.
    #[error(transparent)]
    Served(#[from] ServedError),
    /// A photo.
    #[error(transparent)]
    Photos(#[from] PhotosError),
    /// The maps.
    #[error("{engine} on {file}: {error}")]
    Maps {
        /// Which engine.
        engine: &'static str,
        /// Which photo.
        file: String,
        /// What is wrong with them.
        error: GradCamError,
    },
    /// The file of answers.
    #[error("{path}: {problem}", path = path.display())]
    Reference {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// How far two answers are apart.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Difference {
    /// Largest difference of a probability.
    pub probability: f32,
    /// Largest difference of a heatmap of the likeliest classes.
    pub heatmap: f32,
}

/// One photo on one engine.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckRow {
    /// The photo's path.
    pub file: String,
    /// Which engine.
    pub engine: &'static str,
    /// Label of the likeliest class, and its probability.
    pub top: (String, f32),
    /// Time of the run.
    pub milliseconds: f64,
    /// Against the first engine; `None` for itself.
    pub engines: Option<Difference>,
    /// Against the file of answers; `None` without one.
    pub kept: Option<Difference>,
    /// Whether every difference is within its tolerance.
    pub passed: bool,
}

/// What `check` found.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckReport {
    /// One row for each photo and engine.
    pub rows: Vec<CheckRow>,
    /// The first engine's answers, to be kept.
    pub reference: Reference,
}

impl CheckReport {
    /// Whether all passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.passed)
    }
}

/// Answers kept in a file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The model's name.
    pub model: String,
    /// By the photo's path as it was given.
    pub photos: BTreeMap<String, Answer>,
}

/// One photo's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// `[classes]`.
    pub probabilities: Vec<f32>,
    /// Heatmaps of some classes, by class index: `[height · width]`, 0 to 1.
    pub heatmaps: BTreeMap<usize, Vec<f32>>,
}

/// Runs every photo through every engine that takes the folder, and compares.
///
/// # Errors
/// [`CheckError`] when something cannot be run at all; answers that differ are in the report.
pub fn check(
    options: &CheckOptions,
    engines: &[Box<dyn Engine>],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<CheckReport, CheckError> {
    let card = read_card(&options.folder)?;
    let kept = options.reference.as_deref().map(read_reference).transpose()?;
    let files = photos::list(&options.inputs)?;
    let engines = takers(engines, &options.folder)?;
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
            let answer = answer(&card, name, &file, &outcome, &also.unwrap_or_default())?;
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

/// For a photo the file of answers does not know.
const FAR: Difference = Difference { probability: f32::INFINITY, heatmap: f32::INFINITY };

fn read_reference(path: &Path) -> Result<Reference, CheckError> {
    let fail = |problem: String| CheckError::Reference { path: path.to_owned(), problem };
    let bytes = fs::read(path).map_err(|e| fail(e.to_string()))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| fail(format!("{e}; `skincell model check --keep FILE` writes such a file")))
}

/// Probabilities, and heatmaps of the likeliest classes and of those in `also`, finished as the
/// component does it.
fn answer(
    card: &Card,
    engine: &'static str,
    file: &str,
    outcome: &Outcome,
    also: &[usize],
) -> Result<Answer, CheckError> {
    let probabilities = probabilities(&outcome.scores, &card.output)
        .map_err(|error| ServedError::Scores { engine, error })?;
    let mut heatmaps = BTreeMap::new();
    if let (Some(map), Some(cam)) = (&card.gradcam, &outcome.cam) {
        let likely = rank(&probabilities, CLASSES).into_iter().map(|ranked| ranked.index);
        for class in likely.chain(also.iter().copied()) {
            let found = heatmap(cam, map, &probabilities, card.output.activation, class);
            // A class asked for may be too unlikely to have a map.
            if matches!(found, Err(GradCamError::Unlikely { .. })) {
                continue;
            }
            let fail = |error| CheckError::Maps { engine, file: file.to_owned(), error };
            heatmaps.insert(class, Heatmap::values(&found.map_err(fail)?).to_vec());
        }
    }
    Ok(Answer { probabilities, heatmaps })
}

fn top(card: &Card, answer: &Answer) -> (String, f32) {
    let first = rank(&answer.probabilities, 1);
    let label = |index: usize| card.classes.get(index).map(|c| c.label.clone());
    first
        .first()
        .map_or_else(Default::default, |r| (label(r.index).unwrap_or_default(), r.probability))
}

/// Largest differences of two answers. Lists of different length are infinitely far apart; a class
/// that is among the likeliest in only one of them is left to the probabilities.
fn difference(a: &Answer, b: &Answer) -> Difference {
    let largest = |a: &[f32], b: &[f32]| {
        if a.len() != b.len() {
            return f32::INFINITY;
        }
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    let both = a.heatmaps.iter().filter_map(|(class, map)| Some((map, b.heatmaps.get(class)?)));
    Difference {
        probability: largest(&a.probabilities, &b.probabilities),
        heatmap: both.map(|(a, b)| largest(a, b)).fold(0.0, f32::max),
    }
}
