//! ONNX files: reading and checking them, changing the graph, running it in rten, and writing it so that
//! engines can map its weights.
//!
//! The modules here treat any graph; those beside this one interpret it as a classifier of photos.

mod bound;
pub(crate) mod branch;
mod defaults;
pub(crate) mod einsum;
pub(crate) mod engine;
pub(crate) mod exact;
pub(crate) mod expand;
pub mod external;
pub(crate) mod fixed;
pub(crate) mod fold;
pub(crate) mod fused;
pub(crate) mod graph;
pub(crate) mod integer;
mod named;
mod older;
pub(crate) mod qoperator;
pub(crate) mod read;
pub(crate) mod settled;
pub(crate) mod single;
pub(crate) mod standardized;
pub(crate) mod statistics;
pub(crate) mod unknown;
pub(crate) mod walk;
