//! Attention of pixels to pixels. A task computes one head of one group of pixels, or some of its queries:
//! keys and values are packed into panels in scratch, and both products go through the micro-kernel.

use crate::kernels::arch::math::activate;
use crate::kernels::arch::simd::{Simd, Tile};
use crate::kernels::memory::{Memory, Task, part};
use crate::plan::{Activation, Attention, Blob, CHANNEL_BLOCK, Map};

/// Lanes of a panel.
const PANEL: usize = CHANNEL_BLOCK as usize;
/// Queries computed together: their scores stay in the L1 cache.
const QUERIES: usize = 28;

/// Queries of a group.
fn queries(step: &Attention, maps: &[Map]) -> usize {
    let map = &maps[step.output as usize];
    step.group(map.height, map.width)
}

/// Heads times groups of pixels, and the parts that the queries of each are divided into.
fn grid(step: &Attention, maps: &[Map], threads: usize) -> (usize, usize) {
    let all = step.heads as usize * step.groups[0] as usize * step.groups[1] as usize;
    let wanted = if threads <= 1 { 1 } else { (3 * threads).div_ceil(all) };
    (all, wanted.min(queries(step, maps).div_ceil(QUERIES)))
}

/// Number of tasks.
pub(in crate::kernels) fn tasks(step: &Attention, maps: &[Map], threads: usize) -> usize {
    let (all, parts) = grid(step, maps, threads);
    all * parts
}

/// Floats of scratch for one thread.
pub(in crate::kernels) fn scratch(step: &Attention, maps: &[Map]) -> usize {
    Sizes::new(step, maps).all()
}

/// Numbers of keys and of a head's channels in keys and in values, as they are and in whole panels.
#[derive(Clone, Copy)]
struct Sizes {
    keys: usize,
    wide_keys: usize,
    head: usize,
    value: usize,
    wide_value: usize,
}

impl Sizes {
    fn new(step: &Attention, maps: &[Map]) -> Self {
        let map = &maps[step.key as usize];
        let (keys, value) = (step.group(map.height, map.width), step.value_head as usize);
        let (wide_keys, wide_value) = (keys.next_multiple_of(PANEL), value.next_multiple_of(PANEL));
        Self { keys, wide_keys, head: step.head as usize, value, wide_value }
    }

    fn queries(&self) -> usize {
        (QUERIES * self.head).next_multiple_of(PANEL)
    }

    fn all(&self) -> usize {
        self.wide_keys * self.head
            + self.keys * self.wide_value
            + self.queries()
            + QUERIES * (self.wide_keys + self.wide_value)
    }
}

/// The tokens of one group in a map, for one head.
struct Tokens {
    /// The map's first pixel, at the head's first channel.
    first: usize,
    /// Row and column of the group's first token; those beyond the map are again its first.
    top: [usize; 2],
    /// Rows and columns from one token to the next.
    step: [usize; 2],
    /// The map's height and width, and floats from row to row and from column to column.
    sides: [usize; 2],
    strides: [usize; 2],
    /// Tokens in a row.
    width: usize,
}

impl Tokens {
    fn new(map: &Map, channel: usize, step: &Attention, group: usize) -> Self {
        let sides = [map.height as usize, map.width as usize];
        let groups = step.groups.map(|n| n as usize);
        let own = [group / groups[1], group % groups[1]];
        let size = [sides[0] / groups[0], sides[1] / groups[1]];
        let top = |axis: usize| {
            let first = if step.is_near { own[axis] * size[axis] } else { own[axis] };
            first + step.shift[axis] as usize
        };
        Self {
            first: map.origin() as usize + channel,
            top: [top(0), top(1)],
            step: if step.is_near { [1, 1] } else { groups },
            sides,
            strides: [map.pitch() as usize, map.stride as usize],
            width: size[1],
        }
    }

    /// The offset in the arena of a token's first channel.
    #[inline(always)]
    fn at(&self, token: usize) -> usize {
        let place = |axis: usize, index: usize| {
            let at = self.top[axis] + index * self.step[axis];
            let around = if at >= self.sides[axis] { at - self.sides[axis] } else { at };
            around * self.strides[axis]
        };
        self.first + place(0, token / self.width) + place(1, token % self.width)
    }
}

/// Computes one task.
///
/// # Safety
/// As for the direct convolution's task; the scratch has [`scratch`] floats.
#[inline(always)]
pub(in crate::kernels) unsafe fn task<S: Simd>(memory: &Memory, step: &Attention, task: Task) {
    let sizes = Sizes::new(step, memory.maps);
    let (all, parts) = grid(step, memory.maps, task.threads);
    let (index, own) = (task.index % all, task.index / all);
    let (group, head) = (index / step.heads as usize, index % step.heads as usize);
    let of = |map: u32, first: u32, size: usize| {
        Tokens::new(memory.map(map), first as usize + head * size, step, group)
    };
    let query = of(step.query, step.first[0], sizes.head);
    let output = of(step.output, 0, sizes.value);
    let keys = task.scratch;
    let values = keys.add(sizes.wide_keys * sizes.head);
    let rows_of_queries = values.add(sizes.keys * sizes.wide_value);
    let scores = rows_of_queries.add(sizes.queries());
    let results = scores.add(QUERIES * sizes.wide_keys);
    pack_keys(memory, &of(step.key, step.first[1], sizes.head), sizes, keys);
    pack_values(memory, &of(step.value, step.first[2], sizes.value), sizes, values);
    let all_queries = queries(step, memory.maps);
    let (first, last) = part(all_queries, own, parts);
    let (wide, head_size, wide_value) = (sizes.wide_keys, sizes.head, sizes.wide_value);
    let summands = |blob: Option<Blob>, index: usize| {
        blob.map(|blob| memory.blob(blob).add(index * all_queries * wide))
    };
    let summands = [summands(step.bias, head), summands(step.mask, group)];
    for begin in (first..last).step_by(QUERIES) {
        let rows = QUERIES.min(last - begin);
        for r in 0..rows {
            let from = memory.arena.add(query.at(begin + r));
            for c in 0..head_size {
                *rows_of_queries.add(r * head_size + c) = *from.add(c) * step.scale;
            }
        }
        product::<S>((rows_of_queries, head_size), (rows, head_size), (keys, wide), scores);
        for summand in summands.into_iter().flatten() {
            add::<S>(summand.add(begin * wide), scores, rows * wide);
        }
        for r in 0..rows {
            let sum = exponentials::<S>(scores.add(r * wide), sizes.keys, wide);
            *rows_of_queries.add(r) = 1.0 / sum;
        }
        product::<S>((scores, wide), (rows, sizes.keys), (values, wide_value), results);
        for r in 0..rows {
            let (to, inverse) = (memory.arena.add(output.at(begin + r)), *rows_of_queries.add(r));
            for c in 0..sizes.value {
                *to.add(c) = *results.add(r * wide_value + c) * inverse;
            }
        }
    }
}

/// `to += from`, of `len` floats, a multiple of [`PANEL`].
#[inline(always)]
unsafe fn add<S: Simd>(from: *const f32, to: *mut f32, len: usize) {
    for i in (0..len).step_by(S::LANES) {
        S::store(to.add(i), S::add(S::load(to.add(i)), S::load(from.add(i))));
    }
}

/// Keys as weights: `[token / 16][channel][16]`, zeros for missing tokens.
#[inline(always)]
unsafe fn pack_keys(memory: &Memory, from: &Tokens, sizes: Sizes, to: *mut f32) {
    for panel in 0..sizes.wide_keys / PANEL {
        let to = to.add(panel * PANEL * sizes.head);
        for lane in 0..PANEL {
            let token = panel * PANEL + lane;
            let key = memory.arena.add(from.at(token.min(sizes.keys - 1)));
            let factor = if token < sizes.keys { 1.0 } else { 0.0 };
            for c in 0..sizes.head {
                *to.add(c * PANEL + lane) = *key.add(c) * factor;
            }
        }
    }
}

/// Values as weights: `[channel / 16][token][16]`, zeros for missing channels.
#[inline(always)]
unsafe fn pack_values(memory: &Memory, from: &Tokens, sizes: Sizes, to: *mut f32) {
    for token in 0..sizes.keys {
        let value = memory.arena.add(from.at(token));
        for panel in 0..sizes.wide_value / PANEL {
            let to = to.add((panel * sizes.keys + token) * PANEL);
            let count = PANEL.min(sizes.value - panel * PANEL);
            to.copy_from_nonoverlapping(value.add(panel * PANEL), count);
            to.add(count).write_bytes(0, PANEL - count);
        }
    }
}

/// `rows` rows of `depth` inputs times panels of `lanes` lanes in all; the results' rows follow each other.
#[inline(always)]
unsafe fn product<S: Simd>(
    (a, a_step): (*const f32, usize),
    (rows, depth): (usize, usize),
    (w, lanes): (*const f32, usize),
    out: *mut f32,
) {
    let mut lane = 0;
    while lane < lanes {
        let wide = S::LANES == PANEL && S::VECTORS > 1 && lane + 2 * PANEL <= lanes;
        let vectors = if wide { 2 } else { PANEL / S::LANES };
        let mut tile = Tile {
            a,
            a_step,
            run: depth,
            w: w.add(lane * depth),
            w_step: PANEL,
            w_vector: if wide { PANEL * depth } else { S::LANES },
            out: out.add(lane),
            out_step: lanes,
            ..Tile::PLAIN
        };
        tile.multiply::<S>(rows, vectors);
        lane += vectors * S::LANES;
    }
}

/// Replaces scores by `e^(score - largest)`, and returns their sum.
#[inline(always)]
unsafe fn exponentials<S: Simd>(scores: *mut f32, keys: usize, wide: usize) -> f32 {
    // They add nothing to the sum, and are not the largest.
    for i in keys..wide {
        *scores.add(i) = f32::NEG_INFINITY;
    }
    let mut largest = S::splat(f32::NEG_INFINITY);
    for i in (0..wide).step_by(S::LANES) {
        largest = S::max(largest, S::load(scores.add(i)));
    }
    let mut lanes = [f32::NEG_INFINITY; PANEL];
    S::store(lanes.as_mut_ptr(), largest);
    let largest = S::splat(lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mut sum = S::splat(0.0);
    for i in (0..wide).step_by(S::LANES) {
        let power = activate::<S>(Activation::Exp, S::sub(S::load(scores.add(i)), largest));
        S::store(scores.add(i), power);
        sum = S::add(sum, power);
    }
    let mut lanes = [0.0f32; PANEL];
    S::store(lanes.as_mut_ptr(), sum);
    lanes.iter().sum()
}
