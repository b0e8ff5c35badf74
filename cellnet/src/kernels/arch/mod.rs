//! What a processor can do: instruction sets by detection, vectors, and the micro-kernel written on them.

pub(super) mod isa;
pub(super) mod math;
mod micro;
pub(super) mod portable;
pub(super) mod simd;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;
