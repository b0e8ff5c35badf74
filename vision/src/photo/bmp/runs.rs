//! Decodes BMP run lengths of 4 and 8 bits per pixel to palette indices. The palette is read in `header`.

use crate::photo::error::PhotoError;
use crate::photo::format::Format;

/// The palette indices of a picture, in the order of the file's rows; `None` for pixels that the runs skip,
/// which browsers leave transparent. `width` and `height` are at least 1 and within the limits.
///
/// # Errors
/// [`PhotoError::Truncated`] if the data ends before the picture does, without an end mark.
pub(super) fn indices(
    data: &[u8],
    bits: u32,
    width: usize,
    height: usize,
) -> Result<Vec<Option<u8>>, PhotoError> {
    let mut indices = vec![None; width * height];
    let (mut x, mut y) = (0, 0);
    let mut rest = data;
    while y < height {
        let Some((&[count, value], after)) = rest.split_first_chunk() else {
            // The end mark may be missing if all rows are complete.
            let is_whole = y + 1 == height && x >= width;
            let truncated = PhotoError::Truncated { format: Format::Bmp };
            return if is_whole { Ok(indices) } else { Err(truncated) };
        };
        rest = after;
        let mut put = |value: u8| {
            if x < width {
                indices[y * width + x] = Some(value);
            }
            x += 1;
        };
        match (count, value) {
            (0, 0) => (x, y) = (0, y + 1),
            (0, 1) => break,
            (0, 2) => {
                let Some((&[right, up], after)) = rest.split_first_chunk() else { continue };
                (x, y, rest) = (x + usize::from(right), y + usize::from(up), after);
            }
            (0, count) => {
                let bytes = (usize::from(count) * bits as usize).div_ceil(8);
                // A literal stretch is padded to an even length.
                let Some((stretch, after)) = rest.split_at_checked(bytes) else {
                    return Err(PhotoError::Truncated { format: Format::Bmp });
                };
                rest = after.get(bytes % 2..).unwrap_or_default();
                for at in 0..usize::from(count) {
                    put(match bits {
                        4 => stretch[at / 2] >> (4 - at % 2 * 4) & 15,
                        _ => stretch[at],
                    });
                }
            }
            (count, value) => {
                for at in 0..count {
                    put(if bits == 4 { value >> (4 - at % 2 * 4) & 15 } else { value });
                }
            }
        }
    }
    Ok(indices)
}
