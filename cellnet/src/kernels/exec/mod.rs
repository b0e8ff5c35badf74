//! Executes a plan: assigns kernels to stages and tasks to threads.

mod dispatch;
pub(super) mod execution;
