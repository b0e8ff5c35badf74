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
#[cfg_attr(feature = "internals", allow(missing_docs, reason = "for the tests alone"))]
mod exact;
mod fuse;
mod layout;
mod lower;
mod measure;
#[cfg_attr(feature = "internals", allow(missing_docs, reason = "for the tests alone"))]
mod net;
mod order;
mod parts;
mod source;
mod spread;
mod view;
mod weights;

use std::fs;
use std::path::Path;

use crate::check::Checked;
use crate::error::PackError;
use crate::format;
use crate::plan::{Algorithm, Precision};

/// What `tests/kernels/` makes plans with, without a graph. For nobody else: it changes without notice.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use super::bytes::join;
    pub use super::emit::emit;
    pub use super::exact::{Exact, convolve, inside};
    pub use super::fuse::fuse;
    pub use super::layout::lay_out;
    pub use super::net::{
        Arg, AttentionLayer, ConvLayer, Kind, Layer, Moving, Net, NetTensor, Shape, SumsLayer,
    };
    pub use super::weights::halve;
    pub use crate::stage::{Stage, stages};
}

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
    /// Largest size of the weights section, relative to the graph's weights (or, with 16 bits, to the section
    /// without fast algorithms): how much room fast algorithms have, whose weights are larger.
    pub max_size: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            algorithms: vec![Algorithm::Direct, Algorithm::Winograd2, Algorithm::Winograd4],
            max_error: 3e-5,
            photos: Vec::new(),
            precision: Precision::Single,
            max_size: 1.2,
        }
    }
}

/// Packs the ONNX graph at `onnx` and its weights into the bytes of a `model.cell`.
///
/// # Errors
/// [`PackError`]; for a graph that the engine does not support, it names operator and node.
pub fn pack(onnx: &Path, options: &Options) -> Result<Vec<u8>, PackError> {
    let source = source::of(skincell_onnx::read(onnx)?)?;
    let raw = source.bytes;
    let mut net = lower::lower(source)?;
    fuse::fuse(&mut net);
    bytes::join(&mut net);
    let halved = halved(options.precision);
    let direct = vec![Algorithm::Direct; net.layers.len()];
    let (mut plan, mut weights) = emit::emit(&net, &direct, layout::lay_out(&net, &direct), halved);
    let size = weights.len() * size_of::<f32>();
    let room = options.max_size * size.min(raw) as f64 - size as f64;
    let algorithms = choose::algorithms(&net, options, room)?;
    if algorithms != direct {
        let layout = layout::lay_out(&net, &algorithms);
        (plan, weights) = emit::emit(&net, &algorithms, layout, halved);
    }
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
pub const SMALLEST_HALVED: usize = 16 * 1024;

/// The fewest weights of a convolution that stores them in 16 bits.
fn halved(precision: Precision) -> usize {
    match precision {
        Precision::Single => usize::MAX,
        Precision::Half => SMALLEST_HALVED,
    }
}

/// Whether a convolution's weights take 16 bits, for the fewest weights that [`halved`] says: large ones that
/// the graph has in half precision, or as 8-bit integers and scales, always do.
fn is_halved(conv: &net::ConvLayer, halved: usize) -> bool {
    let smallest = if conv.is_half { SMALLEST_HALVED.min(halved) } else { halved };
    conv.sums.is_none() && conv.weights.len() >= smallest
}

/// Bytes of one weight of a convolution.
fn weight_bytes(conv: &net::ConvLayer, options: &Options) -> f64 {
    if is_halved(conv, halved(options.precision)) { 2.0 } else { 4.0 }
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
