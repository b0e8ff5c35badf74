//! `model pack`: writes `model.cell` beside `model.onnx`, the same model packed for the engine `cellnet`.
//!
//! The file can be made again from the ONNX file at any time. It is kept only if it answers photos as the
//! graph does. A folder whose graph cellnet does not support is complete without it: rten serves the folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cellnet::OpenError;
pub use cellnet::PackError;
pub use cellnet::pack::SMALLEST_HALVED;
use cellnet::pack::{Options, pack_file};
pub use cellnet::plan::Precision;
use cellnet::plan::{Algorithm, Step};
use thiserror::Error;

use crate::compare::CHANGE;
use crate::photos::{self, PhotosError};
use crate::prepare::COMPARED;
pub use crate::tools::answer::{Difference, TOLERANCE};
pub use crate::tools::proof::{Proof, ProofError, prove};
use crate::tools::served::{ServedError, read_card};

pub use skincell_engines::source::CELL_FILE;
use skincell_engines::source::GRAPH_FILE;

/// Parameters of [`pack`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PackOptions {
    /// Largest error of a layer's Winograd convolution against double precision, relative to the layer's
    /// largest output; `None` for cellnet's default. With 0, only direct convolutions are used.
    pub max_error: Option<f64>,
    /// Photos, tensors (`.npy`) and folders of them to measure the error on, and some of them to compare the
    /// file with the graph on; if empty, noise and drawings are used.
    pub photos: Vec<PathBuf>,
    /// Bits of the large weights.
    pub precision: Precision,
    /// Largest size of the packed weights relative to the graph's; `None` for cellnet's default, 1.2.
    pub max_size: Option<f64>,
}

/// Result of [`pack`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Packed {
    /// Size of `model.cell`.
    pub bytes: u64,
    /// Number of convolutions computed directly, by Winograd F(2×2) and by Winograd F(4×4).
    pub convolutions: [usize; 3],
    /// Number of convolutions and dense layers computed on 8-bit integers.
    pub on_integers: usize,
    /// Whether large weights take 16 bits, as asked for or because the graph has them so.
    pub precision: Precision,
    /// The comparison with the graph.
    pub proof: Proof,
}

/// Why a folder was not packed.
#[derive(Debug, Error)]
pub enum PackFolderError {
    /// cellnet cannot pack the graph; the error names an unsupported operator.
    #[error(transparent)]
    Engine(#[from] PackError),
    /// The card, needed to turn photos into tensors, cannot be read.
    #[error(transparent)]
    Card(#[from] ServedError),
    /// A photo cannot be read.
    #[error(transparent)]
    Photos(#[from] PhotosError),
    /// The packed file does not answer as the graph does.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// Largest accepted difference of the packed file's answers from the graph's if weights are rounded to 16
/// bits; otherwise [`TOLERANCE`].
const ALLOWED_ROUNDED: Difference = Difference { probability: 5e-3, heatmap: 2e-2 };

/// How far values are from the graph's before they are rounded to integers, as a part of each: float32 sums
/// in another order, or weights rounded to 16 bits, whose mean error is 2^-12.
fn rounding(precision: Precision) -> f32 {
    match precision {
        Precision::Single => CHANGE,
        Precision::Half => 1.0 / 4096.0,
    }
}

/// Packs the model in `folder`. An existing `model.cell` is replaced atomically.
///
/// # Errors
/// [`PackFolderError`]; an existing `model.cell` stays then.
pub fn pack(folder: &Path, options: &PackOptions) -> Result<Packed, PackFolderError> {
    let card = read_card(folder)?;
    let mut how = Options::default();
    how.precision = options.precision;
    how.max_error = options.max_error.unwrap_or(how.max_error);
    how.max_size = options.max_size.unwrap_or(how.max_size);
    let photos = photos::named(&options.photos, &card.input)?;
    how.photos = photos.iter().map(|(_, tensor)| photos::elements(tensor)).collect();
    let fresh = tempfile::Builder::new().prefix(".pack-").tempdir_in(folder);
    let fresh = fresh.map_err(|source| PackError::Write { path: folder.to_owned(), source })?;
    let cell = fresh.path().join(CELL_FILE);
    pack_file(&folder.join(GRAPH_FILE), &cell, &how)?;
    let model = cellnet::Model::open(&cell).map_err(PackError::Check)?;
    let mut convolutions = [0; 3];
    for step in &model.plan().steps {
        let Step::Conv(conv) = step else { continue };
        convolutions[match conv.algorithm {
            Algorithm::Direct => 0,
            Algorithm::Winograd2 => 1,
            Algorithm::Winograd4 => 2,
        }] += 1;
    }
    let (on_integers, _) = model.plan().on_integers();
    let precision = model.plan().precision();
    let photos: Vec<_> =
        photos::spread(photos.len(), COMPARED).map(|index| photos[index].clone()).collect();
    let photos = if photos.is_empty() { photos::drawn(&card.input)? } else { photos };
    let allowed = allowed(precision, how.max_error);
    let proof = prove(folder, fresh.path(), &card, &photos, allowed, rounding(precision))?;
    let write = |source| PackError::Write { path: folder.join(CELL_FILE), source };
    let bytes = fs::metadata(&cell).map_err(write)?.len();
    fs::rename(&cell, folder.join(CELL_FILE)).map_err(write)?;
    Ok(Packed { bytes, convolutions, on_integers, precision, proof })
}

/// A larger error of fast convolutions, if asked for, allows as many times larger differences.
fn allowed(precision: Precision, max_error: f64) -> Difference {
    let times = (max_error / Options::default().max_error).max(1.0) as f32;
    let usual = match precision {
        Precision::Single => TOLERANCE,
        Precision::Half => ALLOWED_ROUNDED,
    };
    usual.times(times)
}

/// The weights in a packed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedWeights {
    /// The precision of those that are computed in float32.
    pub precision: Precision,
    /// Number of convolutions and dense layers computed on 8-bit integers, and of all.
    pub on_integers: (usize, usize),
}

/// The weights in the folder's packed file; `None` if there is no file that this version reads.
#[must_use]
pub fn packed_weights(folder: &Path) -> Option<PackedWeights> {
    let model = cellnet::Model::open(folder.join(CELL_FILE)).ok()?;
    let plan = model.plan();
    Some(PackedWeights { precision: plan.precision(), on_integers: plan.on_integers() })
}

/// A folder's packed file that cannot be served.
#[derive(Debug, Error)]
#[error(
    "{path}: {error}; `skincell model pack {folder}` writes it anew",
    path = folder.join(CELL_FILE).display(),
    folder = folder.display()
)]
pub struct CellError {
    folder: PathBuf,
    error: OpenError,
}

/// Compares all of the folder's packed file, if there is one, with its checksums. Opening it for serving
/// leaves out the weights.
///
/// # Errors
/// [`CellError`] if it is damaged or of another version.
pub fn verify(folder: &Path) -> Result<(), CellError> {
    let cell = folder.join(CELL_FILE);
    if !cell.exists() {
        return Ok(());
    }
    let verified = cellnet::Model::open(&cell).and_then(|model| model.verify());
    verified.map_err(|error| CellError { folder: folder.to_owned(), error })
}

/// Whether `folder` has a packed file that is not older than the graph it was made from.
#[must_use]
pub fn is_packed(folder: &Path) -> bool {
    let changed =
        |name| -> Option<SystemTime> { std::fs::metadata(folder.join(name)).ok()?.modified().ok() };
    match (changed(CELL_FILE), changed(GRAPH_FILE)) {
        (Some(cell), Some(onnx)) => cell >= onnx,
        _ => false,
    }
}
