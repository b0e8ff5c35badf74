//! JPEG decoder: baseline and progressive, grey, YCbCr, RGB, CMYK and YCCK, at the scale the model needs.
//! Lossless, arithmetic and 12-bit coding are not supported; cameras do not write them.
//!
//! The decoding library does not read the file itself but a stream made here. For a sequential file the
//! stream consists of new headers and the file's scan data (`stream`); for a progressive file, of the
//! coefficients needed at the scale, coded again as a sequential file (`coefficients`, `transcode`).

mod bits;
mod coefficients;
mod frame;
mod header;
mod refusal;
mod stream;
mod tables;
mod transcode;

use super::channels::{narrowed, rgb_from_cmyk, rgb_from_grey};
use super::color::{self, Channels, Converter};
use super::error::PhotoError;
use super::format::Format;
use super::limits::Limits;
use super::orientation::{self, Orientation};
use super::picture::Photo;
use super::{Colors, Decoded};
use coefficients::Coefficients;
use frame::Frame;
use header::Header;
use jpeg_decoder::{Decoder, Error, PixelFormat, UnsupportedFeature};
use refusal::{corrupt, truncated, unsupported};
use std::cell::Cell;
use std::io::Read;
use stream::Stream;
use transcode::Transcoded;

/// Most 8×8 blocks that all scans together may visit. A progressive photo of 12 megapixels has about 3
/// million; decoding this many takes about a second.
const MAX_BLOCKS: u64 = 40_000_000;

/// Bytes of the decoder's tables and buffers.
const DECODER: u64 = 64 << 10;

/// Decodes a JPEG.
pub(super) fn decode(
    bytes: &[u8],
    target: (u32, u32),
    limits: &Limits,
    colors: Colors,
) -> Result<Decoded, PhotoError> {
    let header = header::read(bytes)?;
    let frame = &header.frame;
    limits.check_size(Format::Jpeg, frame.width, frame.height)?;
    if header.blocks_visited > MAX_BLOCKS {
        return Err(unsupported(format!("scans of more than {MAX_BLOCKS} blocks in all")));
    }
    if frame.components.iter().any(|component| component.steps.is_none()) {
        return Err(corrupt("a component has no scan, or no quantization table"));
    }
    let orientation = header.exif.map_or(Orientation::Upright, orientation::from_exif);
    let eighths = eighths(frame, orientation::in_file(orientation, target));
    limits.check_memory(memory(&header, eighths, orientation))?;
    let channels = match frame.components.len() {
        1 => Channels::Grey,
        3 => Channels::Rgb,
        _ => Channels::Cmyk,
    };
    let color = || {
        let profile = profile(&header.profile).filter(|_| colors == Colors::Srgb);
        profile.and_then(|profile| color::from_icc(&profile, channels))
    };
    // CMYK must be converted by its profile before there is an RGB photo; other colours are converted later.
    let is_ink = channels == Channels::Cmyk;
    let ink = if is_ink { color().as_ref().and_then(Converter::new) } else { None };
    let ink = ink.as_ref();
    let pixels = if is_transcoded(frame) {
        let coefficients = Coefficients::read(frame, &header.scans, eighths)?;
        pixels(Transcoded::new(frame, coefficients), &header, eighths, ink)
    } else {
        let is_behind_data = Cell::new(false);
        let stream = Stream::new(frame, &header.scans, &is_behind_data);
        let pixels = pixels(stream, &header, eighths, ink);
        // If data is missing, the decoder fails on the one bits that follow it (see `stream`).
        pixels.map_err(|error| if is_behind_data.get() { truncated() } else { error })
    }?;
    let (width, height) = frame.scaled(eighths);
    let photo = Photo::from_rgb(width, height, pixels);
    let photo = photo.ok_or_else(|| corrupt("pixels are missing"))?;
    let exact = |side: u32| f64::from(side) * f64::from(eighths) / 8.0;
    let photo = photo.covering(exact(frame.width), exact(frame.height));
    let color = if is_ink { None } else { color() };
    Ok(Decoded { photo, orientation, color })
}

/// Whether the file must be coded again: progressive files, because the decoder would keep all their
/// coefficients in memory, and files with a quantization step of 0, which the decoder refuses.
fn is_transcoded(frame: &Frame<'_>) -> bool {
    let has_zero = |steps: &tables::Steps<'_>| steps.has_zero();
    frame.progressive || frame.components.iter().any(|c| c.steps.as_ref().is_some_and(has_zero))
}

/// The RGB pixels at `eighths` / 8 of the full size; `ink` converts CMYK that has a profile.
fn pixels(
    stream: impl Read,
    header: &Header<'_>,
    eighths: u32,
    ink: Option<&Converter>,
) -> Result<Vec<u8>, PhotoError> {
    let mut decoder = Decoder::new(stream);
    decoder.set_color_transform(header.colors());
    let (width, height) = header.frame.scaled(eighths);
    if eighths < 8 {
        // The sides fit 16 bits, because they are at most the frame's.
        let found = decoder.scale(width as u16, height as u16).map_err(typed)?;
        if (u32::from(found.0), u32::from(found.1)) != (width, height) {
            return Err(corrupt("its size at a smaller scale is not the one expected"));
        }
    }
    let samples = decoder.decode().map_err(typed)?;
    match decoder.info().map(|info| info.pixel_format) {
        Some(PixelFormat::L8) => Ok(rgb_from_grey(&samples)),
        Some(PixelFormat::RGB24) => Ok(samples),
        Some(PixelFormat::CMYK32) => Ok(match ink {
            Some(ink) => ink.narrow_cmyk(samples),
            None => narrowed(samples, rgb_from_cmyk),
        }),
        Some(PixelFormat::L16) | None => Err(unsupported("lossless coding")),
    }
}

/// The colour profile joined from the parts in the APP2 segments; `None` if parts are missing or repeated.
fn profile(parts: &[(u8, u8, &[u8])]) -> Option<Vec<u8>> {
    let length: usize = parts.iter().map(|(.., data)| data.len()).sum();
    let mut parts = parts.to_vec();
    parts.sort_by_key(|(number, ..)| *number);
    let is_whole = |(at, &(number, of, _)): (usize, &(u8, u8, &[u8]))| {
        usize::from(number) == at + 1 && usize::from(of) == parts.len()
    };
    let whole = length <= color::MAX_PROFILE && parts.iter().enumerate().all(is_whole);
    (whole && length > 0).then(|| parts.iter().flat_map(|(.., data)| *data).copied().collect())
}

/// The smallest of 1, 2 and 4 eighths at which both sides are at least twice the target's, or 8.
fn eighths(frame: &Frame<'_>, target: (u32, u32)) -> u32 {
    let enough = |side: u32, target: u32| side >= target.max(1).saturating_mul(2);
    [1, 2, 4]
        .into_iter()
        .find(|&eighths| {
            let (width, height) = frame.scaled(eighths);
            enough(width, target.0) && enough(height, target.1)
        })
        .unwrap_or(8)
}

/// Bytes held at once by a decode: each component's plane, the interleaved picture, rows of coefficients,
/// and for a progressive file the coefficients kept.
fn memory(header: &Header<'_>, eighths: u32, orientation: Orientation) -> u64 {
    const BLOCK: u64 = 64 * 2;
    let frame = &header.frame;
    let (width, height) = frame.scaled(eighths);
    let pixels = u64::from(width) * u64::from(height);
    let (blocks, row) = frame.all_blocks();
    let planes = blocks * u64::from(eighths * eighths);
    // A row of units coded again for the decoder takes at most twice the bytes of its coefficients.
    let held = match is_transcoded(frame) {
        true => Coefficients::memory(frame, &header.scans, eighths) + 5 * row * BLOCK,
        false => 3 * row * BLOCK,
    };
    let picture = pixels * frame.components.len().max(3) as u64;
    let turned = orientation::memory(orientation, pixels);
    let profile: usize = header.profile.iter().map(|(.., data)| data.len()).sum();
    let color = color::memory(profile);
    let decoding = planes + picture + held + DECODER;
    let decoding = if frame.components.len() == 4 { decoding + color } else { decoding };
    decoding.max(picture + turned).max(picture + color)
}

fn typed(error: Error) -> PhotoError {
    use UnsupportedFeature as U;
    match error {
        Error::Io(error) => PhotoError::from_io(Format::Jpeg, &error),
        Error::Format(detail) => PhotoError::corrupt(Format::Jpeg, plain(&detail)),
        Error::Internal(error) => PhotoError::corrupt(Format::Jpeg, error),
        Error::Unsupported(feature) => PhotoError::unsupported(
            Format::Jpeg,
            match feature {
                U::Hierarchical => "hierarchical coding".to_owned(),
                U::ArithmeticEntropyCoding => "arithmetic coding".to_owned(),
                U::SamplePrecision(bits) => format!("{bits}-bit samples"),
                U::ComponentCount(count) => format!("{count} components"),
                U::DNL => "a height given after the picture".to_owned(),
                U::SubsamplingRatio | U::NonIntegerSubsamplingRatio => {
                    "an uneven chroma subsampling".to_owned()
                }
                U::ColorTransform(transform) => format!("the colour transform {transform:?}"),
            },
        ),
    }
}

/// Replaces messages of the decoder that only readers of its code understand.
fn plain(words: &str) -> &str {
    if words.ends_with("was expected") {
        "a restart marker is missing"
    } else if words.contains("huffman code") {
        "a Huffman code is not in its table"
    } else {
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::Component;

    fn frame(width: u32, height: u32) -> Frame<'static> {
        let component = |id, factor| Component::new(id, factor, factor, 0);
        let components = vec![component(1, 2), component(2, 1), component(3, 1)];
        Frame { width, height, progressive: false, components }
    }

    #[test]
    fn scale_keeps_twice_the_target() {
        for (size, target, expected) in [
            ((8000, 6000), (300, 300), 1),
            ((4000, 3000), (300, 300), 2),
            ((4800, 4800), (300, 300), 1),
            ((4792, 4792), (300, 300), 2),
            ((1200, 1200), (300, 300), 4),
            ((1198, 1198), (300, 300), 8),
            ((8000, 600), (300, 300), 8),
            ((400, 500), (300, 300), 8),
            ((1, 65535), (1, 1), 8),
            ((2, 65535), (1, 1), 8),
        ] {
            let frame = frame(size.0, size.1);
            let found = eighths(&frame, target);
            assert_eq!(found, expected, "{size:?} {target:?}");
            let (width, height) = frame.scaled(found);
            let enough = width >= 2 * target.0 && height >= 2 * target.1;
            assert!(enough || found == 8, "{size:?} {target:?}");
        }
    }

    /// 4:2:0 of 20×17 pixels: 2×2 units; chroma of 10×9 pixels is 2×2 blocks, luma of its own 3×3.
    #[test]
    fn blocks_are_padded_only_between_components() {
        let frame = frame(20, 17);
        assert_eq!(frame.units(), (2, 2));
        assert_eq!((frame.padded(0), frame.own(0)), ((4, 4), (3, 3)));
        assert_eq!((frame.padded(1), frame.own(1)), ((2, 2), (2, 2)));
        assert_eq!(frame.all_blocks(), (24, 12));
    }
}
