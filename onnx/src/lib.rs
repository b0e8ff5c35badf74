//! Reads ONNX files as untrusted input.
//!
//! ```text
//! bytes ──outline::check──▶ checked lengths ──read──▶ nodes, constants, inputs, outputs
//! ```
//!
//! Every ONNX file passes through this crate. Engines with a reader of their own call [`outline`] and
//! [`external`] first. The tools and the packer work on the graph itself and get it from `read`, which is
//! behind a feature because engines do not need it. The crate does not check whether a graph makes sense.

#[cfg(feature = "read")]
pub mod build;
#[cfg(feature = "read")]
pub mod constant;
pub mod external;
#[cfg(feature = "read")]
pub mod function;
pub mod outline;
#[cfg(feature = "read")]
pub mod read;
pub mod regular;
#[cfg(feature = "read")]
mod sets;

pub use external::ExternalError;
pub use outline::OutlineError;
#[cfg(feature = "read")]
pub use {
    constant::Constant,
    read::{ModelFile, ReadError, attribute_constant, inner_constant, read},
    sets::{is_standard, opset},
};
