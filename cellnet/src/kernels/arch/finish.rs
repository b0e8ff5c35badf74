//! What follows the sums of bytes, in one pass while they are in the L1 cache: factor and bias, activation,
//! residual, and the values, their bytes, or both. The sums lie in a buffer, because more work after the main
//! loop would cost it registers.

use super::fixed::{Fixed, silu_bytes};
use super::math::{activate, chosen};
use super::simd::{Finish, Simd};
use crate::plan::Activation;

/// Finishes a tile. Factor and bias are rounded one after the other, so that every back end gives the same
/// bits.
///
/// # Safety
/// `sums` must be valid for reads of all rows, and each place for its access to all rows; the width must be
/// a multiple of `S::LANES`. The machine must have the instruction set of `S`.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
pub(in crate::kernels) unsafe fn finish_sums<S: Fixed>(sums: *const f32, finish: &Finish) {
    if let Activation::FixedSilu { bits } = finish.activation {
        return silu_bytes::<S>(sums, finish, bits);
    }
    macro_rules! run {
        ($activation:expr) => {
            if finish.residual.0.is_null() {
                rows::<S, false>(sums, finish, $activation)
            } else {
                rows::<S, true>(sums, finish, $activation)
            }
        };
    }
    chosen!(finish.activation, run);
}

#[inline(always)]
unsafe fn rows<S: Simd, const ADDS: bool>(
    sums: *const f32,
    finish: &Finish,
    activation: Activation,
) {
    let (rows, width) = finish.size;
    let (residual, values, bytes) = (finish.residual, finish.values, finish.bytes);
    for c in (0..width).step_by(S::LANES) {
        let (factor, bias) = (S::load(finish.factors.add(c)), S::load(finish.bias.add(c)));
        for row in 0..rows {
            let sum = S::from_integers(S::load(sums.add(row * width + c)));
            let mut value = S::add(S::mul(sum, factor), bias);
            if ADDS {
                if !finish.activate_last {
                    value = activate::<S>(activation, value);
                }
                value = S::add(value, S::load(residual.0.add(row * residual.1 + c)));
            }
            if !ADDS || finish.activate_last {
                value = activate::<S>(activation, value);
            }
            if !values.0.is_null() {
                S::store(values.0.add(row * values.1 + c), value);
            }
            if !bytes.0.is_null() {
                let to = bytes.0.add(row * bytes.1 + c);
                round::<S>(value, finish.inverse, finish.zero, to);
            }
        }
    }
}

/// Stores the bytes of `value · inverse`, rounded, halves to even, plus `zero`.
#[inline(always)]
pub(in crate::kernels) unsafe fn round<S: Simd>(value: S::V, inverse: f32, zero: f32, to: *mut u8) {
    let steps = S::max(S::mul(value, S::splat(inverse)), S::splat(-zero));
    S::store_steps(to, steps, zero);
}
