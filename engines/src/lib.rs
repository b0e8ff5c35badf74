//! Runs models: one interface over three engines, shared by the server, the model tools and Wasm.
//!
//! ```text
//! Source ──Engine::load──▶ Model ──run(named tensors)──▶ named tensors
//! folder | static files | bytes      cellnet · rten · ONNX Runtime
//! ```
//!
//! [`source`] names a model's files, and [`select`] decides which engine runs a model. `outline` checks
//! every ONNX file before an engine reads it, because a damaged file can keep an engine's reader busy for
//! ever. [`tensor`] checks the caller's tensors and `inputs` their names, once for all engines.
//!
//! The crate builds for `wasm32-wasip2` and depends on neither wasmtime nor HTTP nor server settings. It
//! does not decide when a model is loaded or unloaded, and does not handle a mapped file that is truncated
//! while in use.

mod cellnet;
mod error;
mod inputs;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
#[cfg(feature = "rten")]
mod outline;
#[cfg(feature = "rten")]
mod rten;
#[cfg(feature = "rten")]
pub mod select;
pub mod source;
pub mod tensor;

pub use crate::cellnet::Cellnet;
pub use crate::error::{LoadError, RunError};
#[cfg(feature = "onnxruntime")]
pub use crate::onnxruntime::{NoLibrary, OnnxRuntime};
#[cfg(feature = "rten")]
pub use crate::rten::Rten;
#[cfg(feature = "rten")]
pub use crate::select::{EngineChoice, Engines, Selection};
pub use crate::source::{Source, StaticFiles};
pub use crate::tensor::{Dtype, NamedTensor, Tensor, TensorError};

/// Loads models.
pub trait Engine: Send + Sync {
    /// The engine's name in flags, tables and logs.
    fn name(&self) -> &'static str;

    /// Whether `source` has the files this engine loads. Looks at file names and sizes only.
    fn takes(&self, source: &Source<'_>) -> bool;

    /// Loads the model in `source`. This may take a while.
    ///
    /// # Errors
    /// [`LoadError`] with the file and the reason.
    fn load(&self, source: Source<'_>) -> Result<Box<dyn Model>, LoadError>;
}

/// A loaded model; any number of threads may run it at once.
pub trait Model: Send + Sync {
    /// Runs the model on `inputs`, each given once, and returns all its outputs by name.
    ///
    /// # Errors
    /// [`RunError`] for inputs that do not fit the model, or when the engine fails.
    fn run(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError>;

    /// Bytes a run needs besides its outputs, kept by the model for the next run; `None` if the engine
    /// cannot tell beforehand.
    fn workspace_bytes(&self) -> Option<u64> {
        None
    }

    /// Reads the weights ahead, so that the first run finds its pages in memory. Blocks until they are
    /// read: call it in the background.
    fn read_ahead(&self) {}
}
