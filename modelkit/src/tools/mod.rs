//! Tools for a prepared folder: inspect it, compare its results on all engines, measure what serving it
//! costs, and pack it for cellnet.
//!
//! They run the folder as a server does ([`served`]) and do not change the model.

pub mod check;
pub mod inspect;
pub mod measure;
pub mod pack;
pub mod served;
