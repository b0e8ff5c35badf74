//! wasi-nn for the guest: models by name, loaded at first use, run by an engine of this host.
//!
//! `host` is what the guest calls, `registry` holds the models and what each component was granted, `model`
//! is one model's life, `accounts` where its memory is accounted for, `figures` what it takes, `files` what it was
//! mapped from, and `bus` the guard of those mappings. How a model is computed is written in `skincell-engines`. Knows nothing of photos.

mod accounts;
#[cfg(unix)]
mod bus;
mod figures;
mod files;
mod host;
mod model;
mod registry;

pub(crate) use host::{NnState, NnView, Patience, add_to_linker};
pub use model::{LeaseError, ModelStatus};
pub use registry::{Grants, Models};
pub use skincell_engines::{
    Cellnet, Engine, Engines, LoadError, Model as LoadedModel, Rten, RunError, Selection, Source,
    TensorError,
};
#[cfg(feature = "onnxruntime")]
pub use skincell_engines::{NoLibrary, OnnxRuntime};
