//! What the end-to-end tests share: the binary and the components, built once; an application with
//! a model done by hand; a runner as a child process; a client; photos, good and hostile.
//!
//! Everything is made in temporary folders, listens on port 0, waits with a bound, and is gone with
//! the value that stands for it. The tests themselves are in `cases/`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what goes wrong here fails the test, with its message"
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
pub use artifacts::{Artifacts, artifacts, portable, repository};
pub use client::Answer;
pub use runner::Runner;
