//! wasi-nn for the guest: models by name, loaded at first use, run by an engine of this host.
//!
//! `host` is what the guest calls, `registry` holds the models and what each component was granted,
//! `model` is one model's life and `files` what it was mapped from, `engine` is the seam to whoever
//! does the arithmetic: `rten` takes every graph, `cellnet` is the small and fast one for models packed
//! for it. Knows nothing of photos.

#[cfg(unix)]
mod bus;
mod cellnet;
mod engine;
mod files;
mod host;
mod model;
mod registry;
mod rten;

pub use cellnet::Cellnet;
pub use engine::{Engine, LoadError, LoadedModel, RunError, TensorError};
pub(crate) use host::{NnState, NnView, Patience, add_to_linker};
pub use model::ModelStatus;
pub use registry::{Engines, Grants, Models};
pub use rten::Rten;
