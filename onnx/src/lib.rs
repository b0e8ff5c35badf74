//! ONNX files, read once and trusted in nothing.
//!
//! ```text
//! bytes ──outline::check──▶ every length inside ──read──▶ nodes, constants, inputs, outputs
//! ```
//!
//! Whoever takes an ONNX model comes by here: engines that read the file themselves ask [`outline`] and
//! [`external`] first; the tools and the packer, which work on the graph, get it from `read` (a feature, for
//! engines need no graph). What a graph means is their business, not this crate's.

#[cfg(feature = "read")]
pub mod build;
#[cfg(feature = "read")]
pub mod constant;
pub mod external;
pub mod outline;
#[cfg(feature = "read")]
pub mod read;

pub use external::ExternalError;
pub use outline::OutlineError;
#[cfg(feature = "read")]
pub use {
    constant::Constant,
    read::{ModelFile, ReadError, attribute_constant, read},
};
