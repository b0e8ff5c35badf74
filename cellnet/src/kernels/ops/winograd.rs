//! Winograd convolution for dense 3×3 kernels of stride 1: F(2×2, 3×3) and F(4×4, 3×3).
//!
//! `Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A` (Lavin and Gray, arXiv:1509.09308). Weights are transformed when
//! packing. Here, for a block of tiles: transform the inputs to scratch `[position][tile][input]`, multiply
//! each position of the tiles with its weights by the micro-kernel to `[tile][position][lane]`, and
//! transform back with bias, activation and residual. Input tiles that extend past the map read its halo,
//! which the plan makes wide enough; outputs that extend past the map are dropped. `Tile`, by contrast, is
//! what the micro-kernel multiplies at once. Weights are `[output / 16][position][input][16]` (see
//! `plan::Conv`), so a panel is 16 outputs.

use std::mem::MaybeUninit;

use super::conv::add_row;
use super::panels;
use crate::kernels::arch::simd::{Simd, Tile, channels};
use crate::kernels::memory::{Memory, part};
use crate::plan::{Activation, Algorithm, Conv, Map};

/// Most tiles of a block: twice the 14 rows of AVX-512's micro-kernel.
const BLOCK: usize = 28;
/// Most lanes multiplied before transforming back.
const LANES: usize = 32;
/// Outputs of one tile before they are stored; written before they are read.
#[repr(align(64))]
struct Buffer(MaybeUninit<[f32; 16 * LANES]>);

/// Scratch that a block aims at, in floats: 1 MiB. With very many inputs it is more, because at least 6
/// tiles, the rows of AVX2's micro-kernel, are taken.
const SCRATCH: usize = 256 * 1024;

/// One-dimensional transforms; two-dimensional ones apply them to rows and to columns.
trait Transform {
    /// Side of the output tile.
    const OUT: usize;
    /// Side of the input tile.
    const IN: usize;
    /// `Bᵀ x`
    unsafe fn input<S: Simd>(x: [S::V; 6]) -> [S::V; 6];
    /// `Aᵀ m`
    unsafe fn output<S: Simd>(m: [S::V; 6]) -> [S::V; 4];
}

struct F2;
struct F4;

impl Transform for F2 {
    const OUT: usize = 2;
    const IN: usize = 4;

    #[cfg_attr(target_arch = "x86_64", inline(always))]
    #[cfg_attr(not(target_arch = "x86_64"), inline)]
    unsafe fn input<S: Simd>(x: [S::V; 6]) -> [S::V; 6] {
        let zero = S::splat(0.0);
        [S::sub(x[0], x[2]), S::add(x[1], x[2]), S::sub(x[2], x[1]), S::sub(x[1], x[3]), zero, zero]
    }

    #[cfg_attr(target_arch = "x86_64", inline(always))]
    #[cfg_attr(not(target_arch = "x86_64"), inline)]
    unsafe fn output<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
        let zero = S::splat(0.0);
        let (sum, difference) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        [S::add(m[0], sum), S::sub(difference, m[3]), zero, zero]
    }
}

impl Transform for F4 {
    const OUT: usize = 4;
    const IN: usize = 6;

    #[cfg_attr(target_arch = "x86_64", inline(always))]
    #[cfg_attr(not(target_arch = "x86_64"), inline)]
    unsafe fn input<S: Simd>(x: [S::V; 6]) -> [S::V; 6] {
        let (four, five) = (S::splat(4.0), S::splat(-5.0));
        let minus_four = S::splat(-4.0);
        let a = S::fma(minus_four, x[2], x[4]);
        let b = S::fma(minus_four, x[1], x[3]);
        let c = S::sub(x[4], x[2]);
        let d = S::sub(x[3], x[1]);
        let d = S::add(d, d);
        [
            S::fma(four, x[0], S::fma(five, x[2], x[4])),
            S::add(a, b),
            S::sub(a, b),
            S::add(c, d),
            S::sub(c, d),
            S::fma(four, x[1], S::fma(five, x[3], x[5])),
        ]
    }

    #[cfg_attr(target_arch = "x86_64", inline(always))]
    #[cfg_attr(not(target_arch = "x86_64"), inline)]
    unsafe fn output<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
        let (s1, d1) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (s2, d2) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(s1, s2)),
            S::fma(S::splat(2.0), d2, d1),
            S::fma(S::splat(4.0), s2, s1),
            S::add(S::fma(S::splat(8.0), d2, d1), m[5]),
        ]
    }
}

/// Tiles of a convolution: rows, columns, and tiles per block.
#[derive(Clone, Copy)]
struct Tiles {
    down: usize,
    across: usize,
    per_block: usize,
}

fn tiles(step: &Conv, output: &Map) -> Tiles {
    let side = step.algorithm.tile();
    let positions = (side as usize + 2).pow(2);
    let floats = positions * (inputs_of(step) + LANES);
    let per_block = (SCRATCH / floats).clamp(6, BLOCK);
    Tiles {
        down: output.height.div_ceil(side) as usize,
        across: output.width.div_ceil(side) as usize,
        per_block,
    }
}

/// Inputs in scratch, rounded up to whole vectors.
fn inputs_of(step: &Conv) -> usize {
    (step.group_inputs as usize).next_multiple_of(16)
}

/// Number of tasks: one for each block of tiles.
pub(in crate::kernels) fn tasks(step: &Conv, maps: &[Map]) -> usize {
    let tiles = tiles(step, &maps[step.output as usize]);
    (tiles.down * tiles.across).div_ceil(tiles.per_block)
}

/// Floats of scratch one thread needs.
pub(in crate::kernels) fn scratch(step: &Conv, maps: &[Map]) -> usize {
    let tiles = tiles(step, &maps[step.output as usize]);
    let positions = (step.algorithm.tile() as usize + 2).pow(2);
    let converted = if step.scales.is_some() { inputs_of(step) * LANES } else { 0 };
    positions * tiles.per_block * (inputs_of(step) + LANES) + converted
}

/// Computes one block of tiles.
///
/// # Safety
/// As for the direct convolution's task; besides, `scratch` must be valid for [`scratch`] floats that
/// no other thread touches.
#[inline(always)]
pub(in crate::kernels) unsafe fn task<S: Simd>(
    memory: &Memory,
    step: &Conv,
    task: usize,
    scratch: *mut f32,
) {
    match step.algorithm {
        Algorithm::Winograd2 => compute_block::<S, F2>(memory, step, task, scratch),
        Algorithm::Winograd4 => compute_block::<S, F4>(memory, step, task, scratch),
        Algorithm::Direct => {}
    }
}

/// Data shared by the stages of one block.
struct Block<'a> {
    memory: &'a Memory<'a>,
    step: &'a Conv,
    input: &'a Map,
    output: &'a Map,
    tiles: Tiles,
    first: usize,
    count: usize,
    /// Transformed inputs `[position][tile][inputs]`.
    v: *mut f32,
    /// Products `[tile][position][LANES]`, so that distances within a tile are constants.
    m: *mut f32,
    inputs: usize,
    /// For 16-bit weights: those of one position and up to [`LANES`] lanes, converted.
    converted: *mut f32,
}

#[inline(always)]
unsafe fn compute_block<S: Simd, F: Transform>(
    memory: &Memory,
    step: &Conv,
    task: usize,
    scratch: *mut f32,
) {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    let tiles = tiles(step, output);
    let total = tiles.down * tiles.across;
    let (first, end) = part(total, task, total.div_ceil(tiles.per_block));
    let inputs = inputs_of(step);
    let m = scratch.add(F::IN * F::IN * tiles.per_block * inputs);
    let converted = m.add(F::IN * F::IN * tiles.per_block * LANES);
    let (count, v) = (end - first, scratch);
    let block = Block { memory, step, input, output, tiles, first, count, v, m, inputs, converted };
    let channels = (step.group_inputs as usize).next_multiple_of(8);
    for tile in 0..count {
        let from = block.input_of::<F>(tile);
        let to = v.add(tile * inputs);
        channels!(S, c in 0, channels => transform_input_of(&block, from.add(c), to.add(c), F::IN));
    }
    let lanes = (step.group_outputs as usize).next_multiple_of(8);
    let mut lane = 0;
    while S::HALVES && lane + S::LANES <= lanes {
        lane += lanes_of::<S, F>(&block, lane, lanes - lane);
    }
    while lane < lanes {
        lane += lanes_of::<S::Half, F>(&block, lane, lanes - lane);
    }
}

impl Block<'_> {
    /// Row and column of a tile of the block.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize) {
        let index = self.first + tile;
        (index / self.tiles.across, index % self.tiles.across)
    }

    /// First input of a tile.
    #[inline(always)]
    unsafe fn input_of<F: Transform>(&self, tile: usize) -> *const f32 {
        let (down, across) = self.place(tile);
        let (stride, pitch) = (self.input.stride as usize, self.input.pitch() as usize);
        let [pad_y, pad_x] = self.step.window.pad.map(|p| p as usize);
        let begin = self.input.origin() as usize + down * F::OUT * pitch + across * F::OUT * stride;
        self.memory.arena.add(begin).sub(pad_y * pitch + pad_x * stride).cast_const()
    }
}

/// Selects the transform by its side, because the macro for the channel loop takes only one generic
/// argument.
#[inline(always)]
unsafe fn transform_input_of<S: Simd>(block: &Block, from: *const f32, to: *mut f32, side: usize) {
    if side == F4::IN {
        transform_input::<S, F4>(block, from, to);
    } else {
        transform_input::<S, F2>(block, from, to);
    }
}

#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn transform_input<S: Simd, F: Transform>(block: &Block, from: *const f32, to: *mut f32) {
    let (stride, pitch) = (block.input.stride as usize, block.input.pitch() as usize);
    let zero = S::splat(0.0);
    let mut half = [[zero; 6]; 6];
    for x in 0..F::IN {
        let mut column = [zero; 6];
        for y in 0..F::IN {
            column[y] = S::load(from.add(y * pitch + x * stride));
        }
        let column = F::input::<S>(column);
        for y in 0..F::IN {
            half[y][x] = column[y];
        }
    }
    let position = block.tiles.per_block * block.inputs;
    for y in 0..F::IN {
        let row = F::input::<S>(half[y]);
        for x in 0..F::IN {
            S::store(to.add((y * F::IN + x) * position), row[x]);
        }
    }
}

/// Multiplies and transforms back as many lanes as fit one tile of the micro-kernel.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn lanes_of<S: Simd, F: Transform>(block: &Block, lane: usize, left: usize) -> usize {
    let within = if S::LANES < 16 { left.min(16 - lane % 16) } else { left };
    let fits = |vectors: usize| vectors <= S::VECTORS && vectors * S::LANES <= within;
    let vectors = [4, 2].into_iter().find(|v| fits(*v)).unwrap_or(1);
    let width = vectors * S::LANES;
    let depth = F::IN * F::IN * block.step.group_inputs as usize;
    let inputs = block.step.group_inputs as usize;
    let weights =
        block.memory.blob(block.step.weights).wrapping_add(lane / 16 * depth * 16 + lane % 16);
    let panel_floats = 16 * if block.step.scales.is_some() { inputs } else { depth };
    let mut product = Tile {
        a_step: block.inputs,
        run: inputs,
        w: weights,
        w_step: 16,
        w_vector: if S::LANES < 16 { S::LANES } else { panel_floats },
        out_step: F::IN * F::IN * LANES,
        ..Tile::PLAIN
    };
    for position in 0..F::IN * F::IN {
        if block.step.scales.is_some() {
            let first = lane / 16;
            for panel in first..(lane + width).div_ceil(16) {
                let to = block.converted.add((panel - first) * inputs * 16);
                panels::convert::<S>(block.memory, block.step, (panel, position), to);
            }
            product.w = block.converted.add(lane % 16).cast_const();
        } else {
            product.w = weights.add(position * inputs * 16);
        }
        product.a = block.v.add(position * block.tiles.per_block * block.inputs);
        product.out = block.m.add(position * LANES);
        product.multiply::<S>(block.count, vectors);
    }
    for tile in 0..block.count {
        finish::<S, F>(block, tile, lane, width);
    }
    width
}

/// Transforms `width` lanes of a tile back, applies activation and residual, and stores.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn finish<S: Simd, F: Transform>(block: &Block, tile: usize, lane: usize, width: usize) {
    let (step, memory) = (block.step, block.memory);
    let mut buffer = Buffer(MaybeUninit::uninit());
    let values: *mut f32 = buffer.0.as_mut_ptr().cast();
    let mut c = 0;
    while c < width {
        let bias = S::load(memory.blob(step.bias).add(lane + c));
        let from = block.m.add(tile * F::IN * F::IN * LANES + c).cast_const();
        transform_output::<S, F>(from, bias, values.add(c), width);
        c += S::LANES;
    }
    let all = F::OUT * F::OUT * width;
    let (down, across) = block.place(tile);
    let (y, x) = (down * F::OUT, across * F::OUT);
    let (rows, columns) = (block.output.height as usize - y, block.output.width as usize - x);
    let (rows, columns) = (F::OUT.min(rows), F::OUT.min(columns));
    let at = |map: &Map, i: usize, j: usize| {
        let place = (y + i) * map.pitch() as usize + (x + j) * map.stride as usize;
        memory.arena.add(map.origin() as usize + place + lane)
    };
    let mut activation = step.activation;
    if let Some(residual) = step.residual {
        if !step.activate_last {
            (S::ACTIVATE_RUN)(activation, values, all);
            activation = Activation::None;
        }
        let residual = memory.map(residual);
        for i in 0..rows {
            for j in 0..columns {
                add_row::<S>(values.add((i * F::OUT + j) * width), at(residual, i, j), width);
            }
        }
    }
    // Outputs past the map are not stored.
    let mut places: [*mut f32; 16] = std::array::from_fn(|k| values.wrapping_add(k * width));
    for i in 0..rows {
        for j in 0..columns {
            places[i * F::OUT + j] = at(block.output, i, j);
        }
    }
    (S::ACTIVATE_ROWS)(activation, values, (F::OUT * F::OUT, width), places.as_ptr());
}

/// Transforms one vector of a tile's products back, with its bias, to `[position][width]`.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn transform_output<S: Simd, F: Transform>(
    from: *const f32,
    bias: S::V,
    to: *mut f32,
    width: usize,
) {
    let zero = S::splat(0.0);
    let mut half = [[zero; 6]; 4];
    for x in 0..F::IN {
        let mut column = [zero; 6];
        for y in 0..F::IN {
            column[y] = S::load(from.add((y * F::IN + x) * LANES));
        }
        let column = F::output::<S>(column);
        for y in 0..F::OUT {
            half[y][x] = column[y];
        }
    }
    for y in 0..F::OUT {
        let row = F::output::<S>(half[y]);
        for x in 0..F::OUT {
            S::store(to.add((y * F::OUT + x) * width), S::add(row[x], bias));
        }
    }
}
