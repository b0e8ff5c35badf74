//! The engine that the page runs on the user's own device: the component's `/predict`, in the browser.
//!
//! ```text
//! page's worker ── bytes ──▶ skincell::respond_to_photo ──▶ cellnet ──▶ the same JSON as the service's
//! ```
//!
//! It is built for WASI 0.1, whose functions the page's worker replaces by stubs, because the engine needs
//! only a clock from them. Everything about photos, models and answers is the component's own code
//! ([`skincell`]) over the crate `engines`; here is only what connects the two: the implementation of
//! [`skincell::inference::Inference`] (`local`), and a few functions for JavaScript (`exports`).
//!
//! An instance has one model and answers one photo at a time. The page makes a new instance for each photo,
//! so that no memory of a photo remains. Rten is left out, and so are threads, except
//! with the experimental feature `two-threads`.

mod exports;
mod local;

pub use local::{LocalModel, Parts};
