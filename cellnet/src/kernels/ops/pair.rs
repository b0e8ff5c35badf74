//! Computes a convolution and the depthwise convolution that reads it, one slice of channels at a time.
//!
//! An inverted residual block expands a map to four or six times its channels, and a depthwise convolution
//! reads each of them once. Here a task computes some channels of the expanded map into its thread's
//! scratch, small enough for the L2 cache, and convolves them from there. The expanded map is never written
//! to the arena, and its pixels lie next to each other instead of a page apart. [`crate::stage`] decides
//! which steps can be paired, and ensures that the second does not overwrite the first's input.

use crate::kernels::memory::{Memory, Slice, Task};
use crate::plan::{Conv, Depthwise, Map};

/// Two steps, and the number of channels in a slice of the map between them.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Pair<'a> {
    pub(in crate::kernels) conv: &'a Conv,
    pub(in crate::kernels) depthwise: &'a Depthwise,
    pub(in crate::kernels) slice: u32,
}

/// One slice of the map between the two steps.
fn slice_map(pair: &Pair, maps: &[Map], offset: u64) -> Map {
    let whole = &maps[pair.conv.output as usize];
    Map { channels: pair.slice, stride: pair.slice, offset, ..*whole }
}

/// Number of tasks: one for each slice.
pub(in crate::kernels) fn tasks(pair: &Pair, maps: &[Map]) -> usize {
    maps[pair.conv.output as usize].channels.div_ceil(pair.slice) as usize
}

/// Floats of scratch one thread needs for the slice.
pub(in crate::kernels) fn scratch(pair: &Pair, maps: &[Map]) -> usize {
    slice_map(pair, maps, 0).floats() as usize
}

/// The slice that a task computes, in the task's scratch.
///
/// # Safety
/// The scratch must lie in `memory`'s arena and be valid for [`scratch`] floats that no other thread
/// touches.
pub(in crate::kernels) unsafe fn slice(memory: &Memory, pair: &Pair, task: Task) -> Slice {
    let channels = (memory.map(pair.conv.output).channels as usize).next_multiple_of(8);
    let first = task.index * pair.slice as usize;
    let offset = task.scratch.offset_from(memory.arena).unsigned_abs() as u64;
    Slice {
        map: slice_map(pair, memory.maps, offset),
        channels: (first, channels.min(first + pair.slice as usize)),
    }
}
