//! Tries whether the places of a map are those of the photo: a strip of the photo is changed, and the map
//! must change in the same part.
//!
//! It is used where the operators do not show it, as behind reshapes that `upright` cannot follow. Networks
//! mix places, so that a change shows everywhere; its centre must still follow the strip, along the strip's
//! own axis and not along the other.

use std::ops::Range;

use rten_tensor::Tensor;
use rten_tensor::prelude::*;

use super::place::FeatureMap;
use crate::compare::Samples;
use crate::onnx::engine::{EngineError, GraphEngine};
use crate::onnx::graph::Graph;

/// Strips that are changed along each side, one after the other.
const STRIPS: usize = 4;
/// The part of the side by which the strips' changes must differ across so that they count as turned.
const ACROSS: f64 = 0.1;
/// The part of the side by which they differ along their own axis at least, if the map has places.
const LOCAL: f64 = 0.03;
/// The part of that difference by which one strip's change may lie before the last one's.
const BACKWARD: f64 = 0.25;
/// The part of the side by which all changes together may be shifted, if they spread over a quarter of it.
const SHIFT: f64 = 0.15;
/// The part of the largest change that the change of a strip has at least, if the map sees all strips, and
/// that the changes of a row or column have, if the map has no border around the photo.
const LEAST: f64 = 1e-4;

/// Why the map does not lie over the photo, as far as trials show. `rows` is the axis of the photo's rows.
///
/// # Errors
/// The inner text follows the map's name; the outer error is the engine's.
pub(crate) fn response(
    graph: &Graph,
    map: &FeatureMap,
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
    for (side, axis) in axes.iter().enumerate() {
        let strips = (0..STRIPS).map(|strip| run(&changed(photo, other, rows + side, strip)));
        let strips = strips.collect::<Result<Vec<_>, EngineError>>()?;
        let profiles = |axis| strips.iter().map(|strip| profile(&before, strip, axis)).collect();
        if let Err(why) =
            judge(&Profiles { along: profiles(*axis), across: profiles(axes[1 - side]) })
        {
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

/// The changes of a map by each strip, from the first to the last, along the axis of the strips and across.
struct Profiles {
    along: Vec<Vec<f64>>,
    across: Vec<Vec<f64>>,
}

fn judge(Profiles { along, across }: &Profiles) -> Result<(), &'static str> {
    let sums: Vec<f64> = along.iter().map(|profile| profile.iter().sum()).collect();
    let most = sums.iter().copied().fold(0.0, f64::max);
    if along.iter().chain(across).any(|profile| profile.len() < 2) {
        return Err("only one row or column of it is left");
    }
    if most == 0.0 || !most.is_finite() {
        return Ok(());
    }
    if sums.iter().any(|sum| *sum < most * LEAST) {
        return Err("a part of the photo does not show in this map");
    }
    let rows: Vec<f64> = (0..along.first().map_or(0, Vec::len))
        .map(|row| along.iter().map(|profile| profile[row]).sum())
        .collect();
    let most_of_rows = rows.iter().copied().fold(0.0, f64::max);
    if rows.iter().any(|row| *row < most_of_rows * LEAST) {
        return Err("a part of this map shows nothing of the photo");
    }
    let centres = centres(along);
    let (spread, turned) = (spread(&centres), spread(&self::centres(across)));
    if spread < LOCAL && turned < ACROSS {
        return Err("each part of the photo shows all over this map");
    }
    if turned > ACROSS && turned > spread {
        return Err("the photo's rows and columns are exchanged in this map");
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

/// Where the changes of each strip lie on average, as a part of the side from 0 to 1.
fn centres(profiles: &[Vec<f64>]) -> Vec<f64> {
    let centre = |profile: &Vec<f64>| {
        let moment: f64 = profile.iter().zip(0..).map(|(v, i)| v * (f64::from(i) + 0.5)).sum();
        moment / profile.iter().sum::<f64>() / profile.len() as f64
    };
    profiles.iter().map(centre).collect()
}

fn spread(centres: &[f64]) -> f64 {
    let (low, high) = centres.iter().fold((1.0_f64, 0.0_f64), |(l, h), c| (l.min(*c), h.max(*c)));
    high - low
}

#[cfg(test)]
mod tests {
    use super::{Profiles, STRIPS, judge};

    type Verdict = Result<(), &'static str>;

    /// The profiles of a map of 8 by 8 in which each strip shows at these rows, and a little everywhere,
    /// since networks mix places.
    fn shown(places: [usize; STRIPS]) -> Vec<Vec<f64>> {
        let profile = |place: usize| (0..8).map(|at| if at == place { 1.0 } else { 0.1 }).collect();
        places.map(profile).to_vec()
    }

    fn judged(rows: [usize; STRIPS]) -> Verdict {
        judge(&Profiles { along: shown(rows), across: vec![vec![0.5; 8]; STRIPS] })
    }

    fn refused(verdict: Verdict, part: &str) -> bool {
        verdict.is_err_and(|why| why.contains(part))
    }

    #[test]
    fn a_wrong_order_of_strips_or_a_shift_is_refused() {
        for rows in [[1, 3, 5, 7], [0, 2, 4, 6], [3, 3, 4, 4], [0, 3, 3, 7], [0, 1, 2, 2]] {
            assert_eq!(judged(rows), Ok(()), "{rows:?}");
        }
        for rows in [[7, 5, 3, 1], [1, 7, 1, 7], [5, 7, 1, 3], [3, 5, 7, 1], [4, 3, 4, 3]] {
            assert!(refused(judged(rows), "other places"), "{rows:?}");
        }
        let sharp = |row: usize| (0..8).map(|at| if at == row { 1.0 } else { 0.001 }).collect();
        let across = || vec![vec![1.0; 8]; STRIPS];
        let shifted = Profiles { along: [0, 1, 2, 3].map(sharp).to_vec(), across: across() };
        assert!(refused(judge(&shifted), "one part"));
        let mut bordered = Profiles { along: shown([2, 3, 4, 5]), across: across() };
        bordered.along.iter_mut().for_each(|profile| profile[0] = 0.0);
        assert!(refused(judge(&bordered), "nothing of the photo"));
        let mut unseen = Profiles { along: shown([1, 3, 5, 7]), across: across() };
        unseen.along[2] = vec![0.0; 8];
        assert!(refused(judge(&unseen), "does not show"));
    }

    #[test]
    fn a_map_without_places_is_refused() {
        assert!(refused(judged([4, 4, 4, 4]), "all over"));
        let line = Profiles { along: shown([1, 3, 5, 7]), across: vec![vec![1.0]; STRIPS] };
        assert!(refused(judge(&line), "one row or column"));
        let constant = || vec![vec![0.0; 8]; STRIPS];
        assert_eq!(judge(&Profiles { along: constant(), across: constant() }), Ok(()));
    }

    #[test]
    fn exchanged_rows_and_columns_are_refused() {
        let turned = Profiles { along: shown([4, 3, 4, 3]), across: shown([1, 3, 5, 7]) };
        assert!(refused(judge(&turned), "exchanged"));
    }
}
