//! Decoding any bytes gives an error, or a photo of at most the requested size, and never uses more memory
//! than the limits allow.
//!
//! The first byte selects the requested size; the rest is the file. Seeds: every format in
//! `vision/tests/fixtures`, and the test photos.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;
use skincell_vision::photo::{Limits, decode};
use skincell_vision::resize::resize;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const LIMITS: Limits = Limits { max_side: 4096, max_pixels: 1 << 22, max_alloc: 8 << 20 };
/// Memory of decoders for tables and the like, independent of the photo, in bytes.
const SLACK: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((&first, file)) = data.split_first() else { return };
    let side = 1 + u32::from(first) * 3;
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let outcome = decode(file, (side, side), &LIMITS);
    let held = MEMORY.peak_usage().saturating_sub(before);
    let limit = LIMITS.max_alloc as usize + SLACK;
    assert!(held <= limit, "{held} bytes held, {limit} allowed");
    let Ok(photo) = outcome else { return };
    let Ok(small) = resize(&photo, side, side) else { panic!("it cannot be resized") };
    assert_eq!((small.width(), small.height()), (side, side));
});
