//! Tools for a prepared folder: inspect it, compare its results on all engines, measure what serving it
//! costs, pack it for cellnet, and add a familiarity output.
//!
//! They run the folder as a server does ([`served`]), and all but the last do not change the model.

mod answer;
pub mod check;
mod disturbed;
pub mod familiarize;
pub mod honesty;
pub mod inspect;
pub mod measure;
pub mod pack;
mod proof;
pub mod served;
