//! Packs convolutional classifiers into one file and runs them from the mapped file.
//!
//! ```text
//! model.onnx ──pack──▶ model.cell ──Model::open──▶ plan (checked) + weights (mapped) ──run──▶ tensors
//! ```
//!
//! [`pack`] reads an ONNX graph, folds and fuses it, and writes one file: a plan and packed weights.
//! [`Model`] maps that file, checks everything the kernels rely on, and runs it without a private copy of
//! any weight. The README draws the file and follows one layer through it.
//!
//! Training, dynamic shapes, batches and operators that convolutional classifiers do not use are not
//! supported; such graphs are refused with the operator named, so that another engine can run them.

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
#[cfg(feature = "internals")]
#[doc(hidden)]
pub use pack::internals;
pub use tensors::TensorRef;
pub use threads::Pool;
