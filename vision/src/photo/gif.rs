//! GIF decoder: the first frame on a white canvas of the whole picture's size. Large pictures are averaged
//! down row by row. Later frames, comments and profiles are not read.

use super::Decoded;
use super::error::PhotoError;
use super::format::Format;
use super::limits::Limits;
use super::orientation::Orientation;
use super::shrink::{self, Rows, Shrink};
use gif::{DecodeOptions, Decoder, DecodingError, Frame, MemoryLimit};
use std::num::NonZeroU64;

/// Most bytes that the decoder may keep of application extensions.
const METADATA: NonZeroU64 = NonZeroU64::MIN.saturating_add(2 << 20);

/// Bytes of the decoder's code table and buffers.
const DECODER: u64 = 64 << 10;

/// Decodes a GIF's first frame. The format has no orientation.
pub(super) fn decode(
    bytes: &[u8],
    target: (u32, u32),
    limits: &Limits,
) -> Result<Decoded, PhotoError> {
    let mut options = DecodeOptions::new();
    options.set_memory_limit(MemoryLimit::Bytes(METADATA));
    // Extensions that nobody knows are skipped, as in browsers.
    options.allow_unknown_blocks(true);
    let mut decoder = options.read_info(bytes).map_err(typed)?;
    let screen = (u32::from(decoder.width()), u32::from(decoder.height()));
    if screen.0 > 0 && screen.1 > 0 {
        limits.check_size(Format::Gif, screen.0, screen.1)?;
    }
    let frame = decoder.next_frame_info().map_err(typed)?.cloned();
    let frame = frame.ok_or_else(|| PhotoError::corrupt(Format::Gif, "it has no frame"))?;
    limits.check_size(Format::Gif, frame.width.into(), frame.height.into())?;
    // A screen that is too small for its first frame is enlarged to it, as browsers do.
    let with_frame =
        |side: u32, start: u16, length: u16| side.max(u32::from(start) + u32::from(length));
    let width = with_frame(screen.0, frame.left, frame.width);
    let height = with_frame(screen.1, frame.top, frame.height);
    limits.check_size(Format::Gif, width, height)?;
    let factor = shrink::factor((width, height), target);
    let indices = u64::from(frame.width) * u64::from(frame.height);
    let shrunk = Shrink::memory(width, height, factor, Rows::InOrder) + u64::from(width) * 3;
    limits.check_memory(shrunk + indices + DECODER)?;

    let mut indices = vec![0; usize::from(frame.width) * usize::from(frame.height)];
    decoder.read_into_buffer(&mut indices).map_err(typed)?;
    let mut shrink = Shrink::new(width, height, factor, Rows::InOrder);
    draw(&decoder, &frame, &indices, (width, height), &mut shrink)?;
    let photo = shrink.finish();
    let photo = photo.ok_or_else(|| PhotoError::corrupt(Format::Gif, "pixels are missing"))?;
    Ok(Decoded { photo, orientation: Orientation::Upright, color: None })
}

/// Draws the part of `frame` that lies on the canvas. Transparent pixels stay white, as in a browser on a
/// white page. An index beyond the palette is black.
fn draw(
    decoder: &Decoder<&[u8]>,
    frame: &Frame<'_>,
    indices: &[u8],
    (width, height): (u32, u32),
    shrink: &mut Shrink,
) -> Result<(), PhotoError> {
    let mut palette = [[0; 3]; 256];
    let colours = frame.palette.as_deref().map_or_else(|| decoder.palette(), Ok).map_err(typed)?;
    palette.iter_mut().zip(colours.as_chunks().0).for_each(|(to, from)| *to = *from);
    let mut lines = indices.chunks_exact(usize::from(frame.width));
    let mut row = vec![[255; 3]; width as usize];
    for y in 0..height as usize {
        row.fill([255; 3]);
        let line = if y >= usize::from(frame.top) { lines.next() } else { None };
        let pixels = row.iter_mut().skip(frame.left.into());
        for (pixel, &index) in pixels.zip(line.unwrap_or_default()) {
            if frame.transparent != Some(index) {
                *pixel = palette[usize::from(index)];
            }
        }
        shrink.add(y, 0, 1, &row);
    }
    Ok(())
}

fn typed(error: DecodingError) -> PhotoError {
    match error {
        DecodingError::Io(error) => PhotoError::from_io(Format::Gif, &error),
        DecodingError::UnexpectedEof => PhotoError::Truncated { format: Format::Gif },
        DecodingError::MemoryLimit => {
            PhotoError::unsupported(Format::Gif, format!("more than {METADATA} bytes of metadata"))
        }
        DecodingError::Format(error) => PhotoError::corrupt(Format::Gif, error),
        error => PhotoError::corrupt(Format::Gif, error),
    }
}
