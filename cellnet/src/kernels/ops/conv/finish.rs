//! Tiles that the micro-kernel does not store by itself: activation, residual and rounding while they are in
//! the L1 cache.

use std::mem::MaybeUninit;
use std::ptr;

use super::{Pixels, Shape, in_line, place};
use crate::kernels::arch::simd::{Finish, Simd, Tile};
use crate::plan::{Activation, Map, Sums};

/// Floats of the largest tile: 14 rows of 32 outputs.
const TILE: usize = 14 * 32;
/// Most rows that are finished together.
const ROWS: usize = 32;

/// Number of tiles of so many columns and rows that are finished together: several, if they are small.
pub(super) fn finished_together(width: usize, rows: usize) -> usize {
    ((TILE / width).min(ROWS) / rows).max(1)
}

/// The result of tiles before it is stored; the micro-kernel writes it before it is read.
#[repr(align(64))]
struct Buffer(MaybeUninit<[f32; TILE]>);

/// Iterates over the pixels of a map, across the ends of rows.
pub(super) struct Walk {
    /// Offset of the pixel's first channel.
    pub(super) offset: usize,
    /// Pixels left in the row.
    left: usize,
    stride: usize,
    width: usize,
    /// Floats of halo between the end of a row and the beginning of the next.
    gap: usize,
}

impl Walk {
    /// Starts at pixel `x` of row `y`; if `flat`, `x` counts across rows.
    #[inline(always)]
    pub(super) fn new(map: &Map, flat: bool, y: usize, x: usize) -> Self {
        let (width, stride) = (map.width as usize, map.stride as usize);
        let (y, x) = if flat { (x / width, x % width) } else { (y, x) };
        let pitch = map.pitch() as usize;
        let offset = map.origin() as usize + y * pitch + x * stride;
        Self { offset, left: width - x, stride, width, gap: pitch - width * stride }
    }

    /// Returns the pixel's offset and moves to the next pixel.
    #[inline(always)]
    fn next(&mut self) -> usize {
        let offset = self.offset;
        self.offset += self.stride;
        self.left -= 1;
        if self.left == 0 {
            self.left = self.width;
            self.offset += self.gap;
        }
        offset
    }
}

/// Multiplies into a buffer, then applies activation and residual, and stores.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
pub(super) unsafe fn multiply_and_finish<S: Simd>(
    shape: &Shape,
    tile: &mut Tile,
    at: Pixels,
    (channel, lane): (usize, usize),
    vectors: usize,
) {
    let mut buffer = Buffer(MaybeUninit::uninit());
    let values: *mut f32 = buffer.0.as_mut_ptr().cast();
    let width = vectors * S::LANES;
    (tile.out, tile.out_step) = (values, width);
    (tile.add, tile.clip) = (std::ptr::null(), None);
    if let Some(sums) = &shape.step.sums {
        sum_tiles::<S>(tile, at.count, vectors);
        return finish_sums::<S>(shape, sums, at, (channel, lane), (values, width));
    }
    tile.multiply::<S>(at.count, vectors);
    let mut activation = shape.step.activation;
    if let Some(residual) = shape.residual {
        if !shape.step.activate_last {
            (S::ACTIVATE_RUN)(activation, values, at.count * width);
            activation = Activation::None;
        }
        let mut from = Walk::new(residual, shape.flat, at.y, at.x);
        for r in 0..at.count {
            let residual = shape.memory.arena.add(from.next() + channel);
            add_row::<S>(values.add(r * width), residual, width);
        }
    }
    let mut to = Walk::new(shape.output, shape.flat, at.y, at.x);
    let mut places = [MaybeUninit::<*mut f32>::uninit(); ROWS];
    for place in &mut places[..at.count] {
        place.write(shape.memory.arena.add(to.next() + channel));
    }
    (S::ACTIVATE_ROWS)(activation, values, (at.count, width), places.as_ptr().cast());
}

/// Sums the bytes of `rows` rows, as tiles whose heights differ by one at most.
#[inline(always)]
unsafe fn sum_tiles<S: Simd>(tile: &mut Tile, rows: usize, vectors: usize) {
    if rows <= S::SUM_ROWS {
        return S::sum(tile, rows, vectors);
    }
    let tiles = rows.div_ceil(S::SUM_ROWS);
    let (least, higher) = (rows / tiles, rows % tiles);
    for i in 0..tiles {
        let rows = least + usize::from(i < higher);
        S::sum(tile, rows, vectors);
        tile.a = tile.a.wrapping_add(rows * tile.a_step);
        tile.out = tile.out.wrapping_add(rows * tile.out_step);
    }
}

/// Finishes sums of bytes in one pass, or one for each row of pixels if the rows of a map have gaps.
#[inline(always)]
pub(super) unsafe fn finish_sums<S: Simd>(
    shape: &Shape,
    sums: &Sums,
    at: Pixels,
    (channel, lane): (usize, usize),
    (values, width): (*mut f32, usize),
) {
    let step = shape.step;
    let mut finish = Finish {
        size: (at.count, width),
        factors: shape.memory.blob(sums.factors).add(lane),
        bias: shape.memory.blob(step.bias).add(lane),
        activation: step.activation,
        activate_last: step.activate_last,
        residual: (ptr::null_mut(), 0),
        values: (ptr::null_mut(), 0),
        bytes: (ptr::null_mut(), 0),
        inverse: shape.inverse,
        steps: shape.steps,
        zero: shape.rounded.map_or(0.0, |map| f32::from(map.zero.unwrap_or(0))),
    };
    let mut done = 0;
    while done < at.count {
        let count = if in_line(shape, at) {
            at.count
        } else {
            let left = shape.output.width as usize - (at.x + done) % shape.output.width as usize;
            left.min(at.count - done)
        };
        let here = Pixels { x: at.x + done, count, ..at };
        finish.size.0 = count;
        if let Some(residual) = shape.residual {
            let place = place(shape, residual, here).add(channel);
            finish.residual = (place, residual.stride as usize);
        }
        if shape.output.zero.is_none() {
            let place = place(shape, shape.output, here).add(channel);
            finish.values = (place, shape.output.stride as usize);
        }
        if let Some(map) = shape.rounded {
            let place = place(shape, map, here).cast::<u8>().add(channel);
            finish.bytes = (place, 4 * map.stride as usize);
        }
        (S::FINISH_SUMS)(values.add(done * width), &finish);
        done += count;
    }
}

#[inline(always)]
pub(in crate::kernels) unsafe fn add_row<S: Simd>(
    tile: *mut f32,
    residual: *const f32,
    width: usize,
) {
    let mut c = 0;
    while c < width {
        S::store(tile.add(c), S::add(S::load(tile.add(c)), S::load(residual.add(c))));
        c += S::LANES;
    }
}
