//! Models before they are served: prepared, inspected, checked, quantized.
//!
//! `prepare` is the main path: read (`read`) an exported ONNX graph, clear it (`fold`), decide what its
//! scores are (`scores`), differentiate them and add the Grad-CAM output (`gradcam`), compare with what
//! the model came from (`compare`), lay the weights out to be mapped ([`external`]), write all at once
//! (`write`).
//!
//! Before it [`export`] gets the ONNX graph out of Keras or PyTorch. Beside it: [`inspect`] shows
//! what a model holds, [`check`] runs it on every engine and compares, [`measure`] says what serving
//! it costs, [`quantize`] writes it in fewer bits; these run folders as a server does ([`served`]).
//!
//! This crate knows no HTTP, no wasi and no runner.

pub mod check;
mod compare;
mod engine;
pub mod export;
pub mod external;
mod fold;
mod gradcam;
mod graph;
pub mod inspect;
mod interface;
mod labels;
pub mod measure;
pub mod pack;
pub mod photos;
mod prepare;
pub mod preprocess;
pub mod quantize;
mod read;
pub mod samples;
mod scores;
pub mod served;
mod tensor;
mod warnings;
mod write;

pub use cellnet::wire::WireError;
pub use compare::{CompareError, Comparison, Given, Reference};
pub use engine::EngineError;
pub use interface::InterfaceError;
pub use labels::{LabelsError, parse_labels};
pub use prepare::{
    CARD_FILE, CamTarget, PrepareError, PrepareOptions, Report, Step, prepare, prepare_from,
};
pub use read::ReadError;
pub use scores::{SaidActivation, ScoresError};
pub use write::WriteError;
