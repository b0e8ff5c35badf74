//! Searches the whole linear memory for a marker of an earlier request, then leaves one for the next.

use std::hint::black_box;

const LENGTH: usize = 64;
/// Bytes of repeated markers left in memory.
const LEFT_BYTES: usize = 4 << 20;
const PAGE: usize = 64 << 10;

/// A byte of the marker, computed each time, so that the marker is not in the program's data.
fn marker(position: usize) -> u8 {
    black_box((position as u8).wrapping_mul(167) ^ 0x5C)
}

/// "nothing", or where the marker was found. With `control`, the marker is left before the search instead
/// of after it.
pub(crate) fn look_and_leave(query: &str) -> String {
    if query == "control" {
        leave();
    }
    let found = look();
    leave();
    found.map_or_else(|| "nothing".to_owned(), |address| format!("found at {address}"))
}

fn leave() {
    let left: Vec<u8> = (0..LEFT_BYTES).map(|i| marker(i % LENGTH)).collect();
    // Freed like a photo, without being wiped.
    drop(black_box(left));
}

fn look() -> Option<usize> {
    let end = core::arch::wasm32::memory_size::<0>() * PAGE;
    let first = marker(0);
    // SAFETY: every address below `end` is this instance's linear memory. Reads are volatile, because the
    // memory may not belong to any Rust object.
    let read = |address: usize| unsafe { (address as *const u8).read_volatile() };
    (1..end.saturating_sub(LENGTH)).find(|&address| {
        read(address) == first && (1..LENGTH).all(|i| read(address + i) == marker(i))
    })
}
