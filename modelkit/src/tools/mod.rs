//! What people do with a prepared folder: look into it, run it on every engine, say what serving it costs,
//! pack it for cellnet.
//!
//! All of them run the folder as a server does ([`served`]); none changes the model.

pub mod check;
pub mod inspect;
pub mod measure;
pub mod pack;
pub mod served;
