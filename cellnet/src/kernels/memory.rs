//! The arena of a run, and the view of arena, weights and maps that kernels work on.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::plan::{Blob, Map};

/// Zeroed floats at a 64-byte boundary. The system allocates a page when it is first touched.
#[derive(Debug)]
pub(crate) struct Arena {
    first: NonNull<f32>,
    layout: Layout,
}

// SAFETY: the arena owns its memory, has no other state, and gives out references only through
// `&self` and `&mut self`; the raw pointer is used by `Execution` alone, under its own argument.
unsafe impl Send for Arena {}

impl Arena {
    /// Allocates `floats` zeros; `None` if the system has no memory.
    pub(crate) fn new(floats: usize) -> Option<Self> {
        let layout = Layout::from_size_align(floats.max(16).checked_mul(4)?, 64).ok()?;
        // SAFETY: the layout has a size above zero.
        let first = NonNull::new(unsafe { alloc_zeroed(layout) })?.cast();
        Some(Self { first, layout })
    }

    /// Number of floats.
    pub(crate) fn len(&self) -> usize {
        self.layout.size() / 4
    }

    /// All floats.
    pub(crate) fn floats(&self) -> &[f32] {
        // SAFETY: `first` points at `len` floats allocated zeroed, owned by `self`, borrowed with it.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len()) }
    }

    /// All floats, to write.
    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `floats`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len()) }
    }

    /// The first float, for `Execution`.
    pub(super) fn as_ptr(&self) -> *mut f32 {
        self.first.as_ptr()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, and freed only here.
        unsafe { dealloc(self.first.as_ptr().cast(), self.layout) }
    }
}

/// The memory a task works on.
pub(super) struct Memory<'a> {
    pub(super) arena: *mut f32,
    pub(super) weights: &'a [f32],
    pub(super) maps: &'a [Map],
}

impl Memory<'_> {
    /// A map of the plan.
    #[inline(always)]
    pub(super) fn map(&self, index: u32) -> &Map {
        &self.maps[index as usize]
    }

    /// The first float of a blob.
    #[inline(always)]
    pub(super) fn blob(&self, blob: Blob) -> *const f32 {
        self.weights[blob.offset as usize..].as_ptr()
    }
}

/// One task of a stage.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) index: usize,
    pub(super) threads: usize,
    pub(super) scratch: *mut f32,
    /// Whether the scratch still holds what the worker's last task left, one of the same stage.
    pub(super) again: bool,
    /// For a pair of steps: the slice of the map between them. The task then computes all its pixels.
    pub(super) slice: Option<&'a Slice>,
}

/// The channels `channels.0..channels.1` of the map between two steps, stored as a map of their own.
pub(super) struct Slice {
    pub(super) map: Map,
    pub(super) channels: (usize, usize),
}

/// Part `i` of `0..n` cut into `parts`.
pub(super) fn part(n: usize, i: usize, parts: usize) -> (usize, usize) {
    (n * i / parts, n * (i + 1) / parts)
}

/// How many parts `n` is cut into: as many as wanted, or up to twice as many if these are equal.
pub(super) fn even_parts(n: usize, wanted: usize) -> usize {
    (wanted..=2 * wanted).find(|parts| n.is_multiple_of(*parts)).unwrap_or(wanted)
}

/// Fills the halo of a map with zeros, or the byte that stands for 0.
///
/// # Safety
/// `arena` must contain the map, and no other thread may touch its halo.
pub(super) unsafe fn clear_halo(arena: *mut f32, map: &Map) {
    let [top, left, bottom, right] = map.halo.map(|h| h as usize);
    if top + left + bottom + right == 0 {
        return;
    }
    let (pitch, stride) = (map.pitch() as usize, map.stride as usize);
    let first = arena.add(map.offset as usize);
    let zero = map.zero.unwrap_or(0);
    first.write_bytes(zero, top * pitch);
    let rows = map.height as usize;
    for y in top..top + rows {
        let row = first.add(y * pitch);
        row.write_bytes(zero, left * stride);
        row.add((left + map.width as usize) * stride).write_bytes(zero, right * stride);
    }
    first.add((top + rows) * pitch).write_bytes(zero, bottom * pitch);
}
