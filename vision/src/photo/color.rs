//! Converts colours to sRGB, which models are trained on and a browser's canvas returns. The conversion is
//! normally applied to the decoded photo, which may be much smaller than the file's picture.
//!
//! A profile that cannot be read or does not fit the file's channels is ignored, as browsers do.

use super::picture::Photo;
use moxcms::{
    Chromaticity, CicpColorPrimaries, CicpProfile, ColorPrimaries, ColorProfile, DataColorSpace,
    Layout, MatrixCoefficients, RenderingIntent, ToneReprCurve, TransferCharacteristics,
    Transform8BitExecutor, TransformOptions, XyY, curve_from_gamma,
};
use std::sync::Arc;

/// Largest profile that is read, in bytes. Profiles of cameras and editors have up to 600 KB, most below 4.
pub(super) const MAX_PROFILE: usize = 2 << 20;

/// The colour space of a photo that is not sRGB.
#[derive(Debug)]
pub(super) struct Color(Box<ColorProfile>);

/// Bytes needed to read and apply a profile of `length` bytes: the profile itself, its curves and tables as
/// floats, and for a profile that is long enough to contain tables, the look-up grid and its construction.
pub(super) fn memory(length: usize) -> u64 {
    /// Most profiles without tables are shorter.
    const CURVES: usize = 8 << 10;
    let fixed = match length {
        0 => return 0,
        1..=CURVES => 512 << 10,
        _ => 4 << 20,
    };
    (length.min(MAX_PROFILE) as u64) * 5 + fixed
}

/// The channels of a file, without alpha.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    Grey,
    Rgb,
    Cmyk,
}

/// The colours of an ICC profile for a file with these channels; `None` for a profile that is ignored.
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

/// The colours of code points for primaries and transfer (ITU-T H.273); `None` for sRGB and for unknown
/// code points.
///
/// Transfers of video (1, 6, 14 and 15) get the gamma of displays, 2.4 (ITU-R BT.1886), as in browsers.
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

/// Replaces the profile's curves by a pure power.
fn set_gamma(profile: &mut ColorProfile, gamma: f32) {
    let curve: ToneReprCurve = curve_from_gamma(gamma);
    profile.cicp = None;
    profile.red_trc = Some(curve.clone());
    profile.green_trc = Some(curve.clone());
    profile.blue_trc = Some(curve);
}

/// The colours of a PNG's gAMA and cHRM chunks. `gamma` is the encoding exponent, such as 0.45455; `points`
/// are x and y of white, red, green and blue, sRGB's by default.
///
/// `None` if there is no usable gamma (browsers then ignore the points), or if both are sRGB's within the
/// precision of the chunks.
pub(super) fn from_chunks(gamma: Option<f32>, points: Option<[(f32, f32); 4]>) -> Option<Color> {
    let near = |a: f32, b: f32| (a - b).abs() < 0.005;
    let gamma = gamma.filter(|gamma| *gamma > 0.05 && *gamma < 20.0)?;
    let points = points.filter(|points| {
        let all = points.iter().zip(SRGB_POINTS);
        !all.into_iter().all(|((x, y), (sx, sy))| near(*x, sx) && near(*y, sy))
    });
    // Writers of sRGB add this gamma for readers without the sRGB chunk (PNG specification, third edition,
    // 11.3.2.5).
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

/// White, red, green and blue of sRGB, each as x and y.
const SRGB_POINTS: [(f32, f32); 4] = [(0.3127, 0.329), (0.64, 0.33), (0.3, 0.6), (0.15, 0.06)];

/// `photo` in sRGB; unchanged if the profile cannot be applied.
pub(super) fn to_srgb(mut photo: Photo, color: Option<&Color>) -> Photo {
    if let Some(converter) = color.and_then(Converter::new) {
        converter.convert(photo.pixels_mut());
    }
    photo
}

/// A profile prepared for converting samples.
pub(super) struct Converter {
    transform: Arc<Transform8BitExecutor>,
    channels: Channels,
}

/// Number of pixels converted at a time.
const STRETCH: usize = 1024;

impl Converter {
    /// `None` if the profile cannot be applied.
    pub(super) fn new(Color(profile): &Color) -> Option<Self> {
        // The intent only selects among look-up tables; browsers take the first, the perceptual one.
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
        // The transform cannot work in place, so it reads from a copy of one stretch at a time.
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

    /// Converts the colour samples of pixels with alpha in place: red, green and blue of four channels, or
    /// grey of two.
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

    /// Converts cyan, magenta, yellow and black (255 is full ink) to RGB in the same memory.
    pub(super) fn narrow_cmyk(&self, mut samples: Vec<u8>) -> Vec<u8> {
        let count = samples.len() / 4;
        let mut from = [0; 4 * STRETCH];
        for first in (0..count).step_by(STRETCH) {
            let pixels = STRETCH.min(count - first);
            let from = &mut from[..pixels * 4];
            from.copy_from_slice(&samples[first * 4..][..pixels * 4]);
            // Reads 4 bytes per pixel and writes 3, so writing stays behind reading.
            let to = &mut samples[first * 3..][..pixels * 3];
            if self.transform.transform(from, to).is_err() {
                break;
            }
        }
        samples.truncate(count * 3);
        samples
    }
}
