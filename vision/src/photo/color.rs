//! Colour profiles to sRGB, which is what models are trained on and what a browser's canvas gives. The profile
//! is read beside the decode and applied once to the photo it returns, which is small by then.
//!
//! A profile that cannot be read, or is made for other channels than the file has, is ignored as browsers do.

use super::picture::Photo;
use moxcms::{
    Chromaticity, CicpColorPrimaries, CicpProfile, ColorPrimaries, ColorProfile, DataColorSpace,
    Layout, MatrixCoefficients, RenderingIntent, ToneReprCurve, TransferCharacteristics,
    Transform8BitExecutor, TransformOptions, XyY, curve_from_gamma,
};
use std::sync::Arc;

/// Largest profile that is read, in bytes. Those of cameras and editors have up to 600 KB, most below 4.
pub(super) const MAX_PROFILE: usize = 2 << 20;

/// What a photo's numbers mean, where that is not sRGB.
#[derive(Debug)]
pub(super) struct Color(Box<ColorProfile>);

/// Bytes that reading a profile of `length` bytes and converting by it take: the file's own, its curves and tables as
/// floats, and where it is long enough to have tables, the grid that colours are looked up in and what makes it.
pub(super) fn memory(length: usize) -> u64 {
    /// Profiles of curves alone are mostly shorter.
    const CURVES: usize = 8 << 10;
    let fixed = match length {
        0 => return 0,
        1..=CURVES => 512 << 10,
        _ => 4 << 20,
    };
    (length.min(MAX_PROFILE) as u64) * 5 + fixed
}

/// What samples a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    Grey,
    Rgb,
    Cmyk,
}

/// The colours of an ICC profile for a file of such `channels`; `None` for a profile that is ignored.
pub(super) fn from_icc(bytes: &[u8], channels: Channels) -> Option<Color> {
    if bytes.len() > MAX_PROFILE {
        return None;
    }
    let profile = ColorProfile::new_from_slice(bytes).ok()?;
    let fits = match profile.color_space {
        DataColorSpace::Rgb => channels != Channels::Cmyk,
        DataColorSpace::Gray => channels == Channels::Grey,
        DataColorSpace::Cmyk => channels == Channels::Cmyk,
        _ => false,
    };
    fits.then(|| Color(Box::new(profile)))
}

/// The colours of code points (ITU-T H.273): primaries and transfer. `None` for sRGB and for what is unknown.
///
/// The curve of video (transfers 1, 6, 14 and 15) is taken as displays show it, 2.4 (ITU-R BT.1886), as browsers do.
pub(super) fn from_cicp(primaries: u8, transfer: u8) -> Option<Color> {
    let color_primaries = CicpColorPrimaries::try_from(primaries).ok()?;
    let transfer_characteristics = TransferCharacteristics::try_from(transfer).ok()?;
    if (primaries, transfer) == (1, 13) {
        return None;
    }
    let mut profile = ColorProfile::new_from_cicp(CicpProfile {
        color_primaries,
        transfer_characteristics,
        matrix_coefficients: MatrixCoefficients::Identity,
        full_range: true,
    });
    if matches!(transfer, 1 | 6 | 14 | 15) {
        set_gamma(&mut profile, 2.4);
    }
    Some(Color(Box::new(profile)))
}

/// Gives the profile a pure power as its curve.
fn set_gamma(profile: &mut ColorProfile, gamma: f32) {
    let curve: ToneReprCurve = curve_from_gamma(gamma);
    profile.cicp = None;
    profile.red_trc = Some(curve.clone());
    profile.green_trc = Some(curve.clone());
    profile.blue_trc = Some(curve);
}

/// The colours of a PNG's gAMA and cHRM: `gamma` the exponent that encodes, such as 0.45455; white, red, green
/// and blue as x and y, sRGB's where they are not given. `None` without a usable gamma, where browsers read past
/// the points, and where all is sRGB's as near as the chunks can say.
pub(super) fn from_chunks(gamma: Option<f32>, points: Option<[(f32, f32); 4]>) -> Option<Color> {
    let near = |a: f32, b: f32| (a - b).abs() < 0.005;
    let gamma = gamma.filter(|gamma| *gamma > 0.05 && *gamma < 20.0)?;
    let points = points.filter(|points| {
        let all = points.iter().zip(SRGB_POINTS);
        !all.into_iter().all(|((x, y), (sx, sy))| near(*x, sx) && near(*y, sy))
    });
    // So programs write sRGB for readers that do not know its chunk (PNG specification, third edition, 11.3.2.5).
    if points.is_none() && near(gamma, 0.45455) {
        return None;
    }
    let mut profile = ColorProfile::new_srgb();
    if let Some([white, red, green, blue]) = points {
        if [white, red, green, blue].iter().any(|(x, y)| !(*x > 0.0 && *y > 0.0 && x + y <= 1.0)) {
            return None;
        }
        let point = |(x, y): (f32, f32)| Chromaticity::new(x, y);
        let white = XyY::new(white.0.into(), white.1.into(), 1.0);
        let primaries = ColorPrimaries { red: point(red), green: point(green), blue: point(blue) };
        profile.update_rgb_colorimetry(white, primaries);
    }
    set_gamma(&mut profile, 1.0 / gamma);
    Some(Color(Box::new(profile)))
}

/// White, red, green and blue of sRGB.
const SRGB_POINTS: [(f32, f32); 4] = [(0.3127, 0.329), (0.64, 0.33), (0.3, 0.6), (0.15, 0.06)];

/// `photo` in sRGB. As it is where the profile cannot be applied.
pub(super) fn to_srgb(mut photo: Photo, color: Option<&Color>) -> Photo {
    if let Some(converter) = color.and_then(Converter::new) {
        converter.convert(photo.pixels_mut());
    }
    photo
}

/// A profile made ready to convert samples.
pub(super) struct Converter {
    transform: Arc<Transform8BitExecutor>,
    channels: Channels,
}

/// Pixels that are converted at once.
const STRETCH: usize = 1024;

impl Converter {
    /// `None` where the profile cannot be applied.
    pub(super) fn new(Color(profile): &Color) -> Option<Self> {
        // Matters to look-up tables only, of which browsers take the first, which is this one's.
        let rendering_intent = RenderingIntent::Perceptual;
        let options = TransformOptions { rendering_intent, ..TransformOptions::default() };
        let (channels, layout) = match profile.color_space {
            DataColorSpace::Gray => (Channels::Grey, Layout::Gray),
            DataColorSpace::Cmyk => (Channels::Cmyk, Layout::Rgba),
            _ => (Channels::Rgb, Layout::Rgb),
        };
        let srgb = ColorProfile::new_srgb();
        let transform = profile.create_transform_8bit(layout, &srgb, Layout::Rgb, options).ok()?;
        Some(Self { transform, channels })
    }

    /// Converts RGB, or grey stored as RGB, in place.
    pub(super) fn convert(&self, rgb: &mut [u8]) {
        // A transform reads from one place and writes to another: a stretch at a time through a copy.
        let mut from = [0; 3 * STRETCH];
        for pixels in rgb.chunks_mut(from.len()) {
            let samples = if self.channels == Channels::Grey {
                let greys = pixels.iter().step_by(3);
                from.iter_mut().zip(greys).for_each(|(to, grey)| *to = *grey);
                pixels.len() / 3
            } else {
                from[..pixels.len()].copy_from_slice(pixels);
                pixels.len()
            };
            if self.transform.transform(&from[..samples], pixels).is_err() {
                return;
            }
        }
    }

    /// Converts what lies under alpha, in place: red, green and blue of four samples a pixel, grey of two.
    pub(super) fn convert_under_alpha(&self, samples: &mut [u8], channels: usize) {
        let mut colors = [[0; 3]; STRETCH];
        for pixels in samples.chunks_mut(channels * STRETCH) {
            let colors = &mut colors[..pixels.len() / channels];
            for (color, pixel) in colors.iter_mut().zip(pixels.chunks_exact(channels)) {
                *color = match pixel {
                    [r, g, b, _] => [*r, *g, *b],
                    other => [other.first().copied().unwrap_or_default(); 3],
                };
            }
            self.convert(colors.as_flattened_mut());
            for ([red, green, blue], pixel) in colors.iter().zip(pixels.chunks_exact_mut(channels))
            {
                match pixel {
                    [r, g, b, _] => [*r, *g, *b] = [*red, *green, *blue],
                    // Grey stays grey.
                    [grey, ..] => *grey = *green,
                    [] => {}
                }
            }
        }
    }

    /// Cyan, magenta, yellow and black, 255 full ink, to RGB in the same memory.
    pub(super) fn narrow_cmyk(&self, mut samples: Vec<u8>) -> Vec<u8> {
        let count = samples.len() / 4;
        let mut from = [0; 4 * STRETCH];
        for first in (0..count).step_by(STRETCH) {
            let pixels = STRETCH.min(count - first);
            let from = &mut from[..pixels * 4];
            from.copy_from_slice(&samples[first * 4..][..pixels * 4]);
            // Behind the reading, which is at 4 bytes a pixel.
            let to = &mut samples[first * 3..][..pixels * 3];
            if self.transform.transform(from, to).is_err() {
                break;
            }
        }
        samples.truncate(count * 3);
        samples
    }
}
