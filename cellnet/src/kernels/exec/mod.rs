//! One run of a plan: which kernel does a stage, and which thread does which task of it.

mod dispatch;
pub(super) mod execution;
