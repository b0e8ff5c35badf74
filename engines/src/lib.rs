//! Running a model: one interface over three engines, the same for the server, the model tools and Wasm.
//!
//! ```text
//! Source ──Engine::load──▶ Model ──run(named tensors)──▶ named tensors
//! folder | static files | bytes      cellnet · rten · ONNX Runtime
//! ```
//!
//! [`source`] has the names of a model's files, and [`select`] says which engine runs which model. An ONNX file passes `outline` before any engine reads it,
//! so that a damaged one is an error and never an engine that does not return. What a caller says of a tensor
//! is checked in [`tensor`], and names of inputs in `inputs`, once for all engines.
//!
//! This crate knows no wasmtime, no HTTP and no settings of a server, and builds for `wasm32-wasip2`. It
//! leaves out when a model is loaded and unloaded, and what happens to a mapped file that somebody cuts short.

mod cellnet;
mod error;
mod inputs;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
mod outline;
mod rten;
pub mod select;
pub mod source;
pub mod tensor;

pub use crate::cellnet::Cellnet;
pub use crate::error::{LoadError, RunError};
#[cfg(feature = "onnxruntime")]
pub use crate::onnxruntime::{NoLibrary, OnnxRuntime};
pub use crate::rten::Rten;
pub use crate::select::{EngineChoice, Engines, Selection};
pub use crate::source::{Source, StaticFiles};
pub use crate::tensor::{Dtype, NamedTensor, Tensor, TensorError};

/// Something that runs models.
pub trait Engine: Send + Sync {
    /// Its name in flags, tables and logs.
    fn name(&self) -> &'static str;

    /// Whether `source` holds what this engine loads. Looks at names only.
    fn takes(&self, source: &Source<'_>) -> bool;

    /// Loads the model in `source`. This may take a while.
    ///
    /// # Errors
    /// [`LoadError`], with the file and what is wrong with it.
    fn load(&self, source: Source<'_>) -> Result<Box<dyn Model>, LoadError>;
}

/// A model in memory, run by any number of threads at once.
pub trait Model: Send + Sync {
    /// Runs the model on `inputs`, each given once, and returns all its outputs by name.
    ///
    /// # Errors
    /// [`RunError`] for inputs that do not fit the model, or when the engine fails.
    fn run(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError>;

    /// Bytes that a run takes beside its outputs and that the model then keeps for the next run; `None` where
    /// the engine does not know beforehand.
    fn workspace_bytes(&self) -> Option<u64> {
        None
    }

    /// Reads the weights in, so that the first run finds its pages in memory. Returns when they are there:
    /// call it in the background.
    fn read_ahead(&self) {}
}
