//! Fits a temperature to labelled photos, and measures how honest probabilities are.

use skincell_vision::card::{Activation, Calibration};
use skincell_vision::rank::calibrated;

/// Bins of the reliability diagram and of the calibration error.
pub const BINS: usize = 10;

/// A fitted calibration, and its effect on the photos it was fitted to.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibrated {
    /// As in the card.
    pub calibration: Calibration,
    /// Without the temperature.
    pub before: Honesty,
    /// With it.
    pub after: Honesty,
}

/// How well probabilities agree with what is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Honesty {
    /// Number of labelled photos.
    pub photos: usize,
    /// Share of photos whose likeliest class is right.
    pub accuracy: f64,
    /// Expected calibration error: the mean over photos of |share right - mean probability| of their bin of
    /// the likeliest class's probability, 0 to 1 (Naeini, Cooper and Hauskrecht 2015).
    pub error: f64,
    /// Brier score: the mean of the squared differences between probabilities and the right class's one-hot
    /// vector, summed over classes, 0 to 2 (Brier 1950).
    pub brier: f64,
    /// The bins of width 1 / [`BINS`], least probabilities first.
    pub bins: Vec<Bin>,
}

/// Photos whose likeliest class has a probability in one range.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bin {
    /// Number of photos.
    pub photos: usize,
    /// Mean probability of the likeliest class.
    pub probability: f64,
    /// Share of photos on which it is right.
    pub right: f64,
}

/// Fits the temperature that makes the right classes likeliest (least negative log-likelihood; Guo et al.
/// 2017, arXiv:1706.04599). `rows` are probabilities without temperature and the index of the right class.
#[must_use]
pub fn fit(rows: &[(Vec<f32>, usize)], activation: Activation, certain_above: f32) -> Calibrated {
    let loss = |log: f64| {
        let each = rows.iter().map(|(probabilities, class)| {
            let p = calibrated(probabilities, activation, log.exp() as f32);
            let right = -f64::from(p.get(*class).copied().unwrap_or_default()).max(1e-30).ln();
            if activation == Activation::Softmax {
                return right;
            }
            let others = p.iter().enumerate().filter(|(index, _)| index != class);
            right + others.map(|(_, p)| -(1.0 - f64::from(*p)).max(1e-30).ln()).sum::<f64>()
        });
        each.sum::<f64>()
    };
    let temperature = least(loss, (0.05_f64.ln(), 20_f64.ln())).exp();
    let temperature = ((temperature * 1e4).round() / 1e4) as f32;
    let scaled: Vec<_> = rows
        .iter()
        .map(|(probabilities, class)| (calibrated(probabilities, activation, temperature), *class))
        .collect();
    let photos = rows.len() as u32;
    let calibration = Calibration { temperature, photos, certain_above };
    Calibrated { calibration, before: measure(rows), after: measure(&scaled) }
}

/// The place of the least value of a function with one minimum, by golden section.
fn least(function: impl Fn(f64) -> f64, (mut low, mut high): (f64, f64)) -> f64 {
    let golden = (5_f64.sqrt() - 1.0) / 2.0;
    for _ in 0..60 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if function(a) < function(b) { high = b } else { low = a }
    }
    (low + high) / 2.0
}

/// Measures probabilities with the index of each photo's right class.
#[must_use]
pub fn measure(rows: &[(Vec<f32>, usize)]) -> Honesty {
    let mut bins = vec![Bin::default(); BINS];
    let (mut right, mut brier) = (0_usize, 0.0);
    for (probabilities, class) in rows {
        let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let (index, p) = best.map_or((usize::MAX, 0.0), |(index, p)| (index, f64::from(*p)));
        let bin = &mut bins[((p * BINS as f64) as usize).min(BINS - 1)];
        bin.photos += 1;
        bin.probability += p;
        bin.right += f64::from(u8::from(index == *class));
        right += usize::from(index == *class);
        let squares = probabilities
            .iter()
            .enumerate()
            .map(|(index, p)| (f64::from(*p) - f64::from(u8::from(index == *class))).powi(2));
        brier += squares.sum::<f64>();
    }
    let photos = rows.len().max(1) as f64;
    let error = bins.iter().map(|bin| (bin.right - bin.probability).abs()).sum::<f64>() / photos;
    for bin in bins.iter_mut().filter(|bin| bin.photos > 0) {
        bin.probability /= bin.photos as f64;
        bin.right /= bin.photos as f64;
    }
    let accuracy = right as f64 / photos;
    Honesty { photos: rows.len(), accuracy, error, brier: brier / photos, bins }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of photos whose scores were divided by 2 too often, the temperature is 0.5.
    #[test]
    fn the_temperature_undoes_a_wrong_scale() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let rows: Vec<(Vec<f32>, usize)> = (0..6000)
            .map(|_| {
                let p = uniform();
                let class = usize::from(uniform() > p);
                let (a, b) = (p.sqrt(), (1.0 - p).sqrt());
                (vec![(a / (a + b)) as f32, (b / (a + b)) as f32], class)
            })
            .collect();
        let fitted = fit(&rows, Activation::Softmax, 0.5);
        assert!((fitted.calibration.temperature - 0.5).abs() < 0.03, "{fitted:?}");
        assert!(fitted.before.error > 0.08 && fitted.after.error < 0.02, "{fitted:?}");
        assert!(fitted.after.brier < fitted.before.brier);
        assert_eq!(fitted.before.accuracy, fitted.after.accuracy);
    }

    #[test]
    fn errors_are_those_computed_by_hand() {
        let rows = [(vec![0.75, 0.25], 0), (vec![0.75, 0.25], 1), (vec![0.1, 0.9], 1)];
        let found = measure(&rows);
        assert!((found.accuracy - 2.0 / 3.0).abs() < 1e-12);
        // Bin 0.7 to 0.8: |1 - 1.5|; bin 0.9 to 1: |1 - 0.9|; of 3 photos.
        assert!((found.error - 0.6 / 3.0).abs() < 1e-7, "{}", found.error);
        assert!((found.brier - (0.125 + 1.125 + 0.02) / 3.0).abs() < 1e-7, "{}", found.brier);
    }
}
