//! Runs photos to find the range of each value that becomes 8-bit integers, and the mean and covariance of
//! its channels.
//!
//! Outliers would spend the 256 steps on values that hardly occur. So narrower ranges are tried, and the one
//! with the smallest squared error of rounding and clipping over a histogram of all photos is used. Changing
//! the graph is left to [`super::int8`].

use std::collections::BTreeMap;

use rten_tensor::prelude::*;
use rten_tensor::{Tensor as Values, TensorView};
use skincell_vision::card::Dtype;
use skincell_vision::tensor::PhotoTensor;

use super::{QuantizeError, QuantizeStep};
use crate::onnx::engine::{EngineError, GraphEngine};
use crate::onnx::graph::Graph;

/// Number of a histogram's bins.
const BARS: usize = 2048;
/// Values requested in one run, limited because all of their maps are in memory until the run ends.
const AT_ONCE: usize = 16;
/// Most pixels of a map that are looked at for its covariance.
const MOST_PIXELS: usize = 196;
/// Tensors with more channels get no covariance, which would take too much memory.
const MOST_CHANNELS: usize = 4096;
/// Steps of an 8-bit range.
const STEPS: f64 = 255.0;

/// The meaning of 8-bit integers, 0 to 255: `value = scale · (integer − zero)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub(super) scale: f32,
    pub(super) zero: u8,
}

/// Statistics of one tensor over the photos.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statistics {
    pub(super) range: Range,
    /// `[channels]`, over all photos and pixels.
    pub(super) means: Vec<f64>,
    /// `[channels][channels]`, over all photos and some pixels of each; empty if there are too many channels.
    pub(super) covariance: Vec<f32>,
    /// Pixels of the map.
    pub(super) pixels: usize,
}

/// Computes the statistics of each tensor in `names`, by name.
///
/// # Errors
/// [`QuantizeError::Engine`] if the graph cannot be run.
pub(super) fn statistics(
    graph: &Graph,
    mut names: Vec<&str>,
    photos: &[PhotoTensor],
    progress: &mut dyn FnMut(QuantizeStep),
) -> Result<BTreeMap<String, Statistics>, QuantizeError> {
    let engine = GraphEngine::load(graph)?;
    names.sort_unstable();
    names.dedup();
    let total = photos.len() * 2;
    let mut extremes = vec![(0_f32, 0_f32); names.len()];
    for (done, photo) in photos.iter().enumerate() {
        progress(QuantizeStep::Calibrate(done, total));
        look(&engine, &names, photo, |index, values| {
            let (low, high) = &mut extremes[index];
            for value in values.iter() {
                *low = low.min(*value);
                *high = high.max(*value);
            }
        })?;
    }
    let mut bars: Vec<Histogram> =
        extremes.iter().map(|(low, high)| Histogram::new(*low, *high)).collect();
    let mut moments = vec![Moments::default(); names.len()];
    for (done, photo) in photos.iter().enumerate() {
        progress(QuantizeStep::Calibrate(photos.len() + done, total));
        look(&engine, &names, photo, |index, values| {
            bars[index].add(&values.to_vec());
            moments[index].add(values);
        })?;
    }
    let statistics = bars.iter().zip(moments).map(|(bars, moments)| Statistics {
        range: bars.range(),
        means: moments.means(),
        pixels: moments.pixels,
        covariance: moments.covariance(),
    });
    Ok(names.iter().map(|name| (*name).to_owned()).zip(statistics).collect())
}

/// Sums over photos from which the means and the covariance of channels follow.
#[derive(Debug, Clone, Default)]
struct Moments {
    photos: usize,
    /// Pixels of one map.
    pixels: usize,
    /// Sum of each channel's mean over all pixels.
    sums: Vec<f64>,
    /// Pixels looked at, all photos together.
    looked_at: usize,
    /// Sum of each channel over those.
    firsts: Vec<f64>,
    /// `[channels][channels]`, sums of products over those; the lower triangle.
    seconds: Vec<f32>,
}

impl Moments {
    /// Adds a map `[1, channels, height, width]`.
    fn add(&mut self, values: &Values<f32>) {
        let channels = values.shape().get(1).copied().unwrap_or_default();
        self.pixels = (values.len() / channels.max(1)).max(1);
        self.photos += 1;
        self.sums.resize(channels, 0.0);
        let values = values.to_vec();
        for (sum, map) in self.sums.iter_mut().zip(values.chunks(self.pixels)) {
            *sum += map.iter().map(|v| f64::from(*v)).sum::<f64>() / self.pixels as f64;
        }
        if channels > MOST_CHANNELS {
            return;
        }
        self.firsts.resize(channels, 0.0);
        self.seconds.resize(channels * channels, 0.0);
        for at in (0..self.pixels).step_by(self.pixels.div_ceil(MOST_PIXELS)) {
            let pixel: Vec<f32> = values.iter().skip(at).step_by(self.pixels).copied().collect();
            self.looked_at += 1;
            for (sum, value) in self.firsts.iter_mut().zip(&pixel) {
                *sum += f64::from(*value);
            }
            for (row, value) in pixel.iter().enumerate().filter(|(_, value)| **value != 0.0) {
                let sums = &mut self.seconds[row * channels..];
                sums.iter_mut().zip(&pixel[..=row]).for_each(|(sum, other)| *sum += value * other);
            }
        }
    }

    fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| sum / self.photos.max(1) as f64).collect()
    }

    fn covariance(self) -> Vec<f32> {
        let (channels, count) = (self.firsts.len(), self.looked_at.max(1) as f64);
        let mut covariance = self.seconds;
        for row in 0..channels {
            for column in 0..=row {
                let means = self.firsts[row] / count * (self.firsts[column] / count);
                let value = f64::from(covariance[row * channels + column]) / count - means;
                covariance[row * channels + column] = value as f32;
                covariance[column * channels + row] = value as f32;
            }
        }
        covariance
    }
}

/// Runs a photo and calls `show` with the index and values of each tensor named, some per run.
fn look(
    engine: &GraphEngine,
    names: &[&str],
    photo: &PhotoTensor,
    mut show: impl FnMut(usize, &Values<f32>),
) -> Result<(), QuantizeError> {
    for (group, some) in names.chunks(AT_ONCE).enumerate() {
        for (place, value) in run(engine, some, photo)?.iter().enumerate() {
            show(group * AT_ONCE + place, value);
        }
    }
    Ok(())
}

/// The values named, for a photo.
pub(super) fn run(
    engine: &GraphEngine,
    names: &[&str],
    photo: &PhotoTensor,
) -> Result<Vec<Values<f32>>, EngineError> {
    let shape: Vec<usize> = photo.dimensions.iter().map(|d| *d as usize).collect();
    match photo.dtype {
        Dtype::U8 => {
            let view = TensorView::from_data(shape.as_slice(), photo.data.as_slice());
            engine.run(view.into(), names)
        }
        Dtype::F32 => {
            let bytes = photo.data.as_chunks::<4>().0;
            let floats: Vec<f32> = bytes.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let view = TensorView::from_data(shape.as_slice(), floats.as_slice());
            engine.run(view.into(), names)
        }
    }
}

/// A histogram with bins of equal width from `low` to `high`.
struct Histogram {
    low: f64,
    width: f64,
    bars: Vec<u64>,
}

impl Histogram {
    fn new(low: f32, high: f32) -> Self {
        let (low, high) = (f64::from(low), f64::from(high));
        let width = ((high - low) / BARS as f64).max(f64::MIN_POSITIVE);
        Self { low, width, bars: vec![0; BARS] }
    }

    fn add(&mut self, values: &[f32]) {
        for value in values {
            let bar = (f64::from(*value) - self.low) / self.width;
            // `as` saturates, so a value outside the extremes counts in the first or last bin.
            if let Some(bar) = self.bars.get_mut((bar as usize).min(BARS - 1)) {
                *bar += 1;
            }
        }
    }

    /// The range with the smallest error; each end is tried at shares of 20 % to 100 % of the extreme.
    fn range(&self) -> Range {
        let highest = self.low + self.width * BARS as f64;
        let shares = || (4..=20).map(|n| f64::from(n) / 20.0);
        let tried = shares().flat_map(|low| shares().map(move |high| (low, high)));
        let priced = tried.map(|(low, high)| {
            let (low, high) = (self.low * low, highest * high);
            (self.cost(low, high), low, high)
        });
        let best = priced.min_by(|a, b| a.0.total_cmp(&b.0));
        let (_, low, high) = best.unwrap_or((0.0, self.low, highest));
        let scale = ((high - low) / STEPS).max(f64::from(f32::MIN_POSITIVE));
        let zero = (-low / scale).round().clamp(0.0, STEPS);
        Range { scale: scale as f32, zero: zero as u8 }
    }

    /// Sum of squared errors: `step²/12` for each value that is rounded, the squared distance to the range
    /// for each that is clipped.
    fn cost(&self, low: f64, high: f64) -> f64 {
        let rounding = ((high - low) / STEPS).powi(2) / 12.0;
        let of_bar = |(index, count): (usize, &u64)| {
            let value = self.low + self.width * (index as f64 + 0.5);
            let clipped = (low - value).max(value - high).max(0.0);
            *count as f64 * if clipped > 0.0 { clipped * clipped } else { rounding }
        };
        self.bars.iter().enumerate().map(of_bar).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_all_pixels() {
        // Two channels; the second is 3 minus twice the first.
        let mut moments = Moments::default();
        for photo in 0..2_u8 {
            let first: Vec<f32> = (0..6).map(|n| f32::from(n + photo)).collect();
            let second: Vec<f32> = first.iter().map(|v| 3.0 - 2.0 * v).collect();
            moments.add(&Values::from_data(&[1, 2, 2, 3], [first, second].concat()));
        }
        assert_eq!((moments.means(), moments.pixels), (vec![3.0, -3.0], 6));
        let variance = (0..6).map(|n| (f32::from(n as u8) - 2.5).powi(2)).sum::<f32>() / 6.0 + 0.25;
        let expected = [variance, -2.0 * variance, -2.0 * variance, 4.0 * variance];
        let found = moments.covariance();
        assert!(found.iter().zip(&expected).all(|(f, e)| (f - e).abs() < 1e-5), "{found:?}");
    }

    #[test]
    fn long_tails_are_clipped_and_zero_stays_exact() {
        let mut even = Histogram::new(0.0, 6.0);
        even.add(&(0..6000).map(|n| n as f32 / 1000.0).collect::<Vec<_>>());
        let range = even.range();
        assert_eq!(range.zero, 0, "zero is the first step of a range that begins there");
        assert!((range.scale - 6.0 / 255.0).abs() < 1e-3, "an even range is kept: {range:?}");

        let mut tail = Histogram::new(-1.0, 10.0);
        let even: Vec<f32> = (0..100_000).map(|n| n as f32 / 50_000.0 - 1.0).collect();
        for _ in 0..20 {
            tail.add(&even);
        }
        tail.add(&[10.0]);
        let range = tail.range();
        let (low, high) = (-i32::from(range.zero), 255 - i32::from(range.zero));
        let [low, high] = [low, high].map(|step| step as f32 * range.scale);
        assert!(low < -0.95 && (0.95..4.0).contains(&high), "one outlier is clipped: {low} {high}");

        let flat = Histogram::new(0.0, 0.0).range();
        assert!(flat.scale > 0.0, "a value that is always 0 still has a range");
    }
}
