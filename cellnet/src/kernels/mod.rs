//! The kernels, and the execution of a plan by them. One of the two modules with `unsafe`.
//!
//! # Why this is sound
//! Kernels index the arena and the weights through raw pointers, without checks in their loops. Four facts,
//! each established in one place, make this sound:
//!
//! 1. *Every offset is inside.* A [`Checked`](crate::check::Checked) plan is the only way in. It guarantees
//!    maps inside the arena; blobs inside the weights, of exactly the length that shapes and panels require;
//!    halos as wide as windows and Winograd tiles read; and channel strides in whole blocks of eight where
//!    vectors are loaded and stored. Weights of 16 bits are converted, and bytes widened or transformed, to
//!    scratch whose size follows from the same lengths. Maps and weights of bytes are indexed in floats of
//!    four bytes, so the same checks hold for them.
//! 2. *No other task reads or writes what a task writes.* A step's output does not overlap its inputs
//!    (checked), or the step is elementwise in place, as is the addition of a residual to sums of bytes. The
//!    tasks of one step divide the output's rows and lanes; task 0 clears the halo, which no task of the step
//!    reads or writes. Scratch belongs to one worker. In a pair of steps, the second's outputs do not overlap
//!    the first's inputs either, and the map between them is in scratch (`crate::stage`).
//! 3. *Stages do not overlap in time.* [`Execution`] lets a task of stage `n + 1` begin only after the last
//!    task of stage `n` has ended, with release and acquire between them.
//! 4. *The machine has the instruction set.* [`Isa`] values other than `Portable` come from detection only.
//!
//! The `unsafe fn`s below rely on this contract. Their bodies have no `unsafe` blocks because every line
//! would need one.
#![allow(unsafe_code, reason = "see the argument above")]
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract above covers whole bodies")]
#![allow(clippy::needless_range_loop, reason = "loops over registers, written to be unrolled")]

mod arch;
mod exec;
mod memory;
mod ops;

pub use arch::isa::Isa;
pub(crate) use exec::execution::{Execution, workspace_floats};
pub(crate) use memory::Arena;
