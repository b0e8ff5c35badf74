//! Runs photos to find the range of each value that becomes 8-bit integers, and the mean of each of its
//! channels.
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
use crate::onnx::engine::GraphEngine;
use crate::onnx::graph::Graph;

/// Number of a histogram's bins.
const BARS: usize = 2048;
/// Values requested in one run, limited because all of their maps are in memory until the run ends.
const AT_ONCE: usize = 16;
/// Steps of an 8-bit range.
const STEPS: f64 = 255.0;

/// The meaning of 8-bit integers, 0 to 255: `value = scale · (integer − zero)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub(super) scale: f32,
    pub(super) zero: u8,
}

/// Statistics of one value over the photos.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) range: Range,
    /// `[channels]`, over all photos and pixels.
    pub(super) means: Vec<f64>,
}

/// Computes the statistics of each value in `names`.
///
/// # Errors
/// [`QuantizeError::Engine`] if the graph cannot be run.
pub(super) fn seen(
    graph: &Graph,
    mut names: Vec<&str>,
    photos: &[PhotoTensor],
    progress: &mut dyn FnMut(QuantizeStep),
) -> Result<BTreeMap<String, Seen>, QuantizeError> {
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
    let mut sums: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    for (done, photo) in photos.iter().enumerate() {
        progress(QuantizeStep::Calibrate(photos.len() + done, total));
        look(&engine, &names, photo, |index, values| {
            bars[index].add(&values.to_vec());
            add_means(&mut sums[index], values);
        })?;
    }
    let mean = |sums: &Vec<f64>| sums.iter().map(|sum| sum / photos.len() as f64).collect();
    let seen = bars.iter().zip(&sums).map(|(b, s)| Seen { range: b.range(), means: mean(s) });
    Ok(names.iter().map(|name| (*name).to_owned()).zip(seen).collect())
}

/// Adds the mean of each channel of `values`, `[1, channels, height, width]`, to `sums`.
fn add_means(sums: &mut Vec<f64>, values: &Values<f32>) {
    let channels = values.shape().get(1).copied().unwrap_or_default();
    let places = (values.len() / channels.max(1)).max(1);
    sums.resize(channels, 0.0);
    for (sum, map) in sums.iter_mut().zip(values.to_vec().chunks(places)) {
        *sum += map.iter().map(|v| f64::from(*v)).sum::<f64>() / places as f64;
    }
}

/// Runs a photo and calls `show` with the index and elements of each value named, some per run.
fn look(
    engine: &GraphEngine,
    names: &[&str],
    photo: &PhotoTensor,
    mut show: impl FnMut(usize, &Values<f32>),
) -> Result<(), QuantizeError> {
    let shape: Vec<usize> = photo.dimensions.iter().map(|d| *d as usize).collect();
    let floats: Vec<f32> = match photo.dtype {
        Dtype::U8 => Vec::new(),
        Dtype::F32 => {
            photo.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }
    };
    for (group, some) in names.chunks(AT_ONCE).enumerate() {
        let values = match photo.dtype {
            Dtype::U8 => {
                let view = TensorView::from_data(shape.as_slice(), photo.data.as_slice());
                engine.run(view.into(), some)?
            }
            Dtype::F32 => {
                let view = TensorView::from_data(shape.as_slice(), floats.as_slice());
                engine.run(view.into(), some)?
            }
        };
        for (place, value) in values.iter().enumerate() {
            show(group * AT_ONCE + place, value);
        }
    }
    Ok(())
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
