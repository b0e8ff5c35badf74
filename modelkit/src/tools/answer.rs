//! A model's answer to one photo, and the difference of two answers.
//!
//! `check` compares engines with it, and `pack` a packed file with its graph.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skincell_vision::card::Card;
use skincell_vision::gradcam::{GradCamError, Heatmap, heatmap};
use skincell_vision::rank::{probabilities, rank};

use crate::tools::served::{Outcome, ServedError};

/// One photo's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// `[classes]`.
    pub probabilities: Vec<f32>,
    /// Heatmaps of some classes, by class index: `[height · width]` in rows, 0 to 1.
    pub heatmaps: BTreeMap<usize, Vec<f32>>,
}

/// The difference of two results.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Difference {
    /// Largest difference of a probability.
    pub probability: f32,
    /// Largest difference of a heatmap's value, 0 to 1.
    pub heatmap: f32,
}

/// What two engines' answers may differ by: rounding errors of float32, enlarged by a deep network.
pub const TOLERANCE: Difference = Difference { probability: 1e-3, heatmap: 2e-3 };

/// Probabilities, and heatmaps of the `likeliest` classes and of those in `also`, computed as the WebAssembly
/// component does.
pub(crate) fn answer(
    card: &Card,
    engine: &'static str,
    photo: &str,
    outcome: &Outcome,
    (likeliest, also): (usize, &[usize]),
) -> Result<Answer, ServedError> {
    let probabilities = probabilities(&outcome.scores, &card.output)
        .map_err(|error| ServedError::Scores { engine, error })?;
    let mut heatmaps = BTreeMap::new();
    if let (Some(map), Some(cam)) = (&card.gradcam, &outcome.cam) {
        let likely = rank(&probabilities, likeliest).into_iter().map(|ranked| ranked.index);
        for class in likely.chain(also.iter().copied()) {
            let found = heatmap(cam, map, &probabilities, card.output.activation, class);
            // A class of `also` may be too unlikely to have a map.
            if matches!(found, Err(GradCamError::Unlikely { .. })) {
                continue;
            }
            let fail = |error| ServedError::Maps { engine, photo: photo.to_owned(), error };
            heatmaps.insert(class, Heatmap::values(&found.map_err(fail)?).to_vec());
        }
    }
    Ok(Answer { probabilities, heatmaps })
}

/// Largest differences of two results. Lists of different length have an infinite difference. A heatmap that
/// only one result has is not compared: the caller asks both for the same classes, and a class without a
/// heatmap is too unlikely for one.
pub(crate) fn difference(a: &Answer, b: &Answer) -> Difference {
    let largest = |a: &[f32], b: &[f32]| {
        if a.len() != b.len() {
            return f32::INFINITY;
        }
        larger(a.iter().zip(b).map(|(a, b)| (a - b).abs()))
    };
    let both = a.heatmaps.iter().filter_map(|(class, map)| Some((map, b.heatmaps.get(class)?)));
    Difference {
        probability: largest(&a.probabilities, &b.probabilities),
        heatmap: larger(both.map(|(a, b)| largest(a, b))),
    }
}

impl Difference {
    /// The larger one of each number of two differences.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            probability: larger([self.probability, other.probability].into_iter()),
            heatmap: larger([self.heatmap, other.heatmap].into_iter()),
        }
    }

    /// Each number times `factor`.
    pub(crate) fn times(self, factor: f32) -> Self {
        Self { probability: self.probability * factor, heatmap: self.heatmap * factor }
    }

    /// Whether both numbers are at most those of `allowed`; a number that is NaN is not.
    #[must_use]
    pub fn within(&self, allowed: &Self) -> bool {
        self.probability <= allowed.probability && self.heatmap <= allowed.heatmap
    }
}

/// The largest of some differences, 0 if there are none, and NaN if one is (`f32::max` would drop it).
fn larger(differences: impl Iterator<Item = f32>) -> f32 {
    differences.fold(0.0, |most, off| if most.is_nan() || off <= most { most } else { off })
}
