//! PNG decoder: all colour types and depths, interlaced or not. Large pictures are averaged down row by row.
//! Texts and the further frames of an animation are skipped.

mod chunks;

use super::channels::{over_white, rgb_from_rgba};
use super::color::{self, Channels, Converter};
use super::error::PhotoError;
use super::format::Format;
use super::limits::Limits;
use super::orientation::{self, Orientation};
use super::shrink::{self, Rows, Shrink};
use super::{Colors, Decoded};
use png::{ColorType, Decoder, DecodingError, Transformations};
use std::io::Cursor;

/// Most bytes that the decoder may hold besides rows: palette, EXIF, chunk buffer.
const METADATA: usize = 2 << 20;

/// Bytes of the inflater's window and the decoder's buffers.
const DECODER: u64 = 512 << 10;

/// Decodes a PNG.
pub(super) fn decode(
    bytes: &[u8],
    target: (u32, u32),
    limits: &Limits,
    colors: Colors,
) -> Result<Decoded, PhotoError> {
    if bytes.get(12..16) == Some(b"CgBI") {
        return Err(PhotoError::unsupported(
            Format::Png,
            "the form that Xcode gives PNGs inside iPhone apps (CgBI)",
        ));
    }
    let row_limit = limits.max_side as usize * 8;
    let mut decoder = Decoder::new_with_limits(
        Cursor::new(bytes),
        png::Limits { bytes: METADATA.saturating_add(row_limit) },
    );
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let info = decoder.read_header_info().map_err(typed)?;
    let (width, height) = info.size();
    let rows = if info.interlaced { Rows::Scattered } else { Rows::InOrder };
    limits.check_size(Format::Png, width, height)?;
    let channels = match info.color_type {
        ColorType::Grayscale | ColorType::GrayscaleAlpha => Channels::Grey,
        ColorType::Rgb | ColorType::Indexed | ColorType::Rgba => Channels::Rgb,
    };
    let is_alpha = matches!(info.color_type, ColorType::GrayscaleAlpha | ColorType::Rgba);
    let chunks = chunks::walk(bytes)?;
    if let Some(name) = chunks.high_dynamic_range().filter(|_| colors == Colors::Srgb) {
        let feature = format!("colours of high dynamic range ({name})");
        return Err(PhotoError::unsupported(Format::Png, feature));
    }
    let orientation = chunks.exif.map_or(Orientation::Upright, orientation::from_exif);
    let factor = shrink::factor((width, height), orientation::in_file(orientation, target));
    let shrunk = u64::from(width.div_ceil(factor)) * u64::from(height.div_ceil(factor));
    let turning = shrunk * 3 + orientation::memory(orientation, shrunk);
    // Packed, unfiltered, expanded and RGB rows, with up to 16 bits per sample before they are truncated.
    let decoding = Shrink::memory(width, height, factor, rows) + u64::from(width) * 40 + DECODER;
    // With alpha, colours are converted row by row before blending; otherwise after decoding.
    let is_first = colors == Colors::Srgb && (is_alpha || chunks.has_transparency);
    let profile = color::memory(chunks.profile.map_or(0, |_| color::MAX_PROFILE));
    let converting = if is_first { decoding + profile } else { shrunk * 3 + profile };
    limits.check_memory(decoding.max(turning).max(converting))?;

    let converter = match is_first {
        true => chunks.color(channels).as_ref().and_then(Converter::new),
        false => None,
    };
    let mut shrink = Shrink::new(width, height, factor, rows);
    read_rows(decoder, &mut shrink, rows, converter.as_ref())?;
    let photo = shrink.finish();
    let photo = photo.ok_or_else(|| PhotoError::corrupt(Format::Png, "pixels are missing"))?;
    let color = if is_first { None } else { chunks.color(channels) };
    Ok(Decoded { photo, orientation, color })
}

/// One pass over a picture: its first column and row, and the steps between columns and between rows.
struct Pass {
    left: usize,
    top: usize,
    across: usize,
    down: usize,
}

const fn pass(left: usize, top: usize, across: usize, down: usize) -> Pass {
    Pass { left, top, across, down }
}

/// The only pass of a picture that is not interlaced.
const WHOLE: [Pass; 1] = [pass(0, 0, 1, 1)];

/// The passes of Adam7 interlacing (PNG specification, third edition, 8.1).
const ADAM7: [Pass; 7] = [
    pass(0, 0, 8, 8),
    pass(4, 0, 8, 8),
    pass(0, 4, 4, 8),
    pass(2, 0, 4, 4),
    pass(0, 2, 2, 4),
    pass(1, 0, 2, 2),
    pass(0, 1, 1, 2),
];

/// Reads exactly the rows of the picture; reading another would inflate the data after them.
fn read_rows(
    decoder: Decoder<Cursor<&[u8]>>,
    shrink: &mut Shrink,
    rows: Rows,
    converter: Option<&Converter>,
) -> Result<(), PhotoError> {
    let mut reader = decoder.read_info().map_err(typed)?;
    let (width, height) = reader.info().size();
    let (width, height) = (width as usize, height as usize);
    if reader.info().frame_control.is_some_and(|f| (f.width, f.height) != reader.info().size()) {
        return Err(PhotoError::corrupt(Format::Png, "its first frame has another size"));
    }
    let color = reader.output_color_type().0;
    let has_alpha = matches!(color, ColorType::GrayscaleAlpha | ColorType::Rgba);
    let line = reader.output_line_size(reader.info().width);
    let mut line = vec![0; line.ok_or_else(|| PhotoError::corrupt(Format::Png, "row length"))?];
    let mut rgb = Vec::with_capacity(width);
    let passes = if rows == Rows::Scattered { &ADAM7[..] } else { &WHOLE };
    for pass in passes {
        let columns = width.saturating_sub(pass.left).div_ceil(pass.across);
        if columns == 0 {
            continue;
        }
        for y in (pass.top..height).step_by(pass.down) {
            reader.read_row(&mut line).map_err(typed)?;
            if let (Some(converter), true) = (converter, has_alpha) {
                converter.convert_under_alpha(&mut line, color.samples());
            }
            to_rgb(&line, color, columns, &mut rgb);
            // The decoder ignores a malformed tRNS chunk; the rows then have no alpha.
            if let (Some(converter), false) = (converter, has_alpha) {
                converter.convert(rgb.as_flattened_mut());
            }
            shrink.add(y, pass.left, pass.across, &rgb);
        }
    }
    Ok(())
}

/// The first `columns` pixels of a row of 8-bit samples, with alpha blended over white.
fn to_rgb(line: &[u8], color: ColorType, columns: usize, rgb: &mut Vec<[u8; 3]>) {
    rgb.clear();
    match color {
        ColorType::Grayscale => rgb.extend(line.iter().take(columns).map(|&grey| [grey; 3])),
        ColorType::GrayscaleAlpha => {
            let pixels = line.as_chunks().0.iter().take(columns);
            rgb.extend(pixels.map(|&[grey, alpha]| [over_white(grey, alpha); 3]));
        }
        // The decoder has expanded palettes to RGB or RGBA.
        ColorType::Rgb | ColorType::Indexed => rgb.extend(line.as_chunks().0.iter().take(columns)),
        ColorType::Rgba => {
            rgb.extend(line.as_chunks().0.iter().take(columns).map(|&pixel| rgb_from_rgba(pixel)));
        }
    }
}

fn typed(error: DecodingError) -> PhotoError {
    match error {
        DecodingError::IoError(error) => PhotoError::from_io(Format::Png, &error),
        DecodingError::LimitsExceeded => {
            PhotoError::unsupported(Format::Png, format!("more than {METADATA} bytes of metadata"))
        }
        DecodingError::Format(error) => PhotoError::corrupt(Format::Png, plain(&error.to_string())),
        error => PhotoError::corrupt(Format::Png, error),
    }
}

/// The decoder's message without its types and checksums, such as `ChunkType { type: IEND, … }`.
fn plain(words: &str) -> String {
    let chunk = |after: &str| -> String {
        let name = after.split_once("type: ").map_or(after, |(_, name)| name);
        name.chars().take_while(char::is_ascii_alphabetic).collect()
    };
    if words.starts_with("Corrupt deflate stream") || words.contains("does not have enough data") {
        return "its compressed pixels are damaged or end early".to_owned();
    }
    if let Some((_, after)) = words.split_once("while decoding ") {
        return format!("the checksum of its chunk {} is wrong", chunk(after));
    }
    let words = match words.split_once("ChunkType { ") {
        Some((before, after)) => {
            let rest = after.split_once('}').map_or("", |(_, rest)| rest);
            format!("{before}{}{rest}", chunk(after))
        }
        None => words.to_owned(),
    };
    words.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn the_decoders_words_become_plain() {
        for (words, expected) in [
            (
                "CRC error: expected 0x1 have 0x2 while decoding ChunkType { type: IHDR, critical: true } chunk.",
                "the checksum of its chunk IHDR is wrong",
            ),
            (
                "CRC error: expected 0x1 have 0x2 while decoding IDAT chunk.",
                "the checksum of its chunk IDAT is wrong",
            ),
            (
                "Corrupt deflate stream. InsufficientInput",
                "its compressed pixels are damaged or end early",
            ),
            (
                "Chunk ChunkType { type: PLTE, critical: true } must appear at most once.",
                "Chunk PLTE must appear at most once",
            ),
            ("Invalid bit depth 3.", "Invalid bit depth 3"),
        ] {
            assert_eq!(plain(words), expected);
        }
    }
}
