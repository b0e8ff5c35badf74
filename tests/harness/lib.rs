//! Shared parts of the end-to-end tests: the binary and the components, built once; an application with a
//! model that can be computed by hand; a runner as a child process; a client; valid and hostile photos.
//!
//! Everything uses temporary folders, port 0 and time limits, and is removed when its value is dropped. The
//! tests are in `cases/`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "failures here fail the test with their message"
)]

mod app;
mod artifacts;
pub mod client;
pub mod colours;
pub mod damaged;
mod dot;
mod graph;
pub mod photos;
mod runner;

pub use app::App;
pub use artifacts::{
    Artifacts, artifacts, core_module, portable, repository, wasi03, wasi03_candidate,
};
pub use client::Answer;
pub use runner::Runner;
