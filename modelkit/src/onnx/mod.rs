//! ONNX files: read once and wholly checked, changed as a graph, run by rten, laid out to be mapped.
//!
//! What a graph means for a classifier of photos is the business of the other modules.

pub(crate) mod engine;
pub mod external;
pub(crate) mod fixed;
pub(crate) mod fold;
pub(crate) mod graph;
pub(crate) mod integer;
mod older;
pub(crate) mod read;
pub(crate) mod single;
