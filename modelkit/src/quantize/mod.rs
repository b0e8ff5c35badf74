//! `model quantize`: writes a prepared folder again with its weights in fewer bits.
//!
//! [`Format::Fp16`] halves the file (`half`); [`Format::Int8`] quarters the weights of large convolutions and
//! runs them on integers (`int8`, with ranges from `calibrate`). [`compare`] compares the results on photos;
//! the change of memory and time is left to [`crate::measure`].

mod calibrate;
mod half;
mod int8;

use std::path::{Path, PathBuf};

use skincell_engines::Engine;
use skincell_vision::card::Card;
use skincell_vision::gradcam::heatmap;
use skincell_vision::rank::{probabilities, rank};
use skincell_vision::tensor::PhotoTensor;
use thiserror::Error;

use crate::fields;
use crate::onnx::engine::EngineError;
use crate::onnx::external::{self, GRAPH_FILE, WEIGHTS_FILE};
use crate::onnx::read::{ReadError, read};
use crate::photos::{self, PhotosError};
use crate::prepare::CARD_FILE;
use crate::tools::served::{Outcome, Served, ServedError, read_card, server};
use crate::write::{Draft, WriteError};

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
    /// Photos, tensors (`.npy`) and folders of them, for the ranges and for the comparison.
    pub photos: Vec<PathBuf>,
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
    /// Writing the folder.
    Write,
}

/// How close the results of the quantized model are to those of the original, each on the engine that
/// serves it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Photos compared.
    pub photos: usize,
    /// Photos whose likeliest class is the same.
    pub same_top: usize,
    /// Largest change of any class's probability on any photo.
    pub worst_probability: f32,
    /// Mean and smallest Pearson correlation of the heatmaps of the original's likeliest class, over the
    /// photos on which neither heatmap is constant; `None` without heatmaps.
    pub heatmaps: Option<(f64, f64)>,
}

/// Result of [`quantize`].
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeReport {
    /// The card, the same as the original's.
    pub card: Card,
    /// Bytes of `model.onnx` and `model.onnx.data` together, before and after.
    pub bytes: (u64, u64),
    /// Number of tensors (half precision) or convolutions (8 bits) that changed.
    pub tensors: usize,
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
    let card = read_card(&options.folder)?;
    let mut graph = read(&options.folder.join(GRAPH_FILE))?;
    let photos = photos::load_all(&options.photos, &card.input)?;
    if photos.is_empty() {
        return Err(QuantizeError::NoPhotos);
    }
    let changed = match options.format {
        Format::Fp16 => half::convert(&mut graph),
        Format::Int8 => {
            let convolutions = int8::convolutions(&graph);
            let inputs = convolutions.iter().map(|c| c.input.as_str()).collect();
            let alone = fields::closed(&graph, &card.fields);
            let seen = calibrate::seen(&alone, inputs, &photos, progress)?;
            int8::convert(&mut graph, &convolutions, &seen)
        }
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
    Ok(QuantizeReport { card, bytes, tensors: changed })
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
    let (mut same_top, mut worst_probability, mut correlations) = (0, 0_f32, Vec::new());
    for (index, photo) in photos.iter().enumerate() {
        progress(index, photos.len());
        let (was, p) = answer(&mut before, photo)?;
        let (is, q) = answer(&mut after, photo)?;
        let class = top(&p);
        same_top += usize::from(class == top(&q));
        let changes = p.iter().zip(&q).map(|(p, q)| (p - q).abs());
        worst_probability = changes.fold(worst_probability, f32::max);
        let heat = |outcome: &Outcome, p: &[f32]| {
            let (map, cam) = (card.gradcam.as_ref()?, outcome.cam.as_ref()?);
            heatmap(cam, map, p, card.output.activation, class).ok()
        };
        if let (Some(a), Some(b)) = (heat(&was, &p), heat(&is, &q)) {
            correlations.extend(correlation(a.values(), b.values()));
        }
    }
    let least = correlations.iter().copied().reduce(f64::min);
    let mean = correlations.iter().sum::<f64>() / correlations.len().max(1) as f64;
    let heatmaps = least.map(|least| (mean, least));
    Ok(Agreement { photos: photos.len(), same_top, worst_probability, heatmaps })
}

/// A model's outputs for a photo, and the probabilities.
fn answer(served: &mut Served, photo: &PhotoTensor) -> Result<(Outcome, Vec<f32>), ServedError> {
    let outcome = served.run(photo)?;
    let engine = served.engine();
    let scores = probabilities(&outcome.scores, &served.card().output)
        .map_err(|error| ServedError::Scores { engine, error })?;
    Ok((outcome, scores))
}

fn top(probabilities: &[f32]) -> usize {
    rank(probabilities, 1).first().map_or(0, |first| first.index)
}

/// Pearson's correlation, or `None` if one of the two is constant.
fn correlation(a: &[f32], b: &[f32]) -> Option<f64> {
    let count = a.len().min(b.len()) as f64;
    let mean = |v: &[f32]| v.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let (of_a, of_b) = (mean(a), mean(b));
    let (mut both, mut only_a, mut only_b) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x) - of_a, f64::from(*y) - of_b);
        both += x * y;
        only_a += x * x;
        only_b += y * y;
    }
    let spread = (only_a * only_b).sqrt();
    (spread > 1e-12).then(|| both / spread)
}

#[cfg(test)]
mod tests {
    use super::correlation;

    #[test]
    fn correlation_is_pearsons() {
        let cases: [(&[f32], &[f32], Option<f64>); 4] = [
            (&[0.0, 0.5, 1.0], &[0.0, 0.25, 0.5], Some(1.0)),
            (&[0.0, 0.5, 1.0], &[1.0, 0.5, 0.0], Some(-1.0)),
            (&[1.0, 0.0, 1.0, 0.0], &[1.0, 1.0, 0.0, 0.0], Some(0.0)),
            (&[0.5, 0.5], &[0.0, 1.0], None),
        ];
        for (a, b, expected) in cases {
            let found = correlation(a, b);
            let near = found.zip(expected).is_none_or(|(f, e)| (f - e).abs() < 1e-9);
            assert!(found.is_some() == expected.is_some() && near, "{a:?} {b:?} {found:?}");
        }
    }
}
