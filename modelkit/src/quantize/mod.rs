//! `model quantize`: writes a prepared folder again with its weights in fewer bits.
//!
//! [`Format::Fp16`] halves the file (`half`); [`Format::Int8`] quarters the weights of large convolutions and
//! runs them on integers (`int8`, with ranges from `calibrate` and weights from `round`), but for those that
//! `mixed` keeps, so that the answers stay close (`agreement`). [`compare`] compares the results on photos;
//! the change of memory and time is left to [`crate::measure`].

mod agreement;
mod calibrate;
mod half;
mod int8;
mod mixed;
mod round;

use std::path::{Path, PathBuf};

use skincell_engines::Engine;
use skincell_vision::card::Card;
use skincell_vision::rank::{RankError, probabilities};
use skincell_vision::tensor::PhotoTensor;
use thiserror::Error;

use crate::compare::quantizes;
use crate::onnx::engine::EngineError;
use crate::onnx::external::{self, GRAPH_FILE, WEIGHTS_FILE};
use crate::onnx::graph::label;
use crate::onnx::read::{ReadError, read};
use crate::photos::{self, PhotosError};
use crate::prepare::CARD_FILE;
use crate::tools::served::{Served, ServedError, read_card, server};
use crate::write::{Draft, WriteError, name_of};
pub use agreement::Agreement;
use agreement::{Answer, Tally};
pub use mixed::{Kept, Targets};

/// Format of the quantized weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// IEEE 754 half precision, converted back to float32 by a `Cast` when the model is loaded.
    Fp16,
    /// 8-bit integers with a scale per output channel, for every large convolution without groups; the
    /// convolution's input is in 8-bit integers, too, of a range found on the photos.
    Int8,
}

/// Parameters of [`quantize`].
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeOptions {
    /// The prepared folder.
    pub folder: PathBuf,
    /// The folder to write.
    pub output: PathBuf,
    /// Format of the quantized weights.
    pub format: Format,
    /// Photos, tensors (`.npy`) and folders of them, for the ranges and the targets.
    pub photos: Vec<PathBuf>,
    /// What [`Format::Int8`] keeps on the photos.
    pub targets: Targets,
    /// Whether an existing output folder is replaced.
    pub force: bool,
}

/// Why a model could not be quantized. Nothing is written then.
#[derive(Debug, Error)]
pub enum QuantizeError {
    /// The ONNX file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The folder cannot be read or run.
    #[error(transparent)]
    Served(#[from] ServedError),
    /// A photo cannot be read.
    #[error(transparent)]
    Photos(#[from] PhotosError),
    /// The graph cannot be run to find ranges.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No photos are given, which ranges and comparison need.
    #[error(
        "give photos to calibrate and compare on, files or a folder, as close to real use as possible"
    )]
    NoPhotos,
    /// The output folder is the input folder, which the comparison still needs.
    #[error("{path} would be replaced by its own quantized weights; give another folder with -o", path = .0.display())]
    SameFolder(PathBuf),
    /// The model has no weights to quantize.
    #[error(
        "the model has no float32 weights that --to {0} would change; is it quantized already?"
    )]
    Nothing(&'static str),
    /// The model computes on integers already, so that its answers would be compared with rounded ones.
    #[error(
        "{node} rounds values to integers already; quantize the float32 model that this one was made from"
    )]
    Rounds {
        /// The node.
        node: String,
    },
    /// The original's scores for a photo are no probabilities.
    #[error("the model's scores for a photo are invalid: {0}")]
    Scores(#[from] RankError),
    /// The targets hold with no convolution at all on integers.
    #[error(
        "the targets do not hold on these photos with any convolution on integers; give lower \
         targets, or photos closer to real use"
    )]
    Targets,
    /// The quantized graph cannot be encoded.
    #[error("the graph cannot be encoded: {0}")]
    Encode(String),
    /// The card cannot be encoded.
    #[error(transparent)]
    Card(#[from] skincell_vision::card::CardError),
    /// The folder cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The present step of [`quantize`], for a progress display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizeStep {
    /// Reading the model.
    Read,
    /// Finding ranges: runs of photos done, and all of them.
    Calibrate(usize, usize),
    /// Measuring what each convolution on integers does to the answers: convolutions done, and all of them.
    Rank(usize, usize),
    /// Answering the photos with this many convolutions kept.
    Mix(usize),
    /// Writing the folder.
    Write,
}

/// Result of [`quantize`].
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeReport {
    /// The card: the original's, with the name of the new folder.
    pub card: Card,
    /// Bytes of `model.onnx` and `model.onnx.data` together, before and after.
    pub bytes: (u64, u64),
    /// Number of tensors (half precision) or convolutions (8 bits) that changed.
    pub tensors: usize,
    /// Convolutions that stayed in float32 to hold the targets, the worst first.
    pub kept: Vec<Kept>,
}

/// Quantizes a prepared folder into another one.
///
/// # Errors
/// [`QuantizeError`]; nothing is written then.
pub fn quantize(
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(QuantizeStep),
) -> Result<QuantizeReport, QuantizeError> {
    let whole = |path: &Path| path.canonicalize().ok();
    if whole(&options.folder).is_some_and(|folder| whole(&options.output) == Some(folder)) {
        return Err(QuantizeError::SameFolder(options.output.clone()));
    }
    let draft = Draft::begin(&options.output, options.force)?;
    progress(QuantizeStep::Read);
    let mut card = read_card(&options.folder)?;
    // A model is served under the name of its folder.
    card.name = name_of(&options.output);
    card.check()?;
    let mut graph = read(&options.folder.join(GRAPH_FILE))?;
    let rounding = graph.nodes.iter().find(|node| quantizes(node));
    if let Some(node) = rounding.filter(|_| options.format == Format::Int8) {
        return Err(QuantizeError::Rounds { node: label(node) });
    }
    let photos = photos::load_all(&options.photos, &card.input)?;
    if photos.is_empty() {
        return Err(QuantizeError::NoPhotos);
    }
    let (changed, kept) = match options.format {
        Format::Fp16 => (half::convert(&mut graph), Vec::new()),
        Format::Int8 => mixed::convert(&mut graph, &card, &photos, &options.targets, progress)?,
    };
    if changed == 0 {
        let name = if options.format == Format::Fp16 { "fp16" } else { "int8" };
        return Err(QuantizeError::Nothing(name));
    }
    graph.drop_unused();
    progress(QuantizeStep::Write);
    let laid = external::lay_out(&graph).map_err(|e| QuantizeError::Encode(e.to_string()))?;
    draft.write(GRAPH_FILE, &laid.graph)?;
    draft.write(WEIGHTS_FILE, &laid.weights)?;
    draft.write(CARD_FILE, card.to_json()?.as_bytes())?;
    let after = (laid.graph.len() + laid.weights.len()) as u64;
    drop(laid);
    let before = [GRAPH_FILE, WEIGHTS_FILE].map(|file| {
        std::fs::metadata(options.folder.join(file)).map_or(0, |metadata| metadata.len())
    });
    draft.publish()?;
    let bytes = (before.iter().sum(), after);
    Ok(QuantizeReport { card, bytes, tensors: changed, kept })
}

/// Runs two folders on every photo, each on the first of the engines that supports it, and compares the
/// results.
///
/// `progress` is called with the number of photos done and of all photos.
///
/// # Errors
/// [`QuantizeError`] if a photo cannot be read or a model cannot be run.
pub fn compare(
    original: &Path,
    quantized: &Path,
    photos: &[PathBuf],
    engines: &[Box<dyn Engine>],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Agreement, QuantizeError> {
    let open = |folder| Served::open(folder, server(engines, folder)?);
    let (mut before, mut after) = (open(original)?, open(quantized)?);
    let card = before.card().clone();
    let photos = photos::load_all(photos, &card.input)?;
    let mut tally = Tally::default();
    for (index, photo) in photos.iter().enumerate() {
        progress(index, photos.len());
        let (was, is) = (answer(&mut before, photo)?, answer(&mut after, photo)?);
        tally.add(&card, &was, &is);
    }
    Ok(tally.agreement())
}

fn answer(served: &mut Served, photo: &PhotoTensor) -> Result<Answer, ServedError> {
    let outcome = served.run(photo)?;
    let engine = served.engine();
    let probabilities = probabilities(&outcome.scores, &served.card().output)
        .map_err(|error| ServedError::Scores { engine, error })?;
    Ok(Answer { probabilities, cam: outcome.cam })
}
