//! Packs an ONNX graph into one `model.cell`.
//!
//! ```text
//! source ─▶ lower ─▶ fuse ─▶ choose ─▶ layout ─▶ emit ─▶ format
//! (ONNX)   (layers) (fewer) (Winograd?) (arena)  (plan + weights)
//! ```
//!
//! The same graph and options give the same bytes.

mod bytes;
mod choose;
mod constant;
mod emit;
mod exact;
mod fuse;
mod layout;
mod lower;
mod measure;
mod net;
mod order;
#[cfg(test)]
mod reference;
mod source;
#[cfg(test)]
mod tests;
mod view;
mod weights;

use std::fs;
use std::path::Path;

use crate::check::Checked;
use crate::error::PackError;
use crate::format;
use crate::plan::{Algorithm, Precision};

/// How to pack.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Algorithms allowed for dense 3×3 convolutions; the cheapest is chosen.
    pub algorithms: Vec<Algorithm>,
    /// Largest error of one layer, relative to its largest output, measured against double precision.
    pub max_error: f64,
    /// Input tensors to measure errors on, elements in the order of the graph's (only) input; if empty,
    /// seeded noise is used.
    pub photos: Vec<Vec<f32>>,
    /// Bits of the weights of large convolutions and dense layers.
    pub precision: Precision,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            algorithms: vec![Algorithm::Direct, Algorithm::Winograd2, Algorithm::Winograd4],
            max_error: 3e-5,
            photos: Vec::new(),
            precision: Precision::Single,
        }
    }
}

/// Packs the ONNX graph at `onnx` and its weights into the bytes of a `model.cell`.
///
/// # Errors
/// [`PackError`]; for a graph that the engine does not support, it names operator and node.
pub fn pack(onnx: &Path, options: &Options) -> Result<Vec<u8>, PackError> {
    let mut net = lower::lower(source::of(skincell_onnx::read(onnx)?)?)?;
    fuse::fuse(&mut net);
    bytes::join(&mut net);
    let algorithms = choose::algorithms(&net, options)?;
    let layout = layout::lay_out(&net, &algorithms);
    let (plan, mut weights) = emit::emit(&net, &algorithms, layout, halved(options.precision));
    drop(net);
    weights.resize(weights.len().next_multiple_of(format::ALIGN / 4), 0.0);
    let bytes = format::write(&plan, &weights).map_err(PackError::Check)?;
    Checked::new(plan, weights.len()).map_err(PackError::Check)?;
    Ok(bytes)
}

/// Whether the engine supports all nodes of an ONNX graph, without packing it.
///
/// # Errors
/// As [`pack`].
pub fn check(graph: skincell_onnx::ModelFile) -> Result<(), PackError> {
    lower::lower(source::of(graph)?).map(drop)
}

/// Convolutions with fewer weights keep 32 bits even in half precision: they take few bytes, and would cause
/// most of the error.
const SMALLEST_HALVED: usize = 16 * 1024;

/// The fewest weights of a convolution that stores them in 16 bits.
fn halved(precision: Precision) -> usize {
    match precision {
        Precision::Single => usize::MAX,
        Precision::Half => SMALLEST_HALVED,
    }
}

/// Packs `onnx` into the file `cell`, replacing it atomically.
///
/// # Errors
/// As [`pack`], or [`PackError::Write`] if `cell` cannot be written.
pub fn pack_file(onnx: &Path, cell: &Path, options: &Options) -> Result<(), PackError> {
    let bytes = pack(onnx, options)?;
    let fresh = cell.with_extension("cell.new");
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| PackError::Write { path, source }
    };
    fs::write(&fresh, bytes).map_err(io(&fresh))?;
    fs::rename(&fresh, cell).map_err(io(cell))
}
