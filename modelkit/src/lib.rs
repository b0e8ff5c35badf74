//! Models before they are served: prepared, inspected, checked, quantized.
//!
//! `prepare` is the main path: read an exported ONNX graph and clear it (`onnx`), decide what its scores are
//! (`scores`), differentiate them and add the Grad-CAM output (`gradcam`), compare with what the model came
//! from (`compare`), lay the weights out to be mapped ([`external`]), write all at once (`write`).
//!
//! Before it [`export`] gets the ONNX graph out of Keras or PyTorch. Beside it, `tools`: [`inspect`] shows
//! what a model holds, [`check`] runs it on every engine and compares, [`measure`] says what serving it costs,
//! [`pack`] writes it for cellnet; and [`quantize`] writes it in fewer bits. They run folders as a server does
//! ([`served`]).
//!
//! This crate knows no HTTP, no wasi and no runner.

mod compare;
pub mod export;
mod fields;
mod gradcam;
mod interface;
mod labels;
mod onnx;
pub mod photos;
mod prepare;
pub mod preprocess;
pub mod quantize;
pub mod samples;
mod scores;
mod tools;
mod warnings;
mod write;

pub use compare::{CompareError, Comparison, Given, Reference};
pub use gradcam::Price;
pub use interface::InterfaceError;
pub use labels::{LabelsError, parse_labels};
pub use onnx::engine::EngineError;
pub use onnx::external;
pub use onnx::read::ReadError;
pub use prepare::{
    CARD_FILE, CamTarget, PrepareError, PrepareOptions, Report, Step, prepare, prepare_from,
};
pub use scores::{SaidActivation, ScoresError};
pub use tools::{check, inspect, measure, pack, served};
pub use write::WriteError;
