//! `wasi:nn@0.2.0-rc-2024-10-28` as a component: inference compiled into Wasm, for hosts that have none.
//!
//! ```text
//! skincell.wasm ── imports wasi:nn ──▶ skincell_portable.wasm ── reads ──▶ /models/<name>/model.cell
//!                  (composed by Spin)   cellnet, else rten                  or model.onnx(.data)
//! ```
//!
//! `exports` is the glue to the interface, `store` finds and keeps models, `baked` has those that came with
//! the component, `bake` puts them there; the engines are those of `skincell-engines`. Everything but the glue is
//! plain Rust, tested natively. It answers as the runner's native side does, dtypes, limits and error codes alike, and leaves out
//! what that leaves out: loading a graph from bytes, and batches.
//!
//! A model is granted by mounting it: whatever lies in a folder of the models folder may be loaded by
//! that folder's name, and nothing else can be reached by any name. `skincell model bake` makes a
//! component of this one that has its models in its memory from the start, and reads no files.

#[cfg(not(target_family = "wasm"))]
pub mod bake;
pub mod baked;
#[cfg(target_family = "wasm")]
mod exports;
pub mod store;
