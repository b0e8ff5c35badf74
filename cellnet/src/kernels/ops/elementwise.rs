//! Elementwise steps: affine (also copy and concatenation) and binary.

use crate::kernels::arch::finish::round;
use crate::kernels::arch::math::activate;
use crate::kernels::arch::portable::Scalar;
use crate::kernels::arch::simd::{Simd, channels};
use crate::kernels::memory::{Memory, even_parts, part};
use crate::plan::{Activation, Affine, Binary, BinaryOp, Map, Operand};

/// Fewest values of one task.
const VALUES: usize = 16 * 1024;

pub(super) fn row_parts(output: &Map, threads: usize) -> usize {
    let values = output.height as usize * output.width as usize * output.stride as usize;
    if threads <= 1 {
        1
    } else {
        let wanted = (values / VALUES).clamp(1, 3 * threads).min(output.height as usize);
        even_parts(output.height as usize, wanted)
    }
}

/// Number of tasks of an elementwise step that writes `output`.
pub(in crate::kernels) fn tasks(output: u32, maps: &[Map], threads: usize) -> usize {
    row_parts(&maps[output as usize], threads)
}

pub(in crate::kernels) fn at(map: &Map, y: usize, x: usize) -> usize {
    map.origin() as usize + y * map.pitch() as usize + x * map.stride as usize
}

/// Computes one task of an affine step: some rows.
///
/// # Safety
/// As for the direct convolution's task.
#[inline(always)]
pub(in crate::kernels) unsafe fn affine_task<S: Simd>(
    memory: &Memory,
    step: &Affine,
    task: usize,
    threads: usize,
) {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    let rows = part(output.height as usize, task, row_parts(output, threads));
    let count = input.channels as usize;
    // Whole vectors may write past the last channel only if no other data lies there.
    let alone = step.first == 0 && input.channels == output.channels;
    let whole = if alone { count.next_multiple_of(8) } else { count / 8 * 8 };
    let is_copy = step.scale.or(step.bias).is_none() && step.activation == Activation::None;
    for y in rows.0..rows.1 {
        for x in 0..output.width as usize {
            let from = at(input, y, x);
            let to = at(output, y, x) + step.first as usize;
            if is_copy {
                let (from, to) = (memory.arena.add(from), memory.arena.add(to));
                channels!(S, c in 0, whole => copy_vector(from.add(c), to.add(c)));
                channels!(Scalar, c in whole, count => copy_vector(from.add(c), to.add(c)));
            } else {
                channels!(S, c in 0, whole => affine_vector(memory, step, from, to, c));
                channels!(Scalar, c in whole, count => affine_vector(memory, step, from, to, c));
            }
        }
    }
}

#[inline(always)]
unsafe fn copy_vector<S: Simd>(from: *const f32, to: *mut f32) {
    S::store(to, S::load(from));
}

#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn affine_vector<S: Simd>(memory: &Memory, step: &Affine, from: usize, to: usize, c: usize) {
    let mut value = S::load(memory.arena.add(from + c));
    let load = |blob| S::load(memory.blob(blob).add(c));
    value = match (step.scale, step.bias) {
        (Some(scale), Some(bias)) => S::fma(value, load(scale), load(bias)),
        (Some(scale), None) => S::mul(value, load(scale)),
        (None, Some(bias)) => S::add(value, load(bias)),
        (None, None) => value,
    };
    S::store(memory.arena.add(to + c), activate::<S>(step.activation, value));
}

/// The place of an operand's values and how they repeat.
struct Source {
    base: *const f32,
    row: usize,
    column: usize,
    /// One value for all channels.
    single: bool,
}

unsafe fn source(memory: &Memory, operand: &Operand) -> Source {
    let repeats = |size: u32, step: usize| if size == 1 { 0 } else { step };
    match operand {
        Operand::Map(map) => {
            let map = memory.map(*map);
            Source {
                base: memory.arena.add(map.origin() as usize),
                row: repeats(map.height, map.pitch() as usize),
                column: repeats(map.width, map.stride as usize),
                single: map.channels == 1,
            }
        }
        Operand::Constant { height, width, channels, values } => {
            let stride = if *channels == 1 { 1 } else { channels.next_multiple_of(8) as usize };
            Source {
                base: memory.blob(*values),
                row: repeats(*height, *width as usize * stride),
                column: repeats(*width, stride),
                single: *channels == 1,
            }
        }
    }
}

impl Source {
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, y: usize, x: usize, c: usize) -> S::V {
        let pixel = self.base.add(y * self.row + x * self.column);
        if self.single { S::splat(*pixel) } else { S::load(pixel.add(c)) }
    }
}

/// Computes one task of a binary step: some rows.
///
/// # Safety
/// As for the direct convolution's task. If the output is also an operand, each vector is read before it is
/// written, by the same task only.
#[inline(always)]
pub(in crate::kernels) unsafe fn binary_task<S: Simd>(
    memory: &Memory,
    step: &Binary,
    task: usize,
    threads: usize,
) {
    let output = memory.map(step.output);
    let rows = part(output.height as usize, task, row_parts(output, threads));
    let (a, b) = (source(memory, &step.a), source(memory, &step.b));
    let bytes = step.scale.map(|scale| (1.0 / scale, f32::from(output.zero.unwrap_or(0))));
    for y in rows.0..rows.1 {
        for x in 0..output.width as usize {
            let to = memory.arena.add(at(output, y, x));
            let each = if bytes.is_some() { 4 } else { 1 };
            let stride = (output.channels as usize * each).next_multiple_of(8);
            if let (Some(bytes), BinaryOp::Mul, Activation::None) =
                (bytes, step.op, step.activation)
                && cfg!(target_family = "wasm")
                && !(a.single || b.single)
            {
                multiply_to_bytes::<S>((&a, &b), (to.cast(), bytes), (y, x, stride));
                continue;
            }
            channels!(S, c in 0, stride => binary_vector(step, (&a, &b), (to, bytes), (y, x, c)));
        }
    }
}

/// The bytes of a pixel's products, as after squeeze-and-excite: a loop of its own, because in the general
/// one the constants of all activations would be in the registers of Wasm.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline(never))]
unsafe fn multiply_to_bytes<S: Simd>(
    (a, b): (&Source, &Source),
    (to, (inverse, zero)): (*mut u8, (f32, f32)),
    (y, x, stride): (usize, usize, usize),
) {
    let [a, b] = [a, b].map(|source| source.base.add(y * source.row + x * source.column));
    // The stride is a multiple of 8.
    for c in (0..stride).step_by(S::Half::LANES) {
        let value = S::Half::mul(S::Half::load(a.add(c)), S::Half::load(b.add(c)));
        round::<S::Half>(value, inverse, zero, to.add(c));
    }
}

#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn binary_vector<S: Simd>(
    step: &Binary,
    (a, b): (&Source, &Source),
    (to, bytes): (*mut f32, Option<(f32, f32)>),
    (y, x, c): (usize, usize, usize),
) {
    let (a, b) = (a.load::<S>(y, x, c), b.load::<S>(y, x, c));
    let (one, zero) = (S::splat(1.0), S::splat(0.0));
    let value = match step.op {
        BinaryOp::Add => S::add(a, b),
        BinaryOp::Sub => S::sub(a, b),
        BinaryOp::Mul => S::mul(a, b),
        BinaryOp::Div => S::div(a, b),
        BinaryOp::Max => S::max(a, b),
        BinaryOp::Min => S::min(a, b),
        BinaryOp::Greater => S::where_greater(a, b, one, zero),
        BinaryOp::GreaterOrEqual => S::where_greater(b, a, zero, one),
    };
    let value = activate::<S>(step.activation, value);
    match bytes {
        None => S::store(to.add(c), value),
        Some((inverse, zero)) => round::<S>(value, inverse, zero, to.cast::<u8>().add(c)),
    }
}
