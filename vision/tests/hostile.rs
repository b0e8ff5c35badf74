//! Damaged and malicious files: each must give a typed error or a photo. Their use of memory is tested in
//! `memory.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it cannot go on")]

mod common;

use common::{Random, fixture, fixtures};
use flate2::{Compression, Crc, write::ZlibEncoder};
use skincell_vision::photo::{Format, Limits, Photo, PhotoError, decode};
use std::io::Write;
use std::time::{Duration, Instant};

const TARGET: (u32, u32) = (64, 64);

fn decoded(bytes: &[u8]) -> Result<Photo, PhotoError> {
    decode(bytes, TARGET, &Limits::default())
}

fn png_chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(name);
    crc.update(data);
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], name, data, &crc.sum().to_be_bytes()].concat()
}

/// A PNG header for 8-bit RGB.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = png_chunk(b"IHDR", &[&sides[..], &[8, 2, 0, 0, 0]].concat());
    [&b"\x89PNG\r\n\x1a\n"[..], &header].concat()
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A zlib stream that inflates to `mebibytes` of zeros.
fn bomb(mebibytes: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![0; 1 << 20]).unwrap();
    encoder.flush().unwrap();
    let (header, block) = encoder.get_ref().split_at(2);
    // A flushed block is independent, so it may be repeated; a last empty block ends the stream.
    [header, &block.repeat(mebibytes), &[1, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0]].concat()
}

/// A 2×2 PNG with `chunks` before its pixels.
fn png_with(chunks: &[Vec<u8>]) -> Vec<u8> {
    let pixels = png_chunk(b"IDAT", &deflated(&[0; 14]));
    [png_header(2, 2), chunks.concat(), pixels, png_chunk(b"IEND", &[])].concat()
}

#[test]
fn bytes_that_are_no_photo() {
    let heif = |brands: &[&[u8; 4]]| {
        let list: Vec<u8> = brands.iter().skip(1).copied().flatten().copied().collect();
        let length = (16 + list.len() as u32).to_be_bytes();
        [&length[..], b"ftyp", brands[0], &[0; 4], &list, b"\0\0\0\x10avif"].concat()
    };
    for (bytes, expected) in [
        (vec![], PhotoError::Empty),
        (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec(), PhotoError::UnknownFormat),
        (vec![0xFF], PhotoError::UnknownFormat),
        (heif(&[b"qt  "]), PhotoError::UnknownFormat),
        (heif(&[b"isom", b"mp42"]), PhotoError::UnknownFormat),
        (heif(&[b"heic"]), PhotoError::Heic),
        (heif(&[b"mif1", b"heic"]), PhotoError::Heic),
        (heif(&[b"ZZZZ", b"mif1", b"heix"]), PhotoError::Heic),
        (heif(&[b"avif"]), PhotoError::Avif),
        (heif(&[b"mif1", b"miaf", b"avif"]), PhotoError::Avif),
        (heif(&[b"heic", b"mif1", b"miaf"]), PhotoError::Heic),
    ] {
        assert_eq!(decoded(&bytes).unwrap_err(), expected);
    }
    assert!(PhotoError::Heic.to_string().contains("JPEG"));
}

/// Sizes are refused from the header alone: these files have no pixels.
#[test]
fn sizes_beyond_the_limits() {
    let end = png_chunk(b"IEND", &[]);
    let png = |width, height| [png_header(width, height), end.clone()].concat();
    let jpeg = |width: u16, height: u16| {
        let frame = [&[0xFF, 0xC0, 0, 11, 8][..], &height.to_be_bytes(), &width.to_be_bytes()];
        let scan = [1, 1, 0x11, 0, 0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 0xFF, 0xD9];
        [&[0xFF, 0xD8][..], &frame.concat(), &scan].concat()
    };
    let gif = |width: u16, height: u16| {
        let screen = [&b"GIF89a"[..], &width.to_le_bytes(), &height.to_le_bytes(), &[0; 3]];
        let frame = [0x2C, 0, 0, 0, 0, 1, 0, 1, 0, 0x80, 0, 0, 0, 0, 0, 0, 2, 2, 0x44, 1, 0, 0x3B];
        [&screen.concat()[..], &frame].concat()
    };
    let bmp = |width: i32, height: i32| {
        let sides = [width.to_le_bytes(), height.to_le_bytes()].concat();
        [&b"BM"[..], &[0; 8], &[54, 0, 0, 0, 40, 0, 0, 0], &sides, &[1, 0, 24, 0], &[0; 24]]
            .concat()
    };
    let webp = |width: u32, height: u32| {
        let sides = [(width - 1).to_le_bytes(), (height - 1).to_le_bytes()];
        let extended = [&b"VP8X\x0a\0\0\0\x02\0\0\0"[..], &sides[0][..3], &sides[1][..3]].concat();
        let frame = b"ANMF\x22\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0VP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a\x01\0\x01\0";
        let body = [b"WEBP", &extended[..], frame].concat();
        [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
    };
    let large = |width, height| {
        let (max_side, max_pixels) = (16_384, 51_000_000);
        PhotoError::TooLarge { width, height, max_side, max_pixels }
    };
    let zero = |format, width, height| PhotoError::ZeroSize { format, width, height };
    for (bytes, expected) in [
        (png(60_000, 60_000), large(60_000, 60_000)),
        (png(u32::MAX >> 1, u32::MAX >> 1), large(u32::MAX >> 1, u32::MAX >> 1)),
        (png(16_385, 1), large(16_385, 1)),
        (png(7142, 7142), large(7142, 7142)),
        (jpeg(60_000, 60_000), large(60_000, 60_000)),
        (jpeg(0, 0), zero(Format::Jpeg, 0, 0)),
        (jpeg(5, 0), zero(Format::Jpeg, 5, 0)),
        (gif(60_000, 60_000), large(60_000, 60_000)),
        (bmp(60_000, 60_000), large(60_000, 60_000)),
        (bmp(60_000, -60_000), large(60_000, 60_000)),
        (bmp(i32::MAX, i32::MIN), large(i32::MAX as u32, 1 << 31)),
        (bmp(0, 0), zero(Format::Bmp, 0, 0)),
        (webp(1 << 24, 1 << 24), large(1 << 24, 1 << 24)),
        (webp(60_000, 60_000), large(60_000, 60_000)),
    ] {
        assert_eq!(decoded(&bytes).unwrap_err(), expected);
    }
    // The png crate refuses 0x0 itself; its message must name the format.
    let message = decoded(&png(0, 0)).unwrap_err().to_string();
    assert!(message.contains("PNG"), "{message}");
}

/// Text, colour profile and XMP are refused if one of them, or their sum, inflates to too much. Sizes that
/// usual programs write are accepted.
#[test]
fn metadata_bombs_are_refused_and_honest_metadata_is_not() {
    let heads = [
        (b"zTXt", &b"Comment\0\0"[..]),
        (b"iCCP", b"profile\0\0"),
        (b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0"),
    ];
    let file = |mebibytes: usize, (name, head): (&[u8; 4], &[u8]), copies: usize| {
        let stream = bomb(mebibytes);
        png_with(&vec![png_chunk(name, &[head, &stream].concat()); copies])
    };
    for head in heads {
        for (mebibytes, copies) in [(1024, 1), (17, 1), (6, 3)] {
            let error = decoded(&file(mebibytes, head, copies)).unwrap_err();
            let limit = 16 << 20;
            assert_eq!(error, PhotoError::TooMuchMetadata { format: Format::Png, limit });
        }
        let photo = decoded(&file(5, head, 3)).unwrap();
        assert_eq!((photo.width(), photo.height()), (2, 2));
    }
    let plain =
        png_chunk(b"iTXt", &[b"XML:com.adobe.xmp\0\0\0\0\0", &[b'x'; 100_000][..]].concat());
    let broken = png_chunk(b"zTXt", b"Comment\0\0no stream");
    let headless = png_chunk(b"zTXt", b"no end of the keyword");
    assert!(decoded(&png_with(&[plain, broken, headless])).is_ok());
}

/// Compressed pixels beyond the last row are not inflated.
#[test]
fn pixel_bombs_stop_at_the_last_row() {
    let end = png_chunk(b"IEND", &[]);
    let file = [png_header(2, 2), png_chunk(b"IDAT", &bomb(1024)), end].concat();
    let photo = decoded(&file).unwrap();
    assert_eq!(photo.pixels(), [0; 12]);
}

#[test]
fn too_many_scans_are_refused() {
    let file = fixture("progressive.jpg");
    let scan = file.windows(2).position(|w| w == [0xFF, 0xDA]).unwrap();
    let end = file.len() - 2;
    for (copies, refused) in [(8, false), (2000, true)] {
        // Repeats all scans of the file.
        let scans = file[scan..end].repeat(copies / 8);
        let many = [&file[..scan], &scans, &file[end..]].concat();
        match decoded(&many) {
            Err(PhotoError::Unsupported { feature, .. }) if refused => {
                assert!(feature.contains("scans"), "{feature}");
            }
            result => assert!(result.is_ok() && !refused, "{copies}: {result:?}"),
        }
    }
}

/// Files of every format are errors when cut after each eighth of their length or before the last pixels.
#[test]
fn truncated_files_are_errors() {
    for name in [
        "orientation_1.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "rgb8.png",
        "rgb8_interlaced.png",
        "palette8_transparent.png",
        "lossy.webp",
        "lossless.webp",
        "lossy_alpha.webp",
        "rgb24.bmp",
        "rle8.bmp",
        "palette4.bmp",
        "plain.gif",
        "interlaced.gif",
    ] {
        let whole = fixture(name);
        assert!(decoded(&whole).is_ok(), "{name}");
        // Bytes after the last pixel may be missing: end marks, checksums, padding.
        let last = whole.len()
            - match name.rsplit('.').next() {
                Some("gif") => 8,
                Some("png") => 24,
                Some("jpg" | "bmp") => 8,
                _ => 3,
            };
        for length in (0..8).map(|eighth| whole.len() * eighth / 8).chain([last]) {
            let result = decoded(&whole[..length]).map(|_| ());
            let fits = match &result {
                Err(PhotoError::Empty) => length == 0,
                Err(PhotoError::Truncated { .. } | PhotoError::Corrupt { .. }) => length > 0,
                _ => false,
            };
            assert!(fits, "{name} cut to {length} of {}: {result:?}", whole.len());
        }
    }
}

/// JPEGs that lack a part of their data but have a correct end mark. Other decoders show grey or garbage.
#[test]
fn missing_data_before_a_correct_end_is_an_error() {
    for name in [
        "broken_cut_eoi.jpg",
        "broken_progressive_eoi.jpg",
        "broken_dri_no_rst.jpg",
        "broken_rst_missing.jpg",
    ] {
        let error = decode(&fixture(name), (4096, 4096), &Limits::default()).unwrap_err();
        let fits = matches!(error, PhotoError::Truncated { .. } | PhotoError::Corrupt { .. });
        assert!(fits, "{name}: {error:?}");
    }
    let cut = decoded(&fixture("broken_cut_eoi.jpg")).unwrap_err();
    assert_eq!(cut, PhotoError::Truncated { format: Format::Jpeg });
}

/// Messages name the unsupported feature, and describe damage without terms of the source code.
#[test]
fn refusals_are_in_plain_words() {
    for (name, words) in [
        ("refused_arithmetic.jpg", "this JPEG has arithmetic coding, which is not decoded"),
        ("refused_lossless.jpg", "this JPEG has lossless coding, which is not decoded"),
        ("refused_12_bit.jpg", "this JPEG has 12-bit samples, which is not decoded"),
        ("refused_cgbi.png", "PNGs inside iPhone apps (CgBI), which is not decoded"),
        ("refused_hdr.png", "colours of high dynamic range (PQ), which is not decoded"),
        ("refused_palette_cut.png", "its palette has 47 bytes"),
        ("refused_palette_long.png", "its palette has 771 bytes"),
        ("broken_rst_missing.jpg", "a restart marker is missing"),
        ("broken_dri_no_rst.jpg", "a restart marker is missing"),
    ] {
        // At full size: a scaled decode of a small picture reads it whole as well.
        let error = decode(&fixture(name), (4096, 4096), &Limits::default()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(words), "{name}: {message}");
        for foreign in ["{", "::", "0x", "()", "Error"] {
            assert!(!message.contains(foreign), "{name}: {message}");
        }
    }
}

/// A VP8 frame far larger than the canvas that holds it is refused before it is decoded.
#[test]
fn webp_frames_must_fit_their_canvas() {
    let mut file = fixture("exif.webp");
    let at = file.windows(3).position(|w| w == [0x9D, 1, 0x2A]).unwrap() + 3;
    file[at..at + 4].copy_from_slice(&[0xFF, 0x3F, 0xFF, 0x3F]);
    let error = decoded(&file).unwrap_err();
    assert!(matches!(error, PhotoError::Corrupt { .. }), "{error:?}");
}

/// Corrects the checksums of a mutated PNG, so that the decoder accepts them.
fn with_right_sums(file: &mut [u8]) {
    let mut rest = file.get_mut(8..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk_mut::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((chunk, after)) = after.split_at_mut_checked(length.saturating_add(4)) else {
            return;
        };
        let Some((sum, after)) = after.split_first_chunk_mut::<4>() else { return };
        let mut crc = Crc::new();
        crc.update(chunk);
        *sum = crc.sum().to_be_bytes();
        rest = after;
    }
}

/// A PNG with one of its chunks shortened, extended, doubled or removed.
fn reshaped(file: &[u8], random: &mut Random) -> Vec<u8> {
    let (start, mut rest) = file.split_at(8.min(file.len()));
    let mut chunks = Vec::new();
    while let Some(length) = rest.first_chunk::<4>() {
        let whole = (u32::from_be_bytes(*length) as usize).saturating_add(12);
        let Some((chunk, after)) = rest.split_at_checked(whole) else { break };
        chunks.push((<[u8; 4]>::try_from(&chunk[4..8]).unwrap(), chunk[8..whole - 4].to_vec()));
        rest = after;
    }
    if chunks.is_empty() {
        return file.to_vec();
    }
    let at = random.below(chunks.len());
    match random.below(4) {
        0 => drop(chunks.remove(at)),
        1 => chunks.insert(at, chunks[at].clone()),
        2 => {
            let left = chunks[at].1.len().saturating_sub(1 + random.below(4));
            chunks[at].1.truncate(left);
        }
        _ => {
            let count = 1 + random.below(4);
            let more = random.bytes(count);
            chunks[at].1.extend(more);
        }
    }
    let chunks: Vec<Vec<u8>> = chunks.iter().map(|(name, data)| png_chunk(name, data)).collect();
    [start, &chunks.concat(), rest].concat()
}

/// Changed bytes must not make a decoder panic, hang or return a photo beyond the limits. Tries 2,000 files
/// of each format, or as many as fit its part of `SKINCELL_FUZZ_SECONDS`.
#[test]
fn mutated_files_never_panic() {
    let seconds = std::env::var("SKINCELL_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let mut seeds: Vec<(String, Vec<u8>)> = Vec::new();
    for entry in fixtures().read_dir().unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let kind = name.rsplit('.').next().unwrap_or_default().to_owned();
        let small = !name.starts_with("large");
        if small && ["jpg", "png", "webp", "bmp", "gif"].contains(&kind.as_str()) {
            seeds.push((kind, fixture(&name)));
        }
    }
    let limits = Limits { max_side: 2048, max_pixels: 1 << 20, max_alloc: 16 << 20 };
    for kind in ["jpg", "png", "webp", "bmp", "gif"] {
        let mut random = Random(0x5C1);
        let mut files: Vec<_> = seeds.iter().filter(|(k, _)| k == kind).map(|(_, b)| b).collect();
        files.sort();
        let (mut refused, mut round) = (0, 0);
        let end = seconds.map(|seconds: u64| Instant::now() + Duration::from_secs(seconds / 5));
        while round < 2000 || end.is_some_and(|end| Instant::now() < end) {
            let mut bytes = files[round % files.len()].clone();
            if kind == "png" && round % 8 < 3 {
                bytes = reshaped(&bytes, &mut random);
            }
            for _ in 0..random.below(9) {
                // Half of the changes are in the first bytes, which hold the headers.
                let reach = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(160) };
                let at = random.below(reach);
                bytes[at] = random.next() as u8;
            }
            if kind == "png" && round % 4 > 0 {
                with_right_sums(&mut bytes);
            }
            // Small targets are decoded at a reduced scale, which reads less of the file.
            let side = 1 + random.below(128) as u32;
            match decode(&bytes, (side, side), &limits) {
                Ok(photo) => assert!(photo.pixels().len() <= 3 << 20, "{kind} {round}"),
                Err(_) => refused += 1,
            }
            round += 1;
        }
        println!("{kind}: {refused} of {round} refused");
        assert!(refused > round / 10, "{kind}: only {refused} of {round} mutations were noticed");
    }
}
