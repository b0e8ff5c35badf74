//! Elementwise functions on vectors.
//!
//! `e^x` is `2^t` with `t = x · log2 e` split into a whole number and a fraction in [-1/2, 1/2]; the
//! fraction goes through a minimax polynomial of degree 5 fitted for relative error (2.4e-7 in `f32`).
//! Inputs are clamped so that results stay normal numbers: `e^x` saturates at e^±87.

use super::simd::{Simd, WHOLE};
use crate::plan::Activation;

/// Coefficients of `2^f`, lowest first.
const EXP2: [f32; 6] =
    [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_541, 0.001_327_647];
const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// `2^(x · factor)` for `|factor|` up to log2 e: `e^x` and `e^-x` without negating `x`.
///
/// # Safety
/// The machine must have the instruction set of `S`. The same holds for all functions below.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn exp2<S: Simd>(x: S::V, factor: f32) -> S::V {
    let x = clip::<S>(x, -87.0, 87.0);
    let factor = S::splat(factor);
    let shifted = S::fma(x, factor, S::splat(WHOLE));
    let minus_whole = S::sub(S::splat(WHOLE), shifted);
    let f = S::fma(x, factor, minus_whole);
    let mut p = S::splat(EXP2[5]);
    p = S::fma(p, f, S::splat(EXP2[4]));
    p = S::fma(p, f, S::splat(EXP2[3]));
    p = S::fma(p, f, S::splat(EXP2[2]));
    p = S::fma(p, f, S::splat(EXP2[1]));
    p = S::fma(p, f, S::splat(EXP2[0]));
    S::scale(p, shifted)
}

/// `1 + e^-x`, the divisor of sigmoid and SiLU.
#[inline(always)]
unsafe fn one_plus_exp_neg<S: Simd>(x: S::V) -> S::V {
    S::add(S::splat(1.0), exp2::<S>(x, -LOG2_E))
}

#[inline(always)]
unsafe fn clip<S: Simd>(x: S::V, low: f32, high: f32) -> S::V {
    S::min(S::max(x, S::splat(low)), S::splat(high))
}

/// `x / scale`, clipped to `low` and `high` and rounded to a whole number, halves to even.
#[inline(always)]
pub(in crate::kernels) unsafe fn steps<S: Simd>(x: S::V, scale: f32, low: f32, high: f32) -> S::V {
    let steps = clip::<S>(S::div(x, S::splat(scale)), low, high);
    S::sub(S::add(steps, S::splat(WHOLE)), S::splat(WHOLE))
}

/// Error function, Abramowitz and Stegun 7.1.26.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn erf<S: Simd>(x: S::V) -> S::V {
    let zero = S::splat(0.0);
    let size = S::max(x, S::sub(zero, x));
    let t = S::div(S::splat(1.0), S::fma(size, S::splat(0.327_591_1), S::splat(1.0)));
    let mut p = S::splat(1.061_405_4);
    p = S::fma(p, t, S::splat(-1.453_152_1));
    p = S::fma(p, t, S::splat(1.421_413_8));
    p = S::fma(p, t, S::splat(-0.284_496_72));
    p = S::fma(p, t, S::splat(0.254_829_6));
    let bell = exp2::<S>(S::mul(size, size), -LOG2_E);
    let y = S::sub(S::splat(1.0), S::mul(S::mul(p, t), bell));
    S::where_greater(zero, x, S::sub(zero, y), y)
}

/// Applies `activation`.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
pub(in crate::kernels) unsafe fn activate<S: Simd>(activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::None => x,
        Activation::Clip { low, high } => clip::<S>(x, low, high),
        Activation::Sigmoid => S::quotient(S::splat(1.0), one_plus_exp_neg::<S>(x)),
        Activation::Silu | Activation::FixedSilu { .. } => S::quotient(x, one_plus_exp_neg::<S>(x)),
        Activation::ShortSilu => match S::short_silu(x) {
            Some(value) => value,
            None => S::quotient(x, one_plus_exp_neg::<S>(x)),
        },
        Activation::HardSigmoid { alpha, beta } => {
            clip::<S>(S::fma(x, S::splat(alpha), S::splat(beta)), 0.0, 1.0)
        }
        Activation::HardSwish => {
            S::mul(x, clip::<S>(S::fma(x, S::splat(1.0 / 6.0), S::splat(0.5)), 0.0, 1.0))
        }
        Activation::Gelu => {
            let phi = erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
            S::mul(S::mul(x, S::splat(0.5)), S::add(S::splat(1.0), phi))
        }
        Activation::Erf => erf::<S>(x),
        Activation::Tanh => {
            let s = S::div(S::splat(2.0), one_plus_exp_neg::<S>(S::add(x, x)));
            S::sub(s, S::splat(1.0))
        }
        Activation::Exp => exp2::<S>(x, LOG2_E),
        Activation::Abs => S::max(x, S::sub(S::splat(0.0), x)),
        Activation::Sqrt => S::sqrt(x),
        Activation::Reciprocal => S::div(S::splat(1.0), x),
        Activation::Step => S::where_greater(x, S::splat(0.0), S::splat(1.0), S::splat(0.0)),
        Activation::Quantize { scale, low, high } => {
            S::mul(steps::<S>(x, scale, low, high), S::splat(scale))
        }
        Activation::LeakyRelu { slope } => {
            S::where_greater(x, S::splat(0.0), x, S::mul(x, S::splat(slope)))
        }
        Activation::Elu { alpha, scale } => {
            let curve = S::mul(S::sub(exp2::<S>(x, LOG2_E), S::splat(1.0)), S::splat(alpha));
            S::mul(S::where_greater(x, S::splat(0.0), x, curve), S::splat(scale))
        }
    }
}

/// Calls `$run!` with a constant activation, so that the choice is made once and not for each vector.
macro_rules! chosen {
    ($activation:expr, $run:ident) => {
        match $activation {
            Activation::None => $run!(Activation::None),
            Activation::Silu => $run!(Activation::Silu),
            Activation::ShortSilu => $run!(Activation::ShortSilu),
            Activation::Clip { low, high } => $run!(Activation::Clip { low, high }),
            Activation::HardSwish => $run!(Activation::HardSwish),
            Activation::Sigmoid => $run!(Activation::Sigmoid),
            Activation::Gelu => $run!(Activation::Gelu),
            other => $run!(other),
        }
    };
}
pub(super) use chosen;

/// Applies `activation` in place to `len` floats at `p`.
///
/// # Safety
/// `p` must be valid for reads and writes of `len` floats, a multiple of `S::LANES`.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
pub(in crate::kernels) unsafe fn activate_run<S: Simd>(
    activation: Activation,
    p: *mut f32,
    len: usize,
) {
    macro_rules! run {
        ($activation:expr) => {
            for i in (0..len).step_by(S::LANES) {
                S::store(p.add(i), activate::<S>($activation, S::load(p.add(i))));
            }
        };
    }
    if activation != Activation::None {
        chosen!(activation, run);
    }
}

/// Applies `activation` to `rows` adjacent rows of `width` floats at `from`, and stores row `r` at `to[r]`,
/// which may be the place it was read from.
///
/// # Safety
/// `width` must be a multiple of `S::LANES`; `from` must be valid for reads of all rows, and each of the
/// `rows` pointers at `to` for writes of one row.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
pub(in crate::kernels) unsafe fn activate_rows<S: Simd>(
    activation: Activation,
    from: *const f32,
    (rows, width): (usize, usize),
    to: *const *mut f32,
) {
    macro_rules! run {
        ($activation:expr) => {
            for row in 0..rows {
                let (from, to) = (from.add(row * width), *to.add(row));
                for c in (0..width).step_by(S::LANES) {
                    S::store(to.add(c), activate::<S>($activation, S::load(from.add(c))));
                }
            }
        };
    }
    chosen!(activation, run);
}
