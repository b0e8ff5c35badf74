//! One run of a plan: which kernel does a stage, and which thread does which task of it.

pub(super) mod crew;
mod dispatch;
