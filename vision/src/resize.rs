//! Resamples a photo or a part of it: with antialiasing as Pillow does, or without (`sample`) as TensorFlow
//! and OpenCV do. Which part a model sees is decided in `view`.

mod sample;

use crate::card::Filter;
use crate::photo::{Extent, Photo};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use thiserror::Error;

/// Largest side a photo may be resized to, in pixels.
pub const MAX_SIDE: u32 = 16384;

/// Why a photo cannot be resized.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ResizeError {
    /// A side is 0 or above [`MAX_SIDE`].
    #[error("a photo cannot be resized to {width}x{height}: a side is 1 to {MAX_SIDE} pixels")]
    Size {
        /// The requested width.
        width: u32,
        /// The requested height.
        height: u32,
    },
    /// The resampling library reported an error: a bug of this crate, whatever the photo.
    #[error("the photo could not be resized: {detail}: report this photo's size as a bug")]
    Resampler {
        /// The library's message.
        detail: String,
    },
}

/// Resamples `photo` to `width` × `height` pixels with a Lanczos kernel of 3 lobes whose support is scaled
/// by the reduction. The result is within 1 level of Pillow's `Image.resize(size, LANCZOS)`.
///
/// # Errors
/// [`ResizeError::Size`] for a side of 0 or above [`MAX_SIDE`].
pub fn resize(photo: &Photo, width: u32, height: u32) -> Result<Photo, ResizeError> {
    let Extent { left, top, width: across, height: down } = photo.extent();
    resize_part(photo, (left, top, across, down), (width, height), Filter::Lanczos, true)
}

/// Resamples the part of `photo` given by left, top, width and height, in pixels, to a width and height.
/// The kernel also reads pixels beside the part, as with Pillow's `resize(size, box=…)`.
///
/// # Errors
/// [`ResizeError::Size`] for a side of 0 or above [`MAX_SIDE`].
pub(crate) fn resize_part(
    photo: &Photo,
    (left, top, covered_width, covered_height): (f64, f64, f64, f64),
    (width, height): (u32, u32),
    filter: Filter,
    antialias: bool,
) -> Result<Photo, ResizeError> {
    if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
        return Err(ResizeError::Size { width, height });
    }
    let part = (left, top, covered_width, covered_height);
    let filter = match (filter, antialias) {
        (Filter::Lanczos, _) => FilterType::Lanczos3,
        (Filter::Bicubic, true) => FilterType::CatmullRom,
        (Filter::Bilinear, true) => FilterType::Bilinear,
        (Filter::Bicubic | Filter::Bilinear | Filter::Nearest, _) => {
            return sample::sample(photo, part, (width, height), filter)
                .ok_or_else(|| fault("no pixels came back"));
        }
    };
    let rows = f64::from(photo.height());
    // Horizontally first, then vertically, as Pillow up to version 12 does. The order affects the result,
    // because the samples between the passes are rounded to 8 bits.
    let source = view(photo.width(), photo.height(), photo.pixels())?;
    let across = (left, 0.0, covered_width, rows);
    let across = pass(&source, (width, photo.height()), across, filter)?;
    let part = (0.0, top, f64::from(width), covered_height);
    let down = pass(&view(width, photo.height(), &across)?, (width, height), part, filter)?;
    Photo::from_rgb(width, height, down)
        .ok_or_else(|| fault(format!("{width}x{height} pixels did not come back")))
}

/// The pixels in the resampler's type. Naming the pixel type here keeps the resampler's code for its twelve
/// other types out of the binary.
fn view(width: u32, height: u32, pixels: &[u8]) -> Result<TypedImageRef<'_, U8x3>, ResizeError> {
    TypedImageRef::from_buffer(width, height, pixels).map_err(fault)
}

/// Resamples the part of `source` given by left, top, width and height to `size`.
fn pass(
    source: &TypedImageRef<'_, U8x3>,
    size: (u32, u32),
    (left, top, width, height): (f64, f64, f64, f64),
    filter: FilterType,
) -> Result<Vec<u8>, ResizeError> {
    let mut pixels = vec![0; size.0 as usize * size.1 as usize * 3];
    let mut target = TypedImage::from_buffer(size.0, size.1, &mut pixels).map_err(fault)?;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        .use_alpha(false)
        .crop(left, top, width, height);
    // `Resizer::new` chooses the best available instructions: AVX2, NEON, or simd128 in WebAssembly.
    Resizer::new().resize_typed(source, &mut target, &options).map_err(fault)?;
    Ok(pixels)
}

fn fault(detail: impl ToString) -> ResizeError {
    ResizeError::Resampler { detail: detail.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::{Random, difference, reference};

    /// Compares with Pillow's results (`tests/reference/make.py`) on noise, the hardest input. In the last
    /// two rows the photo covers its grid in part, as scaled decodes return it.
    #[test]
    fn is_pillows_lanczos_within_one_level() {
        let whole = |width: u32, height: u32| (0.0, 0.0, f64::from(width), f64::from(height));
        for (size, target, covered, name) in [
            ((160, 120), (75, 75), whole(160, 120), "160x120_75x75"),
            ((60, 45), (75, 75), whole(60, 45), "60x45_75x75"),
            ((500, 333), (64, 48), whole(500, 333), "500x333_64x48"),
            ((7, 5), (20, 30), whole(7, 5), "7x5_20x30"),
            ((75, 74), (75, 75), whole(75, 74), "75x74_75x75"),
            ((1, 1), (4, 3), whole(1, 1), "1x1_4x3"),
            (
                (168, 126),
                (75, 75),
                (0.0, 0.0, 167.625, 125.375),
                "168x126_75x75_of_0_0_167.625_125.375",
            ),
            (
                (168, 126),
                (75, 75),
                (0.375, 0.625, 167.625, 125.375),
                "168x126_75x75_of_0.375_0.625_168_126",
            ),
        ] {
            let pixels = Random(u64::from(size.0)).bytes((size.0 * size.1 * 3) as usize);
            let (left, top, width, height) = covered;
            let photo = Photo::from_rgb(size.0, size.1, pixels).unwrap().covering(width, height);
            let photo = if left > 0.0 || top > 0.0 { from_the_end(photo) } else { photo };
            let extent = photo.extent();
            assert_eq!((extent.left, extent.top), (left, top), "{name}");
            let resized = resize(&photo, target.0, target.1).unwrap();
            let expected = reference(&format!("lanczos_{name}.rgb"));
            let (most, mean) = difference(resized.pixels(), &expected);
            println!("{name}: largest difference {most}, mean {mean:.4}");
            assert!(most <= 1 && mean < 0.05, "{name}: largest difference {most}, mean {mean}");
        }
    }

    /// Moves the covered part to the lower right without moving pixels.
    fn from_the_end(photo: Photo) -> Photo {
        let turned = photo.mirrored().flipped();
        let mut pixels = turned.pixels().to_vec();
        pixels.as_chunks_mut::<3>().0.reverse();
        let mut back = turned;
        back.pixels_mut().copy_from_slice(&pixels);
        back
    }

    #[test]
    fn same_size_is_a_copy() {
        let photo = Photo::from_rgb(9, 7, Random(1).bytes(189)).unwrap();
        assert_eq!(resize(&photo, 9, 7).unwrap(), photo);
    }

    /// Every extent that a decode can return is resampled without an error.
    #[test]
    fn any_covered_part_is_resampled() {
        let mut random = Random(5);
        for _ in 0..300 {
            let side = |random: &mut Random| 1 + random.below(40) as u32;
            let (width, height, factor) = (side(&mut random), side(&mut random), side(&mut random));
            let pixels = random.bytes((width * height * 3) as usize);
            let exact = |side: u32| f64::from(side - 1) + 1.0 / f64::from(factor);
            let photo = Photo::from_rgb(width, height, pixels).unwrap();
            let photo = photo.covering(exact(width), exact(height)).mirrored().flipped();
            let resized = resize(&photo, side(&mut random), side(&mut random));
            assert!(resized.is_ok(), "{width}x{height} {:?}: {resized:?}", photo.extent());
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let photo = Photo::from_rgb(1, 1, vec![0; 3]).unwrap();
        for (width, height) in [(0, 5), (5, 0), (MAX_SIDE + 1, 5), (5, u32::MAX)] {
            let error = resize(&photo, width, height).unwrap_err();
            assert_eq!(error, ResizeError::Size { width, height });
        }
    }
}
