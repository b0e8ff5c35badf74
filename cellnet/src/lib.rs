//! cellnet: convolutional classifiers, packed into one mapped file and run from there.
//!
//! ```text
//! model.onnx ──pack──▶ model.cell ──Model::open──▶ plan (checked) + weights (mapped) ──run──▶ tensors
//! ```
//!
//! [`pack`] reads an ONNX graph, folds and fuses it, and writes one file: a plan and packed weights.
//! [`Model`] maps that file, checks everything a kernel will rely on, and runs it with no private copy
//! of any weight. The README draws the file and one layer's way through it.
//!
//! It leaves out training, dynamic shapes, batches and every operator that convolutional classifiers do
//! not use: such graphs are refused with the operator named, for another engine to take.

mod check;
pub mod error;
pub mod format;
mod kernels;
mod mapping;
mod model;
#[cfg(feature = "pack")]
pub mod pack;
mod packed;
pub mod plan;
mod stage;
mod tensors;
mod threads;

pub use error::{InferenceError, OpenError, PackError};
pub use kernels::Isa;
pub use model::{Model, OutputTensor, Workspace};
pub use tensors::TensorRef;
pub use threads::Pool;
