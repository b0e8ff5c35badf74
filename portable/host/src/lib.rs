//! What it takes to run our Wasm without the runner: a WASI program from the command line ([`command`]), two
//! components made one ([`compose`]), one HTTP request to the result ([`proxy`]).
//!
//! For tests and measurements: the wasmtime is the one this workspace pins and builds
//! anyway. It leaves out limits, deadlines and sockets, which a service needs and the runner has.

pub mod command;
pub mod compose;
pub mod proxy;
