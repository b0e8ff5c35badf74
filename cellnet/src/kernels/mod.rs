//! The kernels, and the execution that runs them over a plan. One of the two modules with `unsafe`.
//!
//! # Why this is sound
//! Kernels index the arena and the weights through raw pointers, without checks in their loops. They
//! may, because of four facts, each established in one place:
//!
//! 1. *Every offset is inside.* A [`Checked`](crate::check::Checked) plan is the only way in. The
//!    checks there are the ones the kernels rely on: maps inside the arena, blobs inside the weights
//!    and of exactly the length that shapes and panels ask for, halos as wide as windows and Winograd
//!    tiles read, channel strides in whole blocks of eight where vectors are loaded and stored.
//! 2. *What is written is not read or written by anyone else.* A step's output lies apart from its
//!    inputs (checked), or is elementwise in place. The tasks of one step divide the output's rows and
//!    lanes; task 0 clears the halo, which no task of the step reads or writes. Scratch belongs to one
//!    worker. Of two steps done together, the second's outputs lie apart from the first's inputs too, and
//!    the map between them is in scratch (`crate::stage`).
//! 3. *Stages do not overlap in time.* [`Execution`] lets a task of stage `n + 1` begin only after the last of
//!    stage `n` has ended, with release and acquire between them.
//! 4. *The instruction set is there.* [`Isa`] values other than `Portable` are only made by detection.
//!
//! Functions below are `unsafe fn`s under this contract; their bodies are not wrapped in further
//! `unsafe` blocks because each line of them would need one.
#![allow(unsafe_code, reason = "see the argument above")]
#![allow(unsafe_op_in_unsafe_fn, reason = "whole bodies stand under the one contract above")]
#![allow(clippy::needless_range_loop, reason = "loops over registers, written to be unrolled")]

mod arch;
mod exec;
mod memory;
mod ops;

pub use arch::isa::Isa;
pub(crate) use exec::execution::{Execution, workspace_floats};
pub(crate) use memory::Arena;
