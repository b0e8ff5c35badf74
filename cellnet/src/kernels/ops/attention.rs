//! Attention of pixels to pixels. A task computes one head of one group of pixels, or some of its queries:
//! keys and values are packed into panels in scratch, and both products go through the micro-kernel.

use crate::kernels::arch::math::activate;
use crate::kernels::arch::simd::{Simd, Tile};
use crate::kernels::memory::{Memory, Task, part};
use crate::kernels::ops::elementwise::at;
use crate::plan::{Activation, Attention, Map};

/// Lanes of a panel.
const PANEL: usize = 16;
/// Queries computed together: their scores stay in the L1 cache.
const QUERIES: usize = 28;

/// Pixels that attend to each other.
fn tokens(step: &Attention, maps: &[Map]) -> usize {
    let (output, window) = (&maps[step.output as usize], step.window);
    (output.height / window[0]) as usize * (output.width / window[1]) as usize
}

/// Heads times groups of pixels, and the parts that the queries of each are divided into.
fn grid(step: &Attention, maps: &[Map], threads: usize) -> (usize, usize) {
    let all = step.heads as usize * step.window[0] as usize * step.window[1] as usize;
    let wanted = if threads <= 1 { 1 } else { (3 * threads).div_ceil(all) };
    (all, wanted.min(tokens(step, maps).div_ceil(QUERIES)))
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

/// Numbers of tokens and channels, as they are and in whole panels.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    wide_tokens: usize,
    head: usize,
    wide_head: usize,
}

impl Sizes {
    fn new(step: &Attention, maps: &[Map]) -> Self {
        let (tokens, head) = (tokens(step, maps), step.head as usize);
        let (wide_tokens, wide_head) =
            (tokens.next_multiple_of(PANEL), head.next_multiple_of(PANEL));
        Self { tokens, wide_tokens, head, wide_head }
    }

    fn queries(&self) -> usize {
        (QUERIES * self.head).next_multiple_of(PANEL)
    }

    fn all(&self) -> usize {
        self.wide_tokens * self.head
            + self.tokens * self.wide_head
            + self.queries()
            + QUERIES * (self.wide_tokens + self.wide_head)
    }
}

/// The tokens of one group in a map, for one head.
struct Tokens {
    first: usize,
    row: usize,
    column: usize,
    width: usize,
}

impl Tokens {
    fn new(map: &Map, channel: usize, window: [usize; 2], group: usize) -> Self {
        let (y, x) = (group / window[1], group % window[1]);
        Self {
            first: at(map, y, x) + channel,
            row: window[0] * map.pitch() as usize,
            column: window[1] * map.stride as usize,
            width: map.width as usize / window[1],
        }
    }

    /// The offset in the arena of a token's first channel.
    #[inline(always)]
    fn at(&self, token: usize) -> usize {
        self.first + token / self.width * self.row + token % self.width * self.column
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
    let window = step.window.map(|w| w as usize);
    let of = |map: u32, first: u32| {
        Tokens::new(memory.map(map), first as usize + head * sizes.head, window, group)
    };
    let query = of(step.query, step.first[0]);
    let output = of(step.output, 0);
    let keys = task.scratch;
    let values = keys.add(sizes.wide_tokens * sizes.head);
    let queries = values.add(sizes.tokens * sizes.wide_head);
    let scores = queries.add(sizes.queries());
    let results = scores.add(QUERIES * sizes.wide_tokens);
    pack_keys(memory, &of(step.key, step.first[1]), sizes, keys);
    pack_values(memory, &of(step.value, step.first[2]), sizes, values);
    let (first, last) = part(sizes.tokens, own, parts);
    for begin in (first..last).step_by(QUERIES) {
        let rows = QUERIES.min(last - begin);
        for r in 0..rows {
            let from = memory.arena.add(query.at(begin + r));
            for c in 0..sizes.head {
                *queries.add(r * sizes.head + c) = *from.add(c) * step.scale;
            }
        }
        let (wide, head) = (sizes.wide_tokens, sizes.head);
        product::<S>((queries, head), (rows, head), (keys, wide), scores);
        for r in 0..rows {
            let sum = exponentials::<S>(scores.add(r * wide), sizes.tokens, wide);
            *queries.add(r) = 1.0 / sum;
        }
        let (tokens, wide_head) = (sizes.tokens, sizes.wide_head);
        product::<S>((scores, wide), (rows, tokens), (values, wide_head), results);
        for r in 0..rows {
            let (to, inverse) = (memory.arena.add(output.at(begin + r)), *queries.add(r));
            for c in 0..head {
                *to.add(c) = *results.add(r * wide_head + c) * inverse;
            }
        }
    }
}

/// Keys as weights: `[token / 16][channel][16]`, zeros for missing tokens.
#[inline(always)]
unsafe fn pack_keys(memory: &Memory, from: &Tokens, sizes: Sizes, to: *mut f32) {
    for panel in 0..sizes.wide_tokens / PANEL {
        let to = to.add(panel * PANEL * sizes.head);
        for lane in 0..PANEL {
            let token = panel * PANEL + lane;
            let key = memory.arena.add(from.at(token.min(sizes.tokens - 1)));
            let factor = if token < sizes.tokens { 1.0 } else { 0.0 };
            for c in 0..sizes.head {
                *to.add(c * PANEL + lane) = *key.add(c) * factor;
            }
        }
    }
}

/// Values as weights: `[channel / 16][token][16]`, zeros for missing channels.
#[inline(always)]
unsafe fn pack_values(memory: &Memory, from: &Tokens, sizes: Sizes, to: *mut f32) {
    for token in 0..sizes.tokens {
        let value = memory.arena.add(from.at(token));
        for panel in 0..sizes.wide_head / PANEL {
            let to = to.add((panel * sizes.tokens + token) * PANEL);
            let count = PANEL.min(sizes.head - panel * PANEL);
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
unsafe fn exponentials<S: Simd>(scores: *mut f32, tokens: usize, wide: usize) -> f32 {
    // So small that they add nothing to the sum.
    for i in tokens..wide {
        *scores.add(i) = -1e30;
    }
    let mut largest = S::splat(-1e30);
    for i in (0..wide).step_by(S::LANES) {
        largest = S::max(largest, S::load(scores.add(i)));
    }
    let mut lanes = [-1e30f32; PANEL];
    S::store(lanes.as_mut_ptr(), largest);
    let largest = S::splat(lanes.iter().copied().fold(-1e30, f32::max));
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
