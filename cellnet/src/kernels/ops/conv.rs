//! Direct convolution and dense layers: divides the output into tiles for the micro-kernel. The
//! micro-kernel stores plain and clipped outputs itself; other tiles get activation and residual while they
//! are in the L1 cache.
//!
//! 1×1 convolutions over maps without halo at the sides treat all pixels as one row; others go row by row.
//! The tiles of a row are as equal as possible. Each output is computed by one task, with inputs in the
//! plan's order, so neither tiles nor tasks change a bit of the result.

mod finish;
mod squares;
mod words;

pub(in crate::kernels) use finish::add_row;
use finish::{Walk, finished_together, multiply_and_finish};

use crate::kernels::arch::simd::{Simd, Tile};
use crate::kernels::memory::{Memory, Slice, Task, even_parts, part};
use crate::kernels::ops::panels::Panels;
use crate::plan::fixed::ToSteps;
use crate::plan::{Activation, Conv, LINE, Map};

/// Weights up to this many floats stay in the L2 cache while the pixels are processed.
const RESIDENT: usize = 96 * 1024;

/// Inputs, in floats, that stay in the L1 cache while all lanes are computed from them.
const IN_L1: usize = 4 * 1024;

/// How a step is divided into tasks: parts of the rows times parts of the output lanes.
#[derive(Debug, Clone, Copy)]
struct Grid {
    row_parts: usize,
    lane_parts: usize,
}

/// Number of rows the grid divides: all pixels if the step is flat, else output rows.
fn rows_of(step: &Conv, input: &Map, output: &Map) -> usize {
    if is_flat(step, input) {
        output.height as usize * output.width as usize
    } else {
        output.height as usize
    }
}

fn is_flat(step: &Conv, input: &Map) -> bool {
    let window = &step.window;
    window.kernel == [1, 1] && window.stride == [1, 1] && window.pad == [0, 0] && input.is_flat()
}

/// Number of blocks of 32 lanes (or groups) the grid divides.
fn lane_blocks(step: &Conv) -> usize {
    step.groups as usize * (step.group_outputs as usize).div_ceil(32)
}

fn grid(step: &Conv, maps: &[Map], threads: usize) -> Grid {
    if threads <= 1 {
        return Grid { row_parts: 1, lane_parts: 1 };
    }
    let (input, output) = (&maps[step.input as usize], &maps[step.output as usize]);
    let pixels = output.height as usize * output.width as usize;
    let wanted = 3 * threads;
    let blocks = lane_blocks(step);
    let rows = rows_of(step, input, output);
    let least = if is_flat(step, input) { 14 } else { 1 };
    let most_rows = rows.div_ceil(least);
    // Dividing the lanes makes each thread read all activations; dividing the pixels, all weights.
    if blocks >= wanted && pixels < step.group_outputs as usize * 4 {
        return Grid { row_parts: 1, lane_parts: even_parts(blocks, wanted) };
    }
    let row_parts = most_rows.min(wanted);
    Grid { row_parts, lane_parts: (wanted / row_parts).clamp(1, blocks) }
}

/// Number of tasks of a step for this many threads.
pub(in crate::kernels) fn tasks(step: &Conv, maps: &[Map], threads: usize) -> usize {
    let grid = grid(step, maps, threads);
    grid.row_parts * grid.lane_parts
}

/// Floats of scratch one thread needs: for 16-bit weights, the converted panels of the blocks that
/// [`task`] keeps at a time; for bytes, what [`words`] widens or [`squares`]
/// transforms.
pub(in crate::kernels) fn scratch(step: &Conv, maps: &[Map]) -> usize {
    if step.sums.is_some() {
        let (input, output) = (&maps[step.input as usize], &maps[step.output as usize]);
        let squares =
            if squares::applies(step, output) { squares::scratch(step, output) } else { 0 };
        return squares.max(words::scratch(step, input, output));
    }
    if step.scales.is_none() {
        return 0;
    }
    let block = 32 * step.depth() as usize;
    let all = lane_blocks(step) * block;
    all.min(block.max(RESIDENT))
}

/// The geometry of one step, in floats and pointers.
struct Shape<'a> {
    step: &'a Conv,
    memory: &'a Memory<'a>,
    /// The first channel of the input's pixel (0, 0), and floats from pixel to pixel and from row to row.
    input: *const f32,
    stride: usize,
    pitch: usize,
    output: &'a Map,
    residual: Option<&'a Map>,
    /// The bytes that are written, and steps of a byte in one.
    rounded: Option<&'a Map>,
    inverse: f32,
    steps: ToSteps,
    flat: bool,
    /// Whether pixels are one row in the input and several, with a halo between them, in what is written.
    gaps: bool,
    /// Products per lane.
    depth: usize,
    lanes: usize,
    /// Whether the micro-kernel can do everything after the products.
    direct: bool,
    /// Whether to prefetch the next panel, because all pixels use one panel before the next.
    ahead: bool,
    /// The first channel of `output`.
    output_first: usize,
    /// The weights.
    panels: Panels,
    /// A tile with all fields that are the same for every tile.
    tile: Tile,
}

impl Shape<'_> {
    /// Whether all rows of the written maps and of the residual follow each other without a gap.
    #[inline(always)]
    fn is_in_line(&self) -> bool {
        self.output.is_flat()
            && self.residual.is_none_or(Map::is_flat)
            && self.rounded.is_none_or(Map::is_flat)
    }

    /// What the rows are divided by: whole rows of pixels if tiles should not go across their ends.
    #[inline(always)]
    fn unit(&self, rows: (usize, usize)) -> usize {
        let width = self.output.width as usize;
        let whole = rows.0.is_multiple_of(width) && rows.1.is_multiple_of(width);
        if self.gaps && self.direct && whole { width } else { 1 }
    }
}

/// A run of output pixels: the first pixel and the number, all in one row unless flat.
#[derive(Clone, Copy)]
struct Pixels {
    y: usize,
    x: usize,
    count: usize,
}

/// Computes one task: its part of the grid, or for a slice all pixels of the slice's lanes.
///
/// # Safety
/// `memory` must belong to a checked plan that contains `step`. `task` must be one of [`tasks`]`(step, ..,
/// threads)`, or have a slice whose map equals the step's output except for channels and offset, of a step
/// without groups and residual. No other thread may touch this task's part of the output or write the
/// inputs. The machine must have the instruction set of `S`.
#[inline(always)]
pub(in crate::kernels) unsafe fn task<S: Simd>(memory: &Memory, step: &Conv, task: Task) {
    let mut shape = shape(memory, step);
    let mut rows = (0, rows_of(step, memory.map(step.input), shape.output));
    let mut blocks = (0, 1);
    let group_blocks = (step.group_outputs as usize).div_ceil(32);
    if let Some(slice) = task.slice {
        (shape.output, shape.output_first) = (&slice.map, slice.channels.0);
    } else {
        let grid = grid(step, memory.maps, task.threads);
        rows = part(rows.1, task.index % grid.row_parts, grid.row_parts);
        blocks = part(lane_blocks(step), task.index / grid.row_parts, grid.lane_parts);
    }
    if step.sums.is_some_and(|sums| S::widens(sums.is_narrow)) {
        if task.slice.is_none() && squares::applies(step, shape.output) {
            return squares::task::<S>(&shape, rows, blocks, task);
        }
        return words::task::<S>(shape, rows, blocks, task);
    }
    // Few weights stay in the cache for all pixels; of many weights, or for a slice, one block at a time
    // does.
    let small = task.slice.is_none() && (blocks.1 - blocks.0) * 32 * shape.depth <= RESIDENT;
    shape.ahead = shape.flat && !small;
    if small && step.scales.is_some() {
        let panels = (panels_of(step, blocks.0).0, panels_of(step, blocks.1 - 1).1);
        shape.panels = Panels::converted::<S>(memory, step, panels, task.scratch);
    }
    shape.gaps = shape.flat && !shape.is_in_line();
    let all = rows.1 - rows.0;
    let unit = shape.unit(rows);
    let chunk = if !small {
        all
    } else if shape.flat {
        // Tiles in line are multiplied by one call, while their inputs stay in the L1 cache.
        let most = most_rows::<S>(step);
        let in_cache = IN_L1 / shape.depth.max(1) / most;
        let together = finished_together(S::VECTORS * S::LANES, most);
        let tiles = match step.sums {
            None if shape.direct => in_cache,
            _ => in_cache.min(together),
        };
        tiles.max(1) * most
    } else {
        1
    };
    let chunks = (all / unit).div_ceil((chunk / unit).max(1));
    let count = blocks.1 - blocks.0;
    for i in 0..chunks * count {
        let (chunk, block) = if small { (i / count, i % count) } else { (i % chunks, i / chunks) };
        let (first, last) = part(all / unit, chunk, chunks);
        let (first, last) = (first * unit, last * unit);
        let block = blocks.0 + block;
        let rows = (rows.0 + first, rows.0 + last);
        let (lanes, panels) = lanes_and_panels(&shape, task.slice, block);
        if !small && chunk == 0 && step.scales.is_some() {
            shape.panels = Panels::converted::<S>(memory, step, panels, task.scratch);
        }
        rows_by_lanes::<S>(&shape, rows, block / group_blocks, lanes);
    }
}

/// The lanes of a block within its group, or of a slice, and their panels, counted over all groups.
#[inline(always)]
fn lanes_and_panels(
    shape: &Shape,
    slice: Option<&Slice>,
    block: usize,
) -> ((usize, usize), (usize, usize)) {
    if let Some(slice) = slice {
        let (first, last) = slice.channels;
        return (slice.channels, (first / 16, last.div_ceil(16)));
    }
    let first = block % (shape.step.group_outputs as usize).div_ceil(32) * 32;
    ((first, shape.lanes.min(first + 32)), panels_of(shape.step, block))
}

/// The panels of a block of lanes, counted over all groups.
fn panels_of(step: &Conv, block: usize) -> (usize, usize) {
    let group_blocks = (step.group_outputs as usize).div_ceil(32);
    let (group_panels, each) = (step.group_panels() as usize, 32 / step.panel as usize);
    let (group, own) = (block / group_blocks, block % group_blocks * each);
    (group * group_panels + own, group * group_panels + group_panels.min(own + each))
}

/// Most rows of a tile of a step.
#[inline(always)]
fn most_rows<S: Simd>(step: &Conv) -> usize {
    if step.sums.is_some() { S::SUM_ROWS } else { S::ROWS }
}

/// Rows of the first tile when `left` rows are divided into nearly equal tiles.
#[inline(always)]
fn tile_rows(left: usize, most: usize) -> usize {
    left.div_ceil(left.div_ceil(most))
}

/// Whether the micro-kernel's sums are results, up to a residual and a clipping that it applies itself.
fn is_direct(step: &Conv) -> bool {
    match step.activation {
        _ if step.sums.is_some() => false,
        Activation::None => true,
        Activation::Clip { .. } => step.residual.is_none() || step.activate_last,
        _ => false,
    }
}

unsafe fn shape<'a>(memory: &'a Memory<'a>, step: &'a Conv) -> Shape<'a> {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    let flat = is_flat(step, input);
    let inputs = step.group_inputs as usize;
    let stride = input.stride as usize;
    let [kernel_y, kernel_x] = step.window.kernel.map(|k| k as usize);
    let joined = step.groups == 1 && stride == inputs;
    let tile = Tile {
        a_step: if flat { stride } else { stride * step.window.stride[1] as usize },
        run: if joined { inputs * kernel_x } else { inputs },
        x_runs: if joined { 1 } else { kernel_x },
        x_step: stride,
        y_runs: kernel_y,
        y_step: input.pitch() as usize,
        w_step: step.panel as usize,
        is_narrow: step.sums.is_some_and(|sums| sums.is_narrow),
        ..Tile::PLAIN
    };
    let residual = step.residual.map(|r| memory.map(r));
    let steps = match (step.activation, step.rounding) {
        (Activation::FixedSilu { bits }, Some(rounding)) => ToSteps::new(bits, rounding.scale),
        _ => None,
    };
    let depth = step.depth() as usize;
    let lanes = (step.group_outputs as usize).next_multiple_of(8);
    let direct = is_direct(step);
    Shape {
        step,
        memory,
        input: memory.arena.add(input.origin() as usize),
        stride,
        pitch: input.pitch() as usize,
        output,
        residual,
        rounded: step.rounding.map(|rounding| memory.map(rounding.output)),
        inverse: step.rounding.map_or(0.0, |rounding| 1.0 / rounding.scale),
        steps: steps.unwrap_or_default(),
        flat,
        gaps: false,
        depth,
        lanes,
        direct,
        ahead: false,
        output_first: 0,
        panels: Panels::mapped(memory, step),
        tile,
    }
}

/// Computes the rows `rows` (pixels if flat) of up to 32 lanes of one group.
#[inline(always)]
unsafe fn rows_by_lanes<S: Simd>(
    shape: &Shape,
    rows: (usize, usize),
    group: usize,
    lanes: (usize, usize),
) {
    let runs = if shape.flat { 1 } else { rows.1 - rows.0 };
    for i in 0..runs {
        let pixels = if shape.flat {
            Pixels { y: 0, x: rows.0, count: rows.1 - rows.0 }
        } else {
            Pixels { y: rows.0 + i, x: 0, count: shape.output.width as usize }
        };
        pixels_by_lanes::<S>(shape, pixels, group, lanes);
    }
}

#[inline(always)]
unsafe fn pixels_by_lanes<S: Simd>(
    shape: &Shape,
    pixels: Pixels,
    group: usize,
    lanes: (usize, usize),
) {
    let mut lane = lanes.0;
    // A group's narrow panels have 8 lanes each, so only half vectors fit.
    while S::HALVES && shape.step.panel == 16 && lane + S::LANES <= lanes.1 {
        lane += tiles::<S>(shape, pixels, group, lane, lanes.1 - lane);
    }
    while lane < lanes.1 {
        lane += tiles::<S::Half>(shape, pixels, group, lane, lanes.1 - lane);
    }
}

/// Computes as many vectors of lanes as fit one tile, for all `pixels`; returns the number of lanes
/// computed.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn tiles<S: Simd>(
    shape: &Shape,
    pixels: Pixels,
    group: usize,
    lane: usize,
    left: usize,
) -> usize {
    let panel = shape.step.panel as usize;
    // Several narrow vectors lie within one panel; wide vectors lie in panels next to each other.
    let within = if S::LANES < panel { left.min(panel - lane % panel) } else { left };
    let fits = |vectors: usize| vectors <= S::VECTORS && vectors * S::LANES <= within;
    let vectors = [4, 2].into_iter().find(|v| fits(*v)).unwrap_or(1);
    let width = vectors * S::LANES;
    let group_panels = shape.step.group_panels() as usize;
    let first_lane = group * group_panels * panel;
    let panel_floats = shape.depth * panel;
    let mut tile = shape.tile;
    tile.w = shape.panels.panel(group * group_panels + lane / panel).add(lane % panel);
    tile.w_vector = if S::LANES >= panel { panel_floats } else { S::LANES };
    let start = shape.step.sums.map_or(shape.step.bias, |sums| sums.start);
    tile.bias = shape.memory.blob(start).add(first_lane + lane);
    let channel = group * shape.step.group_outputs as usize + lane - shape.output_first;
    // Weights of 16 bits take half as many floats where they are read next.
    let halves = if shape.step.scales.is_some() { 2 } else { 1 };
    let ahead = (width * shape.depth).max(panel_floats) / halves;
    let most = most_rows::<S>(shape.step);
    let tiles = pixels.count.div_ceil(most);
    // With few tiles the prefetch costs more than it saves.
    let lines = if shape.ahead && tiles * halves >= 8 {
        (ahead / LINE as usize).div_ceil(tiles)
    } else {
        0
    };
    let together = finished_together(width, most);
    let here = match shape.step.scales {
        None => tile.w,
        Some(_) => {
            let before = (group * group_panels + lane / panel) * panel_floats / halves;
            shape.memory.blob(shape.step.weights).wrapping_add(before)
        }
    };
    let mut next = here.wrapping_add(ahead);
    let mut done = 0;
    while done < pixels.count {
        let at = Pixels { y: pixels.y, x: pixels.x + done, count: pixels.count - done };
        if shape.direct {
            let at = Pixels { count: in_row(shape, at), ..at };
            tile.ahead = (next, lines);
            tile.a = input_at(shape, at, group);
            store_directly(shape, &mut tile, at, channel);
            let tiles = tile.multiply::<S>(at.count, vectors);
            next = next.wrapping_add(tiles * lines * LINE as usize);
            done += at.count;
            continue;
        }
        for _ in 0..lines {
            S::prefetch(next);
            next = next.wrapping_add(LINE as usize);
        }
        let rows = (together * tile_rows(at.count, most)).min(at.count);
        let at = Pixels { count: rows, ..at };
        tile.a = input_at(shape, at, group);
        multiply_and_finish::<S>(shape, &mut tile, at, (channel, first_lane + lane), vectors);
        done += rows;
    }
    width
}

/// How many of a run's pixels are equally spaced.
#[inline(always)]
fn in_row(shape: &Shape, at: Pixels) -> usize {
    let width = shape.output.width as usize;
    if shape.gaps { at.count.min(width - at.x % width) } else { at.count }
}

/// First input of the window of the run's first pixel.
#[inline(always)]
unsafe fn input_at(shape: &Shape, at: Pixels, group: usize) -> *const f32 {
    let (window, stride, pitch) = (&shape.step.window, shape.stride, shape.pitch);
    let base = shape.input.wrapping_add(group * shape.step.group_inputs as usize);
    if shape.flat {
        return base.wrapping_add(at.x * stride);
    }
    let y = at.y * window.stride[0] as usize;
    let x = at.x * window.stride[1] as usize;
    let pad = window.pad[0] as usize * pitch + window.pad[1] as usize * stride;
    base.wrapping_add(y * pitch + x * stride).wrapping_sub(pad)
}

/// Whether the run's pixels are equally spaced in the output and in the residual.
#[inline(always)]
fn in_line(shape: &Shape, at: Pixels) -> bool {
    let width = shape.output.width as usize;
    let flat = |map: &Map| map.is_flat();
    !shape.flat
        || (flat(shape.output) && shape.residual.is_none_or(flat) && shape.rounded.is_none_or(flat))
        || at.x % width + at.count <= width
}

/// The first float of a run's first pixel.
#[inline(always)]
unsafe fn place(shape: &Shape, map: &Map, at: Pixels) -> *mut f32 {
    // If rows have no gap between them, finding the pixel needs no division.
    let offset = if shape.flat && map.is_flat() {
        map.origin() as usize + at.x * map.stride as usize
    } else {
        Walk::new(map, shape.flat, at.y, at.x).offset
    };
    shape.memory.arena.add(offset)
}

/// Sets up the tile so that the micro-kernel adds, clips and stores by itself.
#[inline(always)]
unsafe fn store_directly(shape: &Shape, tile: &mut Tile, at: Pixels, channel: usize) {
    tile.out = place(shape, shape.output, at).add(channel);
    tile.out_step = shape.output.stride as usize;
    if let Some(residual) = shape.residual {
        tile.add = place(shape, residual, at).add(channel);
        tile.add_step = residual.stride as usize;
    }
    if let Activation::Clip { low, high } = shape.step.activation {
        tile.clip = Some((low, high));
    }
}
