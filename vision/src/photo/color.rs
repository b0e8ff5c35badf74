//! Colour profiles to sRGB, which is what models are trained on and what a browser's canvas gives. The profile
//! is read beside the decode and applied once to the photo it returns, which is small by then.
//!
//! A profile that cannot be read, or is made for other channels than the file has, is ignored as browsers do.
//! Leaves out profiles of look-up tables, and CMYK, which is converted without its profile.

use super::picture::Photo;
use moxcms::{
    Chromaticity, CicpColorPrimaries, CicpProfile, ColorPrimaries, ColorProfile, DataColorSpace,
    Layout, MatrixCoefficients, RenderingIntent, ToneReprCurve, TransferCharacteristics,
    TransformOptions, XyY, curve_from_gamma,
};

/// Largest profile that is read, in bytes. Those of cameras and editors have up to 600 KB, most below 4.
pub(super) const MAX_PROFILE: usize = 2 << 20;

/// What a photo's numbers mean, where that is not sRGB.
#[derive(Debug)]
pub(super) struct Color(Box<ColorProfile>);

/// Bytes that reading a profile of `length` bytes and converting by it take: the file's own and its curves and
/// tables as floats.
pub(super) fn memory(length: usize) -> u64 {
    match length {
        0 => 0,
        length => (length.min(MAX_PROFILE) as u64) * 5 + (512 << 10),
    }
}

/// The colours of an ICC profile; `None` for sRGB itself and for a profile that is ignored.
pub(super) fn from_icc(bytes: &[u8], is_grey: bool) -> Option<Color> {
    if bytes.len() > MAX_PROFILE {
        return None;
    }
    let profile = ColorProfile::new_from_slice(bytes).ok()?;
    let fits = match profile.color_space {
        DataColorSpace::Rgb => true,
        DataColorSpace::Gray => is_grey,
        _ => false,
    };
    fits.then(|| Color(Box::new(profile)))
}

/// The colours of code points (ITU-T H.273): primaries and transfer. `None` for sRGB and for what is unknown.
pub(super) fn from_cicp(primaries: u8, transfer: u8) -> Option<Color> {
    let color_primaries = CicpColorPrimaries::try_from(primaries).ok()?;
    let transfer_characteristics = TransferCharacteristics::try_from(transfer).ok()?;
    if (primaries, transfer) == (1, 13) {
        return None;
    }
    let profile = ColorProfile::new_from_cicp(CicpProfile {
        color_primaries,
        transfer_characteristics,
        matrix_coefficients: MatrixCoefficients::Identity,
        full_range: true,
    });
    Some(Color(Box::new(profile)))
}

/// The colours of a PNG's gAMA and cHRM: `gamma` the exponent that encodes, such as 0.45455; white, red, green
/// and blue as x and y. What is not given is sRGB's; `None` where all is sRGB's as near as the chunks can say.
pub(super) fn from_chunks(gamma: Option<f32>, points: Option<[(f32, f32); 4]>) -> Option<Color> {
    let near = |a: f32, b: f32| (a - b).abs() < 0.005;
    let points = points.filter(|points| {
        let all = points.iter().zip(SRGB_POINTS);
        !all.into_iter().all(|((x, y), (sx, sy))| near(*x, sx) && near(*y, sy))
    });
    // Browsers and Pillow take 1/2.2 for sRGB's curve.
    let gamma = gamma.filter(|gamma| *gamma > 0.05 && *gamma < 20.0 && !near(*gamma, 0.45455));
    if gamma.is_none() && points.is_none() {
        return None;
    }
    let mut profile = ColorProfile::new_srgb();
    profile.cicp = None;
    if let Some([white, red, green, blue]) = points {
        if [white, red, green, blue].iter().any(|(x, y)| !(*x > 0.0 && *y > 0.0 && x + y <= 1.0)) {
            return None;
        }
        let point = |(x, y): (f32, f32)| Chromaticity::new(x, y);
        let white = XyY::new(white.0.into(), white.1.into(), 1.0);
        let primaries = ColorPrimaries { red: point(red), green: point(green), blue: point(blue) };
        profile.update_rgb_colorimetry(white, primaries);
    }
    if let Some(gamma) = gamma {
        let curve: ToneReprCurve = curve_from_gamma(1.0 / gamma);
        profile.red_trc = Some(curve.clone());
        profile.green_trc = Some(curve.clone());
        profile.blue_trc = Some(curve);
    }
    Some(Color(Box::new(profile)))
}

/// White, red, green and blue of sRGB.
const SRGB_POINTS: [(f32, f32); 4] = [(0.3127, 0.329), (0.64, 0.33), (0.3, 0.6), (0.15, 0.06)];

/// `photo` in sRGB. As it is where the profile cannot be applied.
pub(super) fn to_srgb(mut photo: Photo, color: Option<&Color>) -> Photo {
    let Some(Color(profile)) = color else { return photo };
    let options = TransformOptions {
        rendering_intent: RenderingIntent::RelativeColorimetric,
        ..TransformOptions::default()
    };
    let srgb = ColorProfile::new_srgb();
    let is_grey = profile.color_space == DataColorSpace::Gray;
    let layout = if is_grey { Layout::Gray } else { Layout::Rgb };
    let Ok(transform) = profile.create_transform_8bit(layout, &srgb, Layout::Rgb, options) else {
        return photo;
    };
    // A transform reads from one place and writes to another: a stretch at a time through a copy.
    let mut from = [0; 3 * 1024];
    for pixels in photo.pixels_mut().chunks_mut(from.len()) {
        let done = if is_grey {
            let greys = pixels.len() / 3;
            from.iter_mut().zip(pixels.iter().step_by(3)).for_each(|(to, grey)| *to = *grey);
            transform.transform(&from[..greys], pixels)
        } else {
            let from = &mut from[..pixels.len()];
            from.copy_from_slice(pixels);
            transform.transform(from, pixels)
        };
        if done.is_err() {
            break;
        }
    }
    photo
}
