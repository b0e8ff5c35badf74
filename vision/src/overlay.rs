//! Draws a heatmap over its photo, or alone with transparency, and encodes the result as PNG. The photo is
//! not resized: the overlay has the size of the given photo.

use crate::gradcam::{self, Heatmap};
use crate::photo::Photo;
use thiserror::Error;

/// Opacity of the heatmap's colours in the origin app, a Django site with a Keras model.
pub const ALPHA: f32 = 0.4;

/// Why an overlay cannot be encoded.
#[derive(Debug, Error)]
pub enum OverlayError {
    /// The PNG encoder reported an error: a bug of this crate, whatever the photo.
    #[error("the overlay could not be written as PNG: {0}: report it as a bug")]
    Png(#[from] png::EncodingError),
}

/// The colours of a heatmap, matplotlib's under their names there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colormap {
    /// Blue, green, yellow, red: the origin app's, and the default.
    #[default]
    Jet,
    /// Purple to yellow; the steps look even, in grey and to colour-blind people too.
    Viridis,
    /// Black to pale yellow.
    Inferno,
    /// The rainbow of `jet` with even steps.
    Turbo,
}

impl Colormap {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Jet, Self::Viridis, Self::Inferno, Self::Turbo];

    /// Its name, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Jet => "jet",
            Self::Viridis => "viridis",
            Self::Inferno => "inferno",
            Self::Turbo => "turbo",
        }
    }

    /// Its 256 levels, R, G, B.
    #[must_use]
    pub fn levels(self) -> [[u8; 3]; 256] {
        // Written by `tests/reference/make.py`.
        let table: &[u8; 768] = match self {
            Self::Jet => return jet(),
            Self::Viridis => include_bytes!("overlay/viridis.rgb"),
            Self::Inferno => include_bytes!("overlay/inferno.rgb"),
            Self::Turbo => include_bytes!("overlay/turbo.rgb"),
        };
        let mut levels = [[0; 3]; 256];
        levels.as_flattened_mut().copy_from_slice(table);
        levels
    }
}

/// Matplotlib's `jet` with 256 levels, R, G, B.
///
/// Interpolates linearly between the published break points of `jet` (matplotlib's `_cm.py`), in the order
/// of operations of its `_create_lookup_table`. Multiplies by 255 and truncates to a byte as
/// `Colormap.__call__(…, bytes=True)` does. The bytes equal matplotlib's.
#[must_use]
pub fn jet() -> [[u8; 3]; 256] {
    const RED: [(f64, f64); 5] = [(0.0, 0.0), (0.35, 0.0), (0.66, 1.0), (0.89, 1.0), (1.0, 0.5)];
    const GREEN: [(f64, f64); 6] =
        [(0.0, 0.0), (0.125, 0.0), (0.375, 1.0), (0.64, 1.0), (0.91, 0.0), (1.0, 0.0)];
    const BLUE: [(f64, f64); 5] = [(0.0, 0.5), (0.11, 1.0), (0.34, 1.0), (0.65, 0.0), (1.0, 0.0)];
    let mut levels = [[0; 3]; 256];
    for (level, rgb) in (0_u8..=255).zip(levels.iter_mut()) {
        let at = f64::from(level) * (1.0 / 255.0) * 255.0;
        *rgb = [&RED[..], &GREEN, &BLUE].map(|points| (linear(points, at) * 255.0) as u8);
    }
    levels
}

/// Linear interpolation between `points`, whose x is 0 to 1, at x = `at` / 255.
fn linear(points: &[(f64, f64)], at: f64) -> f64 {
    for (&(x0, y0), &(x1, y1)) in points.iter().zip(points.iter().skip(1)) {
        let (x0, x1) = (x0 * 255.0, x1 * 255.0);
        if at <= x1 {
            return (at - x0) / (x1 - x0) * (y1 - y0) + y0;
        }
    }
    points.last().map_or(0.0, |&(_, y)| y)
}

/// The photo with the heatmap over it: `photo·(1 - alpha) + colour·alpha`, rounded, with the heatmap enlarged
/// to the photo's size and coloured by `colormap`. `alpha` is 0 to 1; [`ALPHA`] is the origin app's.
#[must_use]
pub fn overlay(photo: &Photo, heatmap: &Heatmap, alpha: f32, colormap: Colormap) -> Photo {
    // Fixed point with 16 fractional bits; the weights of photo and colour add up to exactly 1.
    let weight = (alpha.clamp(0.0, 1.0) * 65536.0).round() as u32;
    let left = 65536 - weight;
    let mut coloured = [[0; 3]; 256];
    for (coloured, level) in
        coloured.as_flattened_mut().iter_mut().zip(colormap.levels().as_flattened())
    {
        *coloured = u32::from(*level) * weight + 32768;
    }
    let mut blended = photo.clone();
    let values = gradcam::upsample(heatmap, photo.width(), photo.height());
    for (pixel, value) in blended.pixels_mut().as_chunks_mut::<3>().0.iter_mut().zip(values) {
        for (sample, colour) in pixel.iter_mut().zip(coloured[level(value)]) {
            *sample = ((u32::from(*sample) * left + colour) >> 16) as u8;
        }
    }
    blended
}

/// The colour level of `value`, 0 to 1, as in matplotlib: 256 equal steps, the last one including 1.
fn level(value: f32) -> usize {
    ((value * 256.0) as usize).min(255)
}

/// The heatmap alone as an 8-bit RGBA PNG of `width` times `height` pixels, to be drawn over the photo:
/// coloured by `colormap`, with its value as the opacity, so that nothing covers the photo where the value is
/// 0. The alpha is straight, not premultiplied.
///
/// # Errors
/// [`OverlayError::Png`] if the encoder reports an error.
pub fn transparent_png(
    heatmap: &Heatmap,
    (width, height): (u32, u32),
    colormap: Colormap,
) -> Result<Vec<u8>, OverlayError> {
    let levels = colormap.levels();
    let values = gradcam::upsample(heatmap, width, height).into_iter();
    let pixels: Vec<u8> = values
        .flat_map(|value| {
            let [red, green, blue] = levels[level(value)];
            [red, green, blue, (value.clamp(0.0, 1.0) * 255.0).round() as u8]
        })
        .collect();
    encode(&pixels, (width, height), png::ColorType::Rgba)
}

/// The photo as an 8-bit RGB PNG. The compression favours speed over size.
///
/// # Errors
/// [`OverlayError::Png`] if the encoder reports an error.
pub fn encode_png(photo: &Photo) -> Result<Vec<u8>, OverlayError> {
    encode(photo.pixels(), (photo.width(), photo.height()), png::ColorType::Rgb)
}

fn encode(
    pixels: &[u8],
    (width, height): (u32, u32),
    color: png::ColorType,
) -> Result<Vec<u8>, OverlayError> {
    let mut file = Vec::with_capacity(pixels.len() / 2);
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    // Paeth gives the smallest files of the fixed filters, a fifth to a quarter below `Up` for a tenth more
    // time. Choosing a filter for each row takes half as much time again and saves one percent.
    encoder.set_filter(png::Filter::Paeth);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::Basis;
    use crate::common::{Random, difference, reference};

    #[test]
    fn jet_is_matplotlibs() {
        assert_eq!(jet().as_flattened(), reference("jet.rgb"));
    }

    /// Compares with the origin app's steps in OpenCV, matplotlib and numpy (`tests/reference/make.py`).
    #[test]
    fn overlay_is_the_origin_apps_within_one_level() {
        let photo = Photo::from_rgb(40, 30, Random(40).bytes(3600)).unwrap();
        let values: Vec<f32> = Random(10).bytes(100).iter().map(|&b| f32::from(b)).collect();
        let most = values.iter().copied().fold(0.0, f32::max);
        let values = values.iter().map(|v| v / most).collect();
        let heatmap = Heatmap::new(10, 10, values, Basis::Probability).unwrap();
        let drawn = overlay(&photo, &heatmap, ALPHA, Colormap::Jet);
        let (most, mean) = difference(drawn.pixels(), &reference("overlay.rgb"));
        // Where rounding changes the level of jet by one, the colour changes by up to 4, times alpha: 2.
        assert!(most <= 2 && mean < 0.25, "largest difference {most}, mean {mean}");
    }

    #[test]
    fn alpha_ends_are_photo_and_colour() {
        let photo = Photo::from_rgb(2, 1, vec![1, 2, 3, 250, 251, 252]).unwrap();
        let heatmap = Heatmap::new(2, 1, vec![0.0, 1.0], Basis::Logit).unwrap();
        for colormap in Colormap::ALL {
            let drawn = |alpha| overlay(&photo, &heatmap, alpha, colormap);
            assert_eq!((drawn(0.0), drawn(-1.0)), (photo.clone(), photo.clone()));
            let ends = [colormap.levels()[0], colormap.levels()[255]];
            assert_eq!(drawn(1.0).pixels(), ends.as_flattened(), "{colormap:?}");
            assert_eq!(drawn(7.0).pixels(), ends.as_flattened(), "{colormap:?}");
        }
    }

    #[test]
    fn the_heatmap_alone_is_as_opaque_as_its_values() {
        let heatmap = Heatmap::new(3, 1, vec![0.0, 0.5, 1.0], Basis::Logit).unwrap();
        let file = transparent_png(&heatmap, (3, 1), Colormap::Turbo).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (3, 1, png::ColorType::Rgba));
        let levels = Colormap::Turbo.levels();
        let expected = [(0, 0), (128, 128), (255, 255)].map(|(level, alpha): (usize, u8)| {
            let [red, green, blue] = levels[level];
            [red, green, blue, alpha]
        });
        assert_eq!(pixels, expected.as_flattened());
    }

    #[test]
    fn png_keeps_every_pixel() {
        for (width, height) in [(1, 1), (300, 300), (7, 501)] {
            let pixels = Random(3).bytes((width * height * 3) as usize);
            let photo = Photo::from_rgb(width, height, pixels).unwrap();
            let file = encode_png(&photo).unwrap();
            let limits = crate::photo::Limits::default();
            assert_eq!(crate::photo::decode(&file, (width, height), &limits).unwrap(), photo);
        }
    }
}
