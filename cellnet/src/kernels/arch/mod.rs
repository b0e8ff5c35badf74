//! The processor: detected instruction sets, vector operations, and the micro-kernel written with them.

pub(super) mod isa;
pub(super) mod math;
mod micro;
pub(super) mod portable;
pub(super) mod simd;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;
