//! The view: the part of a photo that a model sees, at the model's size, as the card describes it. Also
//! says where that part lies on the photo, so that a heatmap can be drawn over the whole photo. The
//! resampling itself is in `resize`.

use serde::Serialize;

use crate::card::{Filter, Fit, Input, Resize};
use crate::photo::{self, Colors, Extent, Limits, Photo, PhotoError};
use crate::resize::{ResizeError, resize_part};

/// A photo as a model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The pixels, at the input's size.
    pub photo: Photo,
    /// The part of the whole photo that the view shows.
    pub region: Region,
}

/// A part of a photo, in fractions of its sides from the top left; values outside 0 to 1 are padding bars.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Region {
    /// Left edge.
    pub left: f64,
    /// Top edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Region {
    /// The whole photo.
    pub const WHOLE: Self = Self { left: 0.0, top: 0.0, width: 1.0, height: 1.0 };
}

/// Decodes a photo with enough pixels for the input's resampling.
///
/// Large photos are decoded at a reduced size. Each side keeps at least so many times the pixels to which it
/// is resampled:
///
/// | filter | pixels kept | if that exceeds `limits` |
/// |---|---|---|
/// | Lanczos, not with [`Fit::Cover`] | 2 times | 2 times |
/// | others with antialiasing | 4 times | 2 times |
/// | without antialiasing, which reads single pixels | all | 8 times |
///
/// # Errors
/// As [`crate::photo::decode`].
pub fn decode(bytes: &[u8], input: &Input, limits: &Limits) -> Result<Photo, PhotoError> {
    decode_as(bytes, input, limits, Colors::Srgb)
}

/// As [`decode`], with the choice of [`Colors`].
///
/// # Errors
/// As [`crate::photo::decode_as`].
pub fn decode_as(
    bytes: &[u8],
    input: &Input,
    limits: &Limits,
    colors: Colors,
) -> Result<Photo, PhotoError> {
    match photo::decode_as(bytes, decode_target(input), limits, colors) {
        Err(PhotoError::NeedsTooMuchMemory { .. }) => {
            // Half of what is kept: see `decode_target`.
            let least = if input.resize.antialias { 1 } else { 4 };
            photo::decode_as(bytes, resized(input, least), limits, colors)
        }
        decoded => decoded,
    }
}

/// The target for [`photo::decode_as`], which keeps at least twice of it on each side.
fn decode_target(input: &Input) -> (u32, u32) {
    let Resize { filter, antialias, fit, .. } = input.resize;
    if !antialias {
        // The filter reads single pixels, so the decode must keep all of them.
        return (u32::MAX, u32::MAX);
    }
    // Averaging while decoding changes probabilities of Teachable Machine's pipeline, on the networks and
    // photos of `tests/reference/pipelines.py`, by up to 1 point at twice the pixels and by half of that at
    // four times. Four times keeps results close to pipelines that resample the whole photo.
    let detail = if filter == Filter::Lanczos && fit != Fit::Cover { 1 } else { 2 };
    resized(input, detail)
}

/// `detail` times the size to which the filter resamples.
fn resized(input: &Input, detail: u32) -> (u32, u32) {
    let (width, height) = match (input.resize.fit, input.resize.shortest) {
        (Fit::Crop | Fit::Stretch, Some(side)) => (side, side),
        // With any aspect ratio of the photo at least one side fills the input.
        _ => (input.width, input.height),
    };
    (width.saturating_mul(detail), height.saturating_mul(detail))
}

/// The view of `photo` for a model with this input.
///
/// # Errors
/// [`ResizeError`] for an input size that [`crate::card::Card::check`] refuses.
pub fn view(photo: &Photo, input: &Input) -> Result<View, ResizeError> {
    let Resize { filter, antialias, fill, .. } = input.resize;
    let extent = photo.extent();
    let place = Placement::of(&extent, input);
    let part = resize_part(photo, place.part, place.size, filter, antialias)?;
    let (width, height) = (input.width, input.height);
    let photo = if place.size == (width, height) {
        part
    } else {
        framed(&part, place.at, (width, height), fill)
    };
    Ok(View { photo, region: place.region(&extent, (width, height)) })
}

/// Which part of the photo is drawn where on the input.
struct Placement {
    /// Left, top, width and height in the photo's pixels.
    part: (f64, f64, f64, f64),
    /// Width and height of the part after resampling.
    size: (u32, u32),
    /// Column and row of the input where the part begins.
    at: (u32, u32),
}

impl Placement {
    fn of(extent: &Extent, input: &Input) -> Self {
        let whole = (extent.left, extent.top, extent.width, extent.height);
        let size = (input.width, input.height);
        let (width, height) = (f64::from(size.0), f64::from(size.1));
        let (across, down) = (extent.width, extent.height);
        match (input.resize.fit, input.resize.shortest) {
            (Fit::Crop, Some(shortest)) => {
                // 1e-9: a quotient that is whole in exact arithmetic may come out just below.
                // torchvision: int(shortest · long / short), then int(round((side − crop) / 2)).
                let short = f64::from(shortest);
                let long = |long: f64, short_side: f64| (short * long / short_side + 1e-9).floor();
                let (resized_width, resized_height) = if across <= down {
                    (short, long(down, across))
                } else {
                    (long(across, down), short)
                };
                let left = ((resized_width - width) / 2.0).round_ties_even();
                let top = ((resized_height - height) / 2.0).round_ties_even();
                let (x, y) = (across / resized_width, down / resized_height);
                let part = (extent.left + left * x, extent.top + top * y, width * x, height * y);
                Self { part, size, at: (0, 0) }
            }
            (Fit::Stretch, Some(side)) => {
                // transformers: (side - crop) // 2.
                let side = f64::from(side);
                let (left, top) = (((side - width) / 2.0).floor(), ((side - height) / 2.0).floor());
                let (x, y) = (across / side, down / side);
                let part = (extent.left + left * x, extent.top + top * y, width * x, height * y);
                Self { part, size, at: (0, 0) }
            }
            (Fit::Cover, _) if across * height > down * width => {
                let kept = down * width / height;
                let left = extent.left + (across - kept) / 2.0;
                Self { part: (left, extent.top, kept, down), size, at: (0, 0) }
            }
            (Fit::Cover, _) => {
                let kept = across * height / width;
                let top = extent.top + (down - kept) / 2.0;
                Self { part: (extent.left, top, across, kept), size, at: (0, 0) }
            }
            (Fit::Pad, _) => {
                let side = |side: f64| side.round_ties_even().max(1.0) as u32;
                let inner = if across * height > down * width {
                    (size.0, side(down / across * width))
                } else {
                    (side(across / down * height), size.1)
                };
                let inner = (inner.0.min(size.0), inner.1.min(size.1));
                let half = |room: u32| (f64::from(room) / 2.0).round_ties_even() as u32;
                let at = (half(size.0 - inner.0), half(size.1 - inner.1));
                Self { part: whole, size: inner, at }
            }
            // Stretch without `shortest`. A crop without it is refused by `Card::check`.
            _ => Self { part: whole, size, at: (0, 0) },
        }
    }

    /// The part of the whole photo that an input of `width` × `height` covers.
    fn region(&self, extent: &Extent, (width, height): (u32, u32)) -> Region {
        let (left, top, across, down) = self.part;
        let (column, row) = (across / f64::from(self.size.0), down / f64::from(self.size.1));
        Region {
            left: (left - extent.left - f64::from(self.at.0) * column) / extent.width,
            top: (top - extent.top - f64::from(self.at.1) * row) / extent.height,
            width: f64::from(width) * column / extent.width,
            height: f64::from(height) * row / extent.height,
        }
    }
}

/// `part` on a background of colour `fill`, its first pixel at column and row `at`.
fn framed(part: &Photo, at: (u32, u32), (width, height): (u32, u32), fill: [u8; 3]) -> Photo {
    let count = width as usize * height as usize;
    let mut pixels: Vec<u8> = fill.iter().copied().cycle().take(count * 3).collect();
    let (stride, row) = (width as usize * 3, part.width() as usize * 3);
    let first = at.1 as usize * stride + at.0 as usize * 3;
    let places = pixels.get_mut(first..).unwrap_or_default().chunks_mut(stride);
    for (place, source) in places.zip(part.pixels().chunks_exact(row)) {
        if let Some(place) = place.get_mut(..row) {
            place.copy_from_slice(source);
        }
    }
    // The number of bytes is right by construction, so the fallback is never used.
    Photo::from_rgb(width, height, pixels).unwrap_or_else(|| part.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::{ChannelOrder, Dtype, Layout};
    use crate::common::{Random, difference, reference};

    const WIDE: (u32, u32) = (161, 120);
    const TALL: (u32, u32) = (57, 93);
    const TINY: (u32, u32) = (7, 5);

    fn input((width, height): (u32, u32), resize: Resize) -> Input {
        Input {
            name: "x".to_owned(),
            layout: Layout::Nhwc,
            dtype: Dtype::U8,
            width,
            height,
            mean: [0.0; 3],
            std: [1.0; 3],
            order: ChannelOrder::Rgb,
            resize,
        }
    }

    fn noise((width, height): (u32, u32)) -> Photo {
        let bytes = Random(u64::from(width)).bytes((width * height * 3) as usize);
        Photo::from_rgb(width, height, bytes).unwrap()
    }

    fn resize(filter: Filter, antialias: bool, fit: Fit, shortest: Option<u32>) -> Resize {
        Resize { filter, antialias, fit, shortest, fill: [10, 20, 30] }
    }

    /// Compares views of noise, the hardest input, with results of Pillow 12, torchvision and TensorFlow
    /// (`tests/reference/views.py`). They may differ by one level, because of rounding.
    #[test]
    fn views_are_those_of_training_pipelines() {
        use Filter::{Bicubic, Bilinear, Lanczos, Nearest};
        let plain = |filter, antialias| resize(filter, antialias, Fit::Stretch, None);
        let cases: [(&str, Resize, (u32, u32)); 11] = [
            ("bicubic", plain(Bicubic, true), (48, 40)),
            ("bilinear", plain(Bilinear, true), (48, 40)),
            ("nearest", plain(Nearest, false), (48, 40)),
            ("cover", resize(Lanczos, true, Fit::Cover, None), (48, 40)),
            ("pad", resize(Bicubic, true, Fit::Pad, None), (48, 40)),
            ("crop_bilinear", resize(Bilinear, true, Fit::Crop, Some(55)), (49, 49)),
            ("crop_bicubic", resize(Bicubic, true, Fit::Crop, Some(55)), (49, 49)),
            ("squash", resize(Bicubic, true, Fit::Stretch, Some(55)), (49, 49)),
            ("sharp_bilinear", plain(Bilinear, false), (48, 40)),
            ("sharp_bicubic", plain(Bicubic, false), (48, 40)),
            ("sharp_nearest", plain(Nearest, false), (48, 40)),
        ];
        for (name, resize, size) in cases {
            for (shape, source) in [("wide", WIDE), ("tall", TALL), ("tiny", TINY)] {
                if shape == "tiny" && !name.starts_with("sharp") {
                    continue;
                }
                let seen = view(&noise(source), &input(size, resize)).unwrap().photo;
                assert_eq!((seen.width(), seen.height()), size, "{name}");
                let expected = reference(&format!("view_{name}_{shape}.rgb"));
                let (most, mean) = difference(seen.pixels(), &expected);
                println!("{name} {shape}: largest difference {most}, mean {mean:.4}");
                assert!(most <= 1 && mean < 0.05, "{name} {shape}: {most}, mean {mean}");
            }
        }
    }

    #[test]
    fn regions_say_where_the_view_lies() {
        let region =
            |source, size, resize| view(&noise(source), &input(size, resize)).unwrap().region;
        let near = |found: Region, expected: [f64; 4]| {
            let found = [found.left, found.top, found.width, found.height];
            let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
            assert!(close, "{found:?} {expected:?}");
        };
        let whole = region((40, 20), (10, 10), Resize::default());
        assert_eq!(whole, Region::WHOLE);
        let (lanczos, fit) = (Filter::Lanczos, |fit, shortest| (fit, shortest));
        for (source, (fit, shortest), expected) in [
            ((40, 20), fit(Fit::Cover, None), [0.25, 0.0, 0.5, 1.0]),
            ((20, 40), fit(Fit::Cover, None), [0.0, 0.25, 1.0, 0.5]),
            ((40, 20), fit(Fit::Crop, Some(10)), [0.25, 0.0, 0.5, 1.0]),
            ((40, 20), fit(Fit::Crop, Some(20)), [0.375, 0.25, 0.25, 0.5]),
            ((40, 20), fit(Fit::Stretch, Some(20)), [0.25, 0.25, 0.5, 0.5]),
            // Five rows of photo between two and three rows of bars: round(2.5) is 2.
            ((40, 20), fit(Fit::Pad, None), [0.0, -0.4, 1.0, 2.0]),
        ] {
            near(region(source, (10, 10), resize(lanczos, true, fit, shortest)), expected);
        }
    }

    /// A scaled decode may cover its last column and row in part. The region counts from the covered part.
    #[test]
    fn regions_count_from_the_covered_part() {
        let photo = noise((33, 21));
        let covered = photo.clone().covering(32.5, 20.25);
        for fit in [Fit::Cover, Fit::Pad, Fit::Stretch] {
            let input = input((8, 8), resize(Filter::Bilinear, true, fit, None));
            let region = view(&covered, &input).unwrap().region;
            let whole = 32.5_f64 / 20.25;
            match fit {
                Fit::Cover => assert!((region.width * whole - 1.0).abs() < 1e-9, "{region:?}"),
                Fit::Pad => assert!((region.width - 1.0).abs() < 1e-9, "{region:?}"),
                _ => assert_eq!(region, Region::WHOLE),
            }
        }
    }
}
