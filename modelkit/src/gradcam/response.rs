//! Tries whether the places of a map are those of the photo: a strip of the photo is changed, and the map
//! must change in the same part.
//!
//! It is used where the operators do not show it, as behind reshapes that `upright` cannot follow. Networks
//! mix places, so only an order of the strips that is clearly wrong counts, or a clear shift.

use std::ops::Range;

use rten_tensor::Tensor;
use rten_tensor::prelude::*;

use super::place::Tail;
use crate::compare::Samples;
use crate::onnx::engine::{EngineError, GraphEngine};
use crate::onnx::graph::Graph;

/// Strips that are changed along each side, one after the other.
const STRIPS: usize = 4;
/// The part of the side by which the strips' changes must differ in place so that their order counts.
const SPREAD: f64 = 0.1;
/// The part of that by which one strip's change may lie before the last one's.
const BACKWARD: f64 = 0.25;
/// The part of the side by which all changes together may be shifted, if they spread over a quarter of it.
const SHIFT: f64 = 0.15;
/// The part of the largest change that the change of a strip has at least, if the map sees all strips.
const LEAST: f64 = 1e-4;

/// Why the map does not lie over the photo, as far as trials show. `rows` is the axis of the photo's rows.
///
/// # Errors
/// The inner text follows the map's name; the outer error is the engine's.
pub(crate) fn response(
    graph: &Graph,
    map: &Tail,
    samples: &Samples,
    rows: usize,
) -> Result<Result<(), &'static str>, EngineError> {
    let [(_, photo), (_, other), ..] = samples else { return Ok(Ok(())) };
    let engine = GraphEngine::load(graph)?;
    let run = |photo: &Tensor<f32>| -> Result<Tensor<f32>, EngineError> {
        let values = engine.run(photo.view().into(), &[&map.pooled])?;
        values.into_iter().next().ok_or_else(|| EngineError::Run("it gave no map".to_owned()))
    };
    let before = run(photo)?;
    let axes: Vec<usize> = (1..before.ndim()).filter(|axis| *axis != map.axis).collect();
    let (Some([_, _]), None) = (axes.get(..2), map.tokens) else { return Ok(Ok(())) };
    for (side, axis) in axes.into_iter().enumerate() {
        let strips = (0..STRIPS).map(|strip| changed(photo, other, rows + side, strip));
        let profiles = strips.map(|strip| Ok(profile(&before, &run(&strip)?, axis)));
        let profiles = profiles.collect::<Result<Vec<_>, EngineError>>()?;
        if let Err(why) = judge(&profiles) {
            return Ok(Err(why));
        }
    }
    Ok(Ok(()))
}

/// The photo with one strip across an axis taken from another photo.
fn changed(photo: &Tensor<f32>, other: &Tensor<f32>, axis: usize, strip: usize) -> Tensor<f32> {
    let shape = photo.shape().to_vec();
    let within = part(shape[axis], strip);
    let inner: usize = shape[axis + 1..].iter().product();
    let place = |index: usize| index / inner % shape[axis];
    let pairs = photo.iter().zip(other.iter()).enumerate();
    let values = pairs.map(|(i, (a, b))| if within.contains(&place(i)) { *b } else { *a });
    Tensor::from_data(&shape, values.collect::<Vec<_>>())
}

/// The rows or columns of a strip.
fn part(side: usize, strip: usize) -> Range<usize> {
    side * strip / STRIPS..side * (strip + 1) / STRIPS
}

/// The sum of the map's changes at each index of an axis.
fn profile(before: &Tensor<f32>, after: &Tensor<f32>, axis: usize) -> Vec<f64> {
    let shape = before.shape();
    let inner: usize = shape[axis + 1..].iter().product();
    let mut sums = vec![0.0; shape[axis]];
    for (index, (a, b)) in before.iter().zip(after.iter()).enumerate() {
        sums[index / inner % shape[axis]] += f64::from((a - b).abs());
    }
    sums
}

/// Judges the profiles of the strips, from the first to the last.
fn judge(profiles: &[Vec<f64>]) -> Result<(), &'static str> {
    let sums: Vec<f64> = profiles.iter().map(|profile| profile.iter().sum()).collect();
    let most = sums.iter().copied().fold(0.0, f64::max);
    let side = profiles.first().map_or(0, Vec::len);
    if side < 2 || most == 0.0 || !most.is_finite() {
        return Ok(());
    }
    if sums.iter().any(|sum| *sum < most * LEAST) {
        return Err("a part of the photo does not show in this map");
    }
    let centre = |(profile, sum): (&Vec<f64>, &f64)| {
        let moment: f64 = profile.iter().zip(0..).map(|(v, i)| v * (f64::from(i) + 0.5)).sum();
        moment / sum / side as f64
    };
    let centres: Vec<f64> = profiles.iter().zip(&sums).map(centre).collect();
    let (low, high) = centres.iter().fold((1.0_f64, 0.0_f64), |(l, h), c| (l.min(*c), h.max(*c)));
    let spread = high - low;
    if spread < SPREAD {
        return Ok(());
    }
    if centres.windows(2).any(|pair| pair[1] - pair[0] < -BACKWARD * spread) {
        return Err("parts of the photo show in other places of this map");
    }
    let mean = centres.iter().sum::<f64>() / centres.len() as f64;
    if spread > 0.25 && (mean - 0.5).abs() > SHIFT {
        return Err("the photo shows in one part of this map only");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{STRIPS, judge};

    /// The profiles of a map of 8 rows in which each strip shows at these rows.
    fn judged(rows: [usize; STRIPS]) -> Result<(), &'static str> {
        // A network mixes places, so every strip changes every row a little.
        let profile = |row: usize| (0..8).map(|at| if at == row { 1.0 } else { 0.1 }).collect();
        judge(&rows.map(profile))
    }

    #[test]
    fn only_a_wrong_order_of_strips_or_a_shift_counts() {
        // Too near to each other to count.
        assert_eq!(judged([4, 3, 4, 3]), Ok(()));
        for rows in [[1, 3, 5, 7], [0, 2, 4, 6], [3, 3, 4, 4], [4, 4, 4, 4], [0, 3, 3, 7]] {
            assert_eq!(judged(rows), Ok(()), "{rows:?}");
        }
        for rows in [[7, 5, 3, 1], [1, 7, 1, 7], [5, 7, 1, 3], [3, 5, 7, 1]] {
            assert!(judged(rows).is_err_and(|why| why.contains("other places")), "{rows:?}");
        }
        assert!(judged([0, 1, 2, 2]).is_ok());
        let unseen = judge(&[vec![1.0, 0.0], vec![0.5, 0.5], vec![0.0, 1.0], vec![0.0, 0.0]]);
        assert!(unseen.is_err_and(|why| why.contains("does not show")));
        let sharp = |row: usize| (0..8).map(|at| f64::from(u8::from(at == row))).collect();
        let shifted = judge(&[0, 1, 2, 3].map(sharp));
        assert!(shifted.is_err_and(|why| why.contains("one part")));
        assert_eq!(judge(&[vec![0.0; 8], vec![0.0; 8]]), Ok(()), "the map is constant");
    }
}
