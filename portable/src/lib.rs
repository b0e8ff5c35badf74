//! A component that implements `wasi:nn@0.2.0-rc-2024-10-28` in Wasm, for hosts without wasi-nn.
//!
//! ```text
//! skincell.wasm ── imports wasi:nn ──▶ skincell_portable.wasm ── reads ──▶ /models/<name>/model.cell
//!                  (composed by Spin)   cellnet, else rten                  or model.onnx(.data)
//! ```
//!
//! `exports` implements the interface, `store` finds and keeps models, `bake` puts models into the
//! component and `baked` reads them there; the engines are those of `skincell-engines`. All modules but
//! `exports` are tested natively. Element types, limits and error codes are those of the runner's native
//! wasi-nn. Loading a graph from bytes and batches are not supported.
//!
//! Mounting a model grants it: the models folder has one folder for each model, which is loaded by that
//! folder's name, and no name reaches anything else. `skincell model bake` makes a component with models in
//! its memory, which reads no files.

#[cfg(not(target_family = "wasm"))]
pub mod bake;
pub mod baked;
#[cfg(target_family = "wasm")]
mod exports;
pub mod store;
