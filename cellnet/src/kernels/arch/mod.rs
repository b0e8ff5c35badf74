//! The processor: detected instruction sets, vector operations, and the micro-kernel written with them.

#[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
mod dot;
pub(super) mod finish;
pub(super) mod fixed;
pub(super) mod isa;
pub(super) mod math;
mod micro;
pub(super) mod portable;
mod portable_squares;
mod portable_words;
pub(super) mod simd;
mod squares;
#[cfg(all(target_family = "wasm", target_feature = "simd128"))]
mod wasm;
#[cfg(all(target_family = "wasm", target_feature = "simd128"))]
mod wasm_words;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_dot;
#[cfg(target_arch = "x86_64")]
mod x86_fixed;
#[cfg(target_arch = "x86_64")]
mod x86_squares;
