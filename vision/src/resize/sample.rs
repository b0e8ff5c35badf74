//! Resampling without antialiasing: each output pixel is computed from the few nearest pixels of the
//! photo, at any reduction. Pixel centres lie at halves, and the photo's edge is repeated.
//!
//! - bilinear: `tf.image.resize(…, "bilinear")`, `cv2.INTER_LINEAR`, PyTorch's `interpolate`
//! - bicubic: `tf.image.resize(…, "bicubic")`: Keys' kernel with a = -0.5; taps beyond the edge are left
//!   out and the others scaled so that they sum to 1
//! - nearest: `tf.image.resize(…, "nearest")` and Pillow's `NEAREST`
//!
//! TensorFlow returns fractions of a level; here they are rounded to the nearest level.

use crate::card::Filter;
use crate::photo::Photo;

/// For one output pixel and one axis: the source pixels and their weights, which sum to 1.
type Taps = Vec<(usize, f32)>;

/// Resamples the part of `photo` given by left, top, width and height; `None` for a size of 0.
pub(super) fn sample(
    photo: &Photo,
    (left, top, across, down): (f64, f64, f64, f64),
    (width, height): (u32, u32),
    filter: Filter,
) -> Option<Photo> {
    let columns = axis(left, across, width, photo.width(), filter);
    let rows = axis(top, down, height, photo.height(), filter);
    let source = photo.pixels().as_chunks::<3>().0;
    let stride = photo.width() as usize;
    let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
    for row in &rows {
        for column in &columns {
            let mut sum = [0.0_f32; 3];
            for (y, down) in row {
                for (x, across) in column {
                    let pixel = source.get(y * stride + x).copied().unwrap_or_default();
                    let weight = across * down;
                    sum.iter_mut().zip(pixel).for_each(|(s, p)| *s += weight * f32::from(p));
                }
            }
            pixels.extend(sum.map(|s| s.round().clamp(0.0, 255.0) as u8));
        }
    }
    Photo::from_rgb(width, height, pixels)
}

/// The taps of `to` output pixels along one axis. They cover `length` source pixels from `start` on; the
/// photo has `side` pixels along this axis.
fn axis(start: f64, length: f64, to: u32, side: u32, filter: Filter) -> Vec<Taps> {
    let scale = length / f64::from(to.max(1));
    (0..to).map(|x| taps(start, scale, x, side, filter)).collect()
}

fn taps(start: f64, scale: f64, x: u32, side: u32, filter: Filter) -> Taps {
    let last = f64::from(side.saturating_sub(1));
    let clamped = |at: f64| at.clamp(0.0, last) as usize;
    let centre = start + (f64::from(x) + 0.5) * scale;
    match filter {
        Filter::Nearest => vec![(clamped(centre.floor()), 1.0)],
        Filter::Bicubic => {
            let at = centre - 0.5;
            let low = at.floor();
            let inside = (-1..=2).map(|k| low + f64::from(k)).filter(|p| (0.0..=last).contains(p));
            let weighed: Vec<(usize, f64)> = inside.map(|p| (clamped(p), keys(p - at))).collect();
            let sum: f64 = weighed.iter().map(|(_, weight)| weight).sum();
            weighed.into_iter().map(|(p, weight)| (p, (weight / sum) as f32)).collect()
        }
        // Bilinear; Lanczos is always antialiased and never sampled here.
        _ => {
            let at = (centre - 0.5).clamp(0.0, last);
            let part = (at - at.floor()) as f32;
            vec![(clamped(at.floor()), 1.0 - part), (clamped(at.floor() + 1.0), part)]
        }
    }
}

/// Keys' cubic convolution kernel with a = -0.5 (Keys 1981, equation 15).
fn keys(distance: f64) -> f64 {
    let x = distance.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}
