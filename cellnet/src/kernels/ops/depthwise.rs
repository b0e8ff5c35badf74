//! Depthwise convolution, with activation and the means for squeeze-and-excite fused.
//!
//! A task takes some channels and goes down the map row by row, and through each row by vectors of
//! channels, so that the rows of a window stay in the caches; four neighbouring outputs share each loaded
//! weight. Of a slice, which is in the caches, it takes all rows of one vector first. The means are summed
//! within each row and then over the rows. One task sums a channel, so the order of additions is the same for
//! every number of threads.

use std::mem::MaybeUninit;

use crate::kernels::arch::math::activate;
use crate::kernels::arch::simd::{Simd, channels};
use crate::kernels::memory::{Memory, Task, part};
use crate::plan::{Activation, Depthwise, Map};

/// Fewest channels of one task.
const CHANNELS: usize = 32;
/// Outputs computed side by side, and with 32 registers where as many blocks of these cover a row.
const SIDE: usize = 4;
const WIDER_SIDE: usize = 5;
/// Whether the rows of a window stay a loop when compiled: Cranelift, which compiles Wasm, loads everything
/// between two jumps before it computes, and nine weights or 25 with their inputs do not fit 16 registers.
const BY_ROWS: bool = cfg!(target_family = "wasm");
/// Outputs of a row that wait in the L1 cache for their activation: enough at once to hide the activation's
/// latency. Up to `SIDE - 1` more wait at a row's end.
const WAITING: usize = 32;
/// The waiting outputs of one vector of channels; written before they are read.
#[repr(align(64))]
struct Buffer(MaybeUninit<[f32; (WAITING + SIDE) * 16]>);

/// Parts of the channels, and parts of the rows.
fn grid(step: &Depthwise, maps: &[Map], threads: usize) -> (usize, usize) {
    let output = &maps[step.output as usize];
    let blocks = channels_of(output).div_ceil(CHANNELS);
    if threads <= 1 || step.means.is_some() {
        return (blocks, 1);
    }
    let rows = (3 * threads).div_ceil(blocks).clamp(1, output.height as usize);
    (blocks, rows)
}

/// Number of channels, rounded up to whole vectors of the narrowest vector back end.
fn channels_of(map: &Map) -> usize {
    (map.channels as usize).next_multiple_of(8)
}

/// Number of tasks of a step for this many threads.
pub(in crate::kernels) fn tasks(step: &Depthwise, maps: &[Map], threads: usize) -> usize {
    let (blocks, rows) = grid(step, maps, threads);
    blocks * rows
}

/// Data shared by the rows of one task.
struct Channels<'a> {
    step: &'a Depthwise,
    memory: &'a Memory<'a>,
    input: &'a Map,
    /// The first channel of `input`.
    input_first: usize,
    output: &'a Map,
    /// The first of the task's channels.
    first: usize,
    /// Each channel's sum so far, if means are computed.
    totals: *mut f32,
}

/// The kernel's size and stride that [`task`] is compiled for, or zeros for any: `KERNEL` and `STRIDE` below,
/// the same for both axes.
pub(in crate::kernels) fn compiled_for(step: &Depthwise, maps: &[Map]) -> (usize, usize) {
    match (step.window.kernel, step.window.stride) {
        // Narrower than a block: by the code for any window, so that the other kernels have no code for it.
        _ if (maps[step.output as usize].width as usize) < SIDE => (0, 0),
        ([3, 3], [1, 1]) => (3, 1),
        ([3, 3], [2, 2]) => (3, 2),
        ([5, 5], [1, 1]) => (5, 1),
        ([5, 5], [2, 2]) => (5, 2),
        _ => (0, 0),
    }
}

/// Computes one task: its part of the grid, or for a slice all rows, reading the slice instead of the
/// step's input.
///
/// # Safety
/// As for the direct convolution's task; `KERNEL` and `STRIDE` must be what the step is [`compiled_for`], or
/// zeros.
#[inline(always)]
pub(in crate::kernels) unsafe fn task<S: Simd, const KERNEL: usize, const STRIDE: usize>(
    memory: &Memory,
    step: &Depthwise,
    task: Task,
) {
    let output = memory.map(step.output);
    let height = output.height as usize;
    let (input, input_first, rows, (first, last)) = if let Some(slice) = task.slice {
        (&slice.map, slice.channels.0, (0, height), slice.channels)
    } else {
        let (blocks, row_parts) = grid(step, memory.maps, task.threads);
        let first = task.index % blocks * CHANNELS;
        let last = (first + CHANNELS).min(channels_of(output));
        let rows = part(height, task.index / blocks, row_parts);
        (memory.map(step.input), 0, rows, (first, last))
    };
    let mut totals = [0.0f32; CHANNELS];
    let totals = totals.as_mut_ptr();
    let block = Channels { step, memory, input, input_first, output, first, totals };
    // A vector of all the slice's pixels stays in the L1 cache.
    let together = if task.slice.is_some() { height } else { 1 };
    for y in (rows.0..rows.1).step_by(together) {
        let rows = (y, rows.1.min(y + together));
        channels!(S, c in first, last => vector_of[KERNEL, STRIDE](&block, rows, c));
    }
    if let Some(means) = step.means {
        let means = memory.arena.add(memory.map(means).origin() as usize);
        let pixels = (output.width as f32) * (output.height as f32);
        channels!(S, c in first, last => mean(totals.add(c - first), means.add(c), pixels));
    }
}

#[inline(always)]
unsafe fn mean<S: Simd>(total: *const f32, to: *mut f32, pixels: f32) {
    S::store(to, S::div(S::load(total), S::splat(pixels)));
}

/// Data shared by the outputs of one row and one vector of channels. `weights` is filled for 3×3 kernels
/// only.
struct Row<S: Simd> {
    /// First input of the row's first window.
    from: *const f32,
    /// Inputs from one output to the next; floats from one input to the next, and from row to row.
    x_stride: usize,
    pixel: usize,
    pitch: usize,
    bias: S::V,
    weights: [S::V; 9],
    /// The weights in memory, `weight_step` floats apart.
    weights_at: *const f32,
    weight_step: usize,
    kernel: [usize; 2],
    /// Activation applied before storing, if it takes few instructions; otherwise none.
    activation: Activation,
    /// Whether the outputs are summed before storing: for means, if nothing comes after.
    sums: bool,
}

#[inline(always)]
unsafe fn new_row<S: Simd, const KERNEL: usize, const STRIDE: usize>(
    block: &Channels,
    y: usize,
    c: usize,
) -> Row<S> {
    let (input, window) = (block.input, &block.step.window);
    let (pixel, pitch) = (input.stride as usize, input.pitch() as usize);
    let pad = window.pad[0] as usize * pitch + window.pad[1] as usize * pixel;
    let first = input.origin() as usize + y * window.stride[0] as usize * pitch;
    let weights_at = block.memory.blob(block.step.weights).add(c);
    let weight_step = block.output.stride as usize;
    let mut weights = [S::splat(0.0); 9];
    if KERNEL == 3 && !BY_ROWS {
        for i in 0..9 {
            weights[i] = S::load(weights_at.add(i * weight_step));
        }
    }
    let activation = match block.step.activation {
        short @ (Activation::Clip { .. } | Activation::HardSwish) => short,
        // Nine instructions on the widest vectors.
        Activation::ShortSilu if S::LANES == 16 => Activation::ShortSilu,
        _ => Activation::None,
    };
    Row {
        from: block.memory.arena.add(first + c - block.input_first).sub(pad).cast_const(),
        x_stride: if STRIDE == 0 { window.stride[1] as usize } else { STRIDE },
        pixel,
        pitch,
        bias: S::load(block.memory.blob(block.step.bias).add(c)),
        weights,
        weights_at,
        weight_step,
        kernel: if KERNEL == 0 || BY_ROWS {
            window.kernel.map(|k| k as usize)
        } else {
            [KERNEL; 2]
        },
        activation,
        sums: block.step.means.is_some() && activation == block.step.activation,
    }
}

/// Computes rows of one vector of channels. `KERNEL` and `STRIDE` are 0 if they are known only at run time or
/// differ between the axes.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn vector_of<S: Simd, const KERNEL: usize, const STRIDE: usize>(
    block: &Channels,
    rows: (usize, usize),
    c: usize,
) {
    let mut row = new_row::<S, KERNEL, STRIDE>(block, rows.0, c);
    let y_stride = if STRIDE == 0 { block.step.window.stride[0] as usize } else { STRIDE };
    for y in rows.0..rows.1 {
        row_of::<S, KERNEL, STRIDE>(block, &row, y, c);
        row.from = row.from.wrapping_add(y_stride * row.pitch);
    }
}

/// Computes one row of one vector of channels.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn row_of<S: Simd, const KERNEL: usize, const STRIDE: usize>(
    block: &Channels,
    row: &Row<S>,
    y: usize,
    c: usize,
) {
    let (output, activation) = (block.output, block.step.activation);
    let to = output.origin() as usize + y * output.pitch() as usize + c;
    let to = block.memory.arena.add(to);
    let (width, stride) = (output.width as usize, output.stride as usize);
    let mut sum = S::splat(0.0);
    if row.activation == activation {
        sum = outputs::<S, KERNEL, STRIDE>(row, (0, width), to, stride);
    } else {
        let mut buffer = Buffer(MaybeUninit::uninit());
        let waiting: *mut f32 = buffer.0.as_mut_ptr().cast();
        let mut first = 0;
        while first < width {
            // A rest too narrow for a block joins the outputs before it.
            let rest = width - first;
            let count = if rest < WAITING + SIDE { rest } else { WAITING };
            outputs::<S, KERNEL, STRIDE>(row, (first, count), waiting, S::LANES);
            let mut places = [MaybeUninit::<*mut f32>::uninit(); WAITING + SIDE];
            for (x, place) in places[..count].iter_mut().enumerate() {
                place.write(to.add((first + x) * stride));
            }
            (S::ACTIVATE_ROWS)(activation, waiting, (count, S::LANES), places.as_ptr().cast());
            first += count;
        }
        if block.step.means.is_some() {
            for x in 0..width {
                sum = S::add(sum, S::load(to.add(x * stride)));
            }
        }
    }
    if block.step.means.is_some() {
        let total = block.totals.add(c - block.first);
        S::store(total, S::add(S::load(total), sum));
    }
}

/// Computes the outputs `first` to `first + count` of a row into `to`, `step` floats apart; returns their sum
/// if [`Row::sums`]. They are at least [`SIDE`], unless `KERNEL` is 0.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn outputs<S: Simd, const KERNEL: usize, const STRIDE: usize>(
    row: &Row<S>,
    run: (usize, usize),
    to: *mut f32,
    step: usize,
) -> S::V {
    let count = run.1;
    let covered = |side: usize| count.div_ceil(side) * side;
    if S::REGISTERS >= 32 && count >= WIDER_SIDE && covered(WIDER_SIDE) <= covered(SIDE) {
        side_by_side::<S, KERNEL, STRIDE, WIDER_SIDE>(row, run, to, step)
    } else if KERNEL == 0 && count < SIDE {
        side_by_side::<S, KERNEL, STRIDE, 1>(row, run, to, step)
    } else {
        side_by_side::<S, KERNEL, STRIDE, SIDE>(row, run, to, step)
    }
}

/// The same, `N` at a time, for at least `N` outputs.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn side_by_side<S: Simd, const KERNEL: usize, const STRIDE: usize, const N: usize>(
    row: &Row<S>,
    (first, count): (usize, usize),
    to: *mut f32,
    step: usize,
) -> S::V {
    let from = |x: usize| row.from.wrapping_add((first + x) * row.x_stride * row.pixel);
    let mut sum = S::splat(0.0);
    let (mut x, mut done) = (0, 0);
    loop {
        let mut values = taps::<S, KERNEL, STRIDE, N>(row, from(x));
        for n in 0..N {
            values[n] = short::<S>(row.activation, values[n]);
            S::store(to.add((x + n) * step), values[n]);
        }
        for n in 0..N {
            if row.sums && n >= done {
                sum = S::add(sum, values[n]);
            }
        }
        let next = x + N;
        if next >= count {
            return sum;
        }
        // The last block overlaps the one before it and writes the same values again.
        x = next.min(count - N);
        done = next - x;
    }
}

/// Applies an activation of [`Row::activation`].
#[inline(always)]
unsafe fn short<S: Simd>(activation: Activation, value: S::V) -> S::V {
    match activation {
        Activation::Clip { low, high } => S::min(S::max(value, S::splat(low)), S::splat(high)),
        Activation::HardSwish => activate::<S>(Activation::HardSwish, value),
        Activation::ShortSilu => activate::<S>(Activation::ShortSilu, value),
        _ => value,
    }
}

/// `N` neighbouring outputs, each summed in the order of the window. For 3×3 kernels each input is read
/// once for all outputs, and the weights stay in registers.
#[inline(always)]
unsafe fn taps<S: Simd, const KERNEL: usize, const STRIDE: usize, const N: usize>(
    row: &Row<S>,
    from: *const f32,
) -> [S::V; N] {
    let mut acc = [row.bias; N];
    if KERNEL > 0 && BY_ROWS {
        for ky in 0..row.kernel[0] {
            let from = from.add(ky * row.pitch);
            let weights = row.weights_at.add(ky * KERNEL * row.weight_step);
            window_row::<S, KERNEL, STRIDE, N>(&mut acc, row, from, weights);
        }
        return acc;
    }
    if KERNEL == 3 {
        for ky in 0..3 {
            for x in 0..(N - 1) * STRIDE + 3 {
                let value = S::load(from.add(ky * row.pitch + x * row.pixel));
                for n in 0..N {
                    let kx = x.wrapping_sub(n * STRIDE);
                    if kx < 3 {
                        acc[n] = S::fma(value, row.weights[ky * 3 + kx], acc[n]);
                    }
                }
            }
        }
        return acc;
    }
    for ky in 0..row.kernel[0] {
        for kx in 0..row.kernel[1] {
            let weight = S::load(row.weights_at.add((ky * row.kernel[1] + kx) * row.weight_step));
            let at = from.add(ky * row.pitch + kx * row.pixel);
            for n in 0..N {
                acc[n] = S::fma(S::load(at.add(n * row.x_stride * row.pixel)), weight, acc[n]);
            }
        }
    }
    acc
}

/// Adds one row of a window, with its weights at `weights`, to `N` neighbouring outputs.
#[inline(always)]
unsafe fn window_row<S: Simd, const KERNEL: usize, const STRIDE: usize, const N: usize>(
    acc: &mut [S::V; N],
    row: &Row<S>,
    from: *const f32,
    weights: *const f32,
) {
    let weights: [S::V; KERNEL] =
        std::array::from_fn(|kx| S::load(weights.add(kx * row.weight_step)));
    for x in 0..(N - 1) * STRIDE + KERNEL {
        let value = S::load(from.add(x * row.pixel));
        for n in 0..N {
            let kx = x.wrapping_sub(n * STRIDE);
            if kx < KERNEL {
                acc[n] = S::fma(value, weights[kx], acc[n]);
            }
        }
    }
}
