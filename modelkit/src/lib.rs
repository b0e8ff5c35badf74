//! Tools for models before they are served: prepare, inspect, check, quantize.
//!
//! [`prepare()`] is the main path. It reads and simplifies an exported ONNX graph (`onnx`), determines what
//! its scores are (`scores`), adds the Grad-CAM output (`gradcam`), compares the result with the original
//! framework (`compare`), lays out the weights for memory mapping ([`external`]) and writes the folder
//! (`write`).
//!
//! Before that, [`export`] makes the ONNX graph of a Keras or PyTorch model. The other tools work on prepared
//! folders: [`inspect`] shows a model's contents, [`check`] runs it on every engine and compares, [`measure`]
//! measures the cost of serving it, [`pack`] writes it for cellnet, [`quantize`] writes it in fewer bits, and
//! [`familiarize()`] adds an output that tells photos of an unknown kind ([`familiarity`]).
//! They load folders as a server does ([`served`]).
//!
//! The crate does not use HTTP, WASI or the runner.

mod compare;
mod digest;
pub mod export;
pub mod familiarity;
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
pub mod source;
mod tools;
mod warnings;
mod write;

pub use compare::{CompareError, Comparison, Given, Reference};
pub use digest::digest;
pub use gradcam::Price;
pub use interface::InterfaceError;
pub use labels::{LabelsError, decode_labels, parse_labels};
pub use onnx::engine::EngineError;
pub use onnx::external;
pub use onnx::read::ReadError;
pub use prepare::{
    CARD_FILE, COMPARED, CamTarget, PrepareError, PrepareOptions, Report, Step, check_target,
    prepare, prepare_from,
};
pub use scores::{SaidActivation, ScoresError};
pub use tools::familiarize::{FamiliarizeError, familiarize};
pub use tools::{check, honesty, inspect, measure, pack, served};
pub use write::WriteError;
