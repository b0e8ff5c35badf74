//! Runs Wasm without the runner, for tests and measurements: a WASI program from the command line
//! ([`command`]), the composition of two components ([`compose`]), one HTTP request to the result
//! ([`proxy`]).
//!
//! It uses the wasmtime that this workspace builds anyway. Limits, deadlines and sockets, which a service
//! needs, are in the runner only.

pub mod command;
pub mod compose;
pub mod proxy;
mod state;
