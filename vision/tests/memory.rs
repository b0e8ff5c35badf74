//! Tests that a decode holds no more memory than was estimated from the header, as `Limits` promises.
//!
//! The test counts all allocations of its process, so it is the only one in this file. Its photos are large
//! but compress to few bytes. The memory of a WebAssembly instance around the decode is not counted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it cannot go on")]

mod common;

use common::fixture;
use flate2::{Compression, write::ZlibEncoder};
use peak_alloc::PeakAlloc;
use skincell_vision::photo::{Limits, Photo, PhotoError, decode};
use std::io::Write;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A black PNG of 8-bit RGB.
fn png(width: u32, height: u32, interlaced: bool) -> Vec<u8> {
    let passes: &[[u32; 4]] = match interlaced {
        false => &[[0, 0, 1, 1]],
        true => &[
            [0, 0, 8, 8],
            [4, 0, 8, 8],
            [0, 4, 4, 8],
            [2, 0, 4, 4],
            [0, 2, 2, 4],
            [1, 0, 2, 2],
            [0, 1, 1, 2],
        ],
    };
    let mut pixels = ZlibEncoder::new(Vec::new(), Compression::fast());
    for [left, top, across, down] in passes {
        let row = vec![0; 1 + 3 * (width - left).div_ceil(*across) as usize];
        for _ in (*top..height).step_by(*down as usize) {
            pixels.write_all(&row).unwrap();
        }
    }
    let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = [&sides[..], &[8, 2, 0, 0, u8::from(interlaced)]].concat();
    let chunk = |name: &[u8; 4], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(name);
        crc.update(data);
        [&(data.len() as u32).to_be_bytes()[..], name, data, &crc.sum().to_be_bytes()].concat()
    };
    let pixels = chunk(b"IDAT", &pixels.finish().unwrap());
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &pixels, &chunk(b"IEND", b"")].concat()
}

/// A grey JPEG of three components with 4:2:0 chroma. Every code is a single zero bit, which means "no
/// difference" for the mean and "end of block" for the other coefficients.
fn jpeg(width: u16, height: u16, progressive: bool) -> Vec<u8> {
    let units = usize::from(width.div_ceil(16)) * usize::from(height.div_ceil(16));
    let quantization = [&[0xFF, 0xDB, 0, 67, 0][..], &[1; 64]].concat();
    let frame = [
        &[0xFF, if progressive { 0xC2 } else { 0xC0 }, 0, 17, 8][..],
        &height.to_be_bytes(),
        &width.to_be_bytes(),
        &[3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0],
    ];
    let table = |class: u8| {
        let mut table = vec![0xFF, 0xC4, 0, 20, class << 4, 1];
        table.extend([0; 16]);
        table
    };
    let scan = |components: &[u8], from: u8, to: u8, bits: usize| {
        let count = components.len() as u8;
        let mut scan = vec![0xFF, 0xDA, 0, 6 + 2 * count, count];
        components.iter().for_each(|c| scan.extend([*c, 0]));
        scan.extend([from, to, 0]);
        scan.extend(vec![0; bits.div_ceil(8)]);
        scan
    };
    let scans = match progressive {
        false => scan(&[1, 2, 3], 0, 63, units * 12),
        true => {
            let rest = |c: u8, blocks: usize| scan(&[c], 1, 63, blocks);
            let first = scan(&[1, 2, 3], 0, 0, units * 6);
            [first, rest(1, units * 4), rest(2, units), rest(3, units)].concat()
        }
    };
    let tables = [table(0), table(1)].concat();
    [&[0xFF, 0xD8][..], &quantization, &frame.concat(), &tables, &scans, &[0xFF, 0xD9]].concat()
}

fn bmp(width: u32, height: u32) -> Vec<u8> {
    let sides = [width.to_le_bytes(), height.to_le_bytes()].concat();
    let header =
        [&b"BM"[..], &[0; 8], &[54, 0, 0, 0, 40, 0, 0, 0], &sides, &[1, 0, 24, 0]].concat();
    let mut file = [header, vec![0; 24]].concat();
    file.resize(file.len() + (width * 3).next_multiple_of(4) as usize * height as usize, 0);
    file
}

fn within(limit: u64, bytes: &[u8], target: (u32, u32)) -> Result<Photo, PhotoError> {
    decode(bytes, target, &Limits { max_alloc: limit, ..Limits::default() })
}

#[test]
fn no_decode_holds_more_than_it_declared() {
    let model = (300, 300);
    let whole = (5000, 5000);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (name, file, target) in [
        ("24-megapixel PNG", png(6000, 4000, false), model),
        ("24-megapixel interlaced PNG", png(6000, 4000, true), model),
        ("2-megapixel PNG, whole", png(1600, 1200, false), whole),
        ("2-megapixel interlaced PNG, whole", png(1600, 1200, true), whole),
        ("48-megapixel JPEG", jpeg(8000, 6000, false), model),
        ("12-megapixel JPEG", jpeg(4000, 3000, false), model),
        ("12-megapixel progressive JPEG", jpeg(4000, 3000, true), model),
        ("3-megapixel JPEG, whole", jpeg(2000, 1500, false), whole),
        ("3-megapixel progressive JPEG, whole", jpeg(2000, 1500, true), whole),
        ("turned JPEG, whole", fixture("large_turned.jpg"), whole),
        ("4-megapixel lossy WebP", fixture("large_lossy.webp"), model),
        ("4-megapixel lossy WebP with alpha", fixture("large_lossy_alpha.webp"), model),
        ("4-megapixel lossless WebP", fixture("large_lossless.webp"), model),
        ("4-megapixel lossless WebP with alpha", fixture("large_lossless_alpha.webp"), model),
        ("4-megapixel animated WebP", fixture("large_animated.webp"), model),
        ("6-megapixel BMP", bmp(3000, 2000), model),
        ("4-megapixel GIF", fixture("large.gif"), model),
    ] {
        let Err(PhotoError::NeedsTooMuchMemory { needed, limit: 0 }) = within(0, &file, target)
        else {
            panic!("{name}: not refused at a limit of 0");
        };
        assert!(within(needed - 1, &file, target).is_err(), "{name}");
        // Outside WebAssembly the JPEG decoder passes rows of coefficients to threads of its own; the number
        // of waiting rows depends on the machine.
        let waiting = if name.contains("JPEG") { 128 * 48_000_000 / 64 * 3 / 2 } else { 0 };
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let photo = within(needed, &file, target);
        let held = (MEMORY.peak_usage() - before) as u64;
        let photo = photo.unwrap_or_else(|error| panic!("{name}: {error}"));
        println!(
            "{name}: declared {:.1} MiB, held {:.1} MiB, photo {}x{}",
            mib(needed),
            mib(held),
            photo.width(),
            photo.height()
        );
        assert!(held <= needed + waiting, "{name}: held {held}, declared {needed}");
        assert!(needed <= held * 2 + (2 << 20), "{name}: held {held}, declared {needed}");
    }
}
