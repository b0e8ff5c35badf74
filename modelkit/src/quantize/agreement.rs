//! How close answers of two models to the same photos are: likeliest classes, probabilities and heatmaps.

use skincell_vision::card::Card;
use skincell_vision::gradcam::{Cam, heatmap};
use skincell_vision::rank::{answered, rank};

/// How close the results of the quantized model are to those of the original, each on the engine that
/// serves it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Photos compared.
    pub photos: usize,
    /// Photos whose likeliest class is the same.
    pub same_top: usize,
    /// Largest change of any class's probability on any photo, as answered: with the card's calibration.
    pub worst_probability: f32,
    /// Mean and smallest Pearson correlation of the heatmaps of the original's likeliest class, over the
    /// photos on which neither heatmap is constant; `None` without heatmaps.
    pub heatmaps: Option<(f64, f64)>,
}

/// A model's answer to one photo.
pub(super) struct Answer {
    /// Those of the scores, without a calibration.
    pub(super) probabilities: Vec<f32>,
    pub(super) cam: Option<Cam>,
}

/// The agreement on the photos so far.
#[derive(Default)]
pub(super) struct Tally {
    photos: usize,
    same_top: usize,
    /// For each photo, the largest change of a probability.
    changes: Vec<f32>,
    correlations: Vec<f64>,
}

impl Tally {
    /// Adds the answers of the original and of the other model to one photo.
    pub(super) fn add(&mut self, card: &Card, was: &Answer, is: &Answer) {
        let [p, q] = [was, is].map(|answer| answered(&answer.probabilities, card));
        let class = top(&p);
        self.photos += 1;
        self.same_top += usize::from(class == top(&q));
        self.changes.push(p.iter().zip(&q).map(|(p, q)| (p - q).abs()).fold(0.0, f32::max));
        let heat = |answer: &Answer| {
            let (map, cam) = (card.gradcam.as_ref()?, answer.cam.as_ref()?);
            heatmap(cam, map, &answer.probabilities, card.output.activation, class).ok()
        };
        if let (Some(a), Some(b)) = (heat(was), heat(is)) {
            self.correlations.extend(correlation(a.values(), b.values()));
        }
    }

    pub(super) fn agreement(&self) -> Agreement {
        let least = self.correlations.iter().copied().reduce(f64::min);
        let mean = self.correlations.iter().sum::<f64>() / self.correlations.len().max(1) as f64;
        Agreement {
            photos: self.photos,
            same_top: self.same_top,
            worst_probability: self.changes.iter().copied().fold(0.0, f32::max),
            heatmaps: least.map(|least| (mean, least)),
        }
    }

    /// The root of the mean square of the largest change of a probability.
    pub(super) fn usual_change(&self) -> f64 {
        let squares: f64 = self.changes.iter().map(|change| f64::from(*change).powi(2)).sum();
        (squares / self.changes.len().max(1) as f64).sqrt()
    }
}

fn top(probabilities: &[f32]) -> usize {
    rank(probabilities, 1).first().map_or(0, |first| first.index)
}

/// Pearson's correlation, or `None` if one of the two is constant.
fn correlation(a: &[f32], b: &[f32]) -> Option<f64> {
    let count = a.len().min(b.len()) as f64;
    let mean = |v: &[f32]| v.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let (of_a, of_b) = (mean(a), mean(b));
    let (mut both, mut only_a, mut only_b) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x) - of_a, f64::from(*y) - of_b);
        both += x * y;
        only_a += x * x;
        only_b += y * y;
    }
    let spread = (only_a * only_b).sqrt();
    (spread > 1e-12).then(|| both / spread)
}

#[cfg(test)]
mod tests {
    use super::correlation;

    #[test]
    fn correlation_is_pearsons() {
        let cases: [(&[f32], &[f32], Option<f64>); 4] = [
            (&[0.0, 0.5, 1.0], &[0.0, 0.25, 0.5], Some(1.0)),
            (&[0.0, 0.5, 1.0], &[1.0, 0.5, 0.0], Some(-1.0)),
            (&[1.0, 0.0, 1.0, 0.0], &[1.0, 1.0, 0.0, 0.0], Some(0.0)),
            (&[0.5, 0.5], &[0.0, 1.0], None),
        ];
        for (a, b, expected) in cases {
            let found = correlation(a, b);
            let near = found.zip(expected).is_none_or(|(f, e)| (f - e).abs() < 1e-9);
            assert!(found.is_some() == expected.is_some() && near, "{a:?} {b:?} {found:?}");
        }
    }
}
