//! wasi-nn for the guest: models by name, loaded at first use, run by an engine of this host.
//!
//! `host` is what the guest calls, `registry` holds the models and what each component was granted,
//! `choice` says who runs what, `model` is one model's life and `files` what it was mapped from, `engine` is the seam to whoever
//! does the arithmetic: `rten` takes every graph, `cellnet` is the small and fast one for models packed
//! for it, `onnxruntime` is there where the user names a library. Knows nothing of photos.

#[cfg(unix)]
mod bus;
mod cellnet;
mod choice;
mod engine;
mod files;
mod host;
mod model;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
mod registry;
mod rten;

pub use cellnet::Cellnet;
pub(crate) use choice::engines;
pub use engine::{Engine, LoadError, LoadedModel, RunError, TensorError};
pub(crate) use host::{NnState, NnView, Patience, add_to_linker};
pub use model::ModelStatus;
#[cfg(feature = "onnxruntime")]
pub use onnxruntime::{NoLibrary, OnnxRuntime};
pub use registry::{Engines, Grants, Models};
pub use rten::Rten;
