//! Test photos: valid ones, and files with false headers, decompression bombs or early ends.

use std::io::Write as _;

use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compression, Crc};
use skincell_vision::overlay::encode_png;
use skincell_vision::photo::Photo;

use crate::artifacts::repository;

/// A PNG of `width` × `height` pixels; `colour` maps column and row to a colour.
#[must_use]
pub fn png(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
    let rows = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let pixels: Vec<u8> = rows.flat_map(|(x, y)| colour(x, y)).collect();
    let photo = Photo::from_rgb(width, height, pixels).expect("it has pixels");
    encode_png(&photo).expect("it is encoded")
}

/// A valid photo of 64×48 pixels, red on its left half and blue on its right.
#[must_use]
pub fn red_and_blue() -> Vec<u8> {
    png(64, 48, |x, _| if x < 32 { [255, 0, 0] } else { [0, 0, 255] })
}

/// A file of `vision/tests/fixtures/`.
#[must_use]
pub fn fixture(name: &str) -> Vec<u8> {
    let path = repository().join("vision/tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first half of a fixture.
#[must_use]
pub fn half(name: &str) -> Vec<u8> {
    let mut whole = fixture(name);
    whole.truncate(whole.len() / 2);
    whole
}

/// The head of a HEIC file.
#[must_use]
pub fn heic() -> Vec<u8> {
    [&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], &[0; 100]].concat()
}

/// The concatenated pieces in gzip.
#[must_use]
pub fn gzip(pieces: &[&[u8]]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for piece in pieces {
        encoder.write_all(piece).expect("it is compressed");
    }
    encoder.finish().expect("and written")
}

/// 256 MiB of zeros in gzip, as 256 KiB.
#[must_use]
pub fn gzip_bomb() -> Vec<u8> {
    gzip(&[&[0; 1 << 20][..]; 256])
}

/// A GIF with a logical screen of 0×0 and one frame of 1×1.
#[must_use]
pub fn gif_without_screen() -> Vec<u8> {
    let frame = [0x2C, 0, 0, 0, 0, 1, 0, 1, 0, 0x80, 0, 0, 0, 0, 0, 0, 2, 2, 0x44, 1, 0, 0x3B];
    [&b"GIF89a"[..], &[0; 7], &frame].concat()
}

/// A PNG of this size without pixel data.
#[must_use]
pub fn hollow_png(width: u32, height: u32) -> Vec<u8> {
    [png_header(width, height), png_chunk(b"IEND", &[])].concat()
}

/// A valid PNG with a chunk (`zTXt`, `iCCP` or `iTXt`) before its pixels that inflates to 1 GiB.
#[must_use]
pub fn with_bomb(name: &[u8; 4]) -> Vec<u8> {
    const HEADER: usize = 8 + 25;
    let head: &[u8] = match name {
        b"iTXt" => b"XML:com.adobe.xmp\0\x01\0\0\0",
        _ => b"Comment\0\0",
    };
    let photo = red_and_blue();
    let (start, rest) = photo.split_at(HEADER);
    [start, &png_chunk(name, &[head, &bomb(1024)].concat()), rest].concat()
}

/// A progressive JPEG with its scans repeated 250 times.
#[must_use]
pub fn many_scans() -> Vec<u8> {
    let file = fixture("progressive.jpg");
    let scans = file.windows(2).position(|w| w == [0xFF, 0xDA]).expect("it has scans");
    let end = file.len() - 2;
    [&file[..scans], &file[scans..end].repeat(250), &file[end..]].concat()
}

/// An animated WebP whose canvas is 16384×16384 pixels.
#[must_use]
pub fn vast_webp() -> Vec<u8> {
    let mut file = fixture("animated.webp");
    assert_eq!(&file[12..16], b"VP8X", "an animation begins with its canvas");
    file[24..30].copy_from_slice(&[0xFF, 0x3F, 0, 0xFF, 0x3F, 0]);
    file
}

/// An animated WebP of several thousand frames.
#[must_use]
pub fn many_frames() -> Vec<u8> {
    let file = fixture("animated.webp");
    let first = file.windows(4).position(|w| w == b"ANMF").expect("it has frames");
    let body = [&file[8..], &file[first..].repeat(2000)].concat();
    [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
}

fn png_header(width: u32, height: u32) -> Vec<u8> {
    let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = png_chunk(b"IHDR", &[&sides[..], &[8, 2, 0, 0, 0]].concat());
    [&b"\x89PNG\r\n\x1a\n"[..], &header].concat()
}

fn png_chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut sum = Crc::new();
    sum.update(name);
    sum.update(data);
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], name, data, &sum.sum().to_be_bytes()].concat()
}

/// A zlib stream that inflates to `mebibytes` of zeros.
fn bomb(mebibytes: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![0; 1 << 20]).expect("memory takes it");
    encoder.flush().expect("memory takes it");
    let (header, block) = encoder.get_ref().split_at(2);
    // A flushed block is self-contained, so it may be repeated; the last, empty one ends the stream.
    [header, &block.repeat(mebibytes), &[1, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0]].concat()
}
