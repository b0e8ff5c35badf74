//! The runner: serves a Spin HTTP app and gives its components a native wasi-nn.
//!
//! ```text
//! spin.toml ─ app ─ sandbox (compiled once) ─┐
//!                                            ├─ server: admission → fresh instance → answer
//! models/<name>/ ─ nn (mapped at first use) ─┘
//! ```
//!
//! [`service::Service`] is an application that was compiled and granted its models; [`handler::Handler`] is
//! the list of what happens to a request. Photos and classes are left to the component.

pub mod access;
mod account;
mod admin;
pub mod admission;
pub mod allocator;
pub mod app;
pub mod build;
mod candidate;
pub mod certainty;
mod chaining;
pub mod componentize;
pub mod compose;
pub mod handler;
mod inference_protocol;
mod key_value;
pub mod manifest;
pub mod memory;
pub mod metrics;
mod migration;
mod mounts;
pub mod nn;
mod outbound;
pub mod output_queue;
pub mod problem;
mod request_id;
pub mod routes;
pub mod sandbox;
pub mod server;
pub mod service;
pub mod settings;
mod shortage;
mod spin_headers;
mod threads;
pub mod timeouts;
pub mod trace;
pub mod upload;
