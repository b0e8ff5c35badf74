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

/// Fits the temperature with the least cross-entropy (Guo et al. 2017, arXiv:1706.04599). The right class
/// counts as right with probability (n + 1) / (n + 2) for n photos, as in Platt 1999, "Probabilistic outputs
/// for support vector machines", 2.2: otherwise a model without mistakes on these photos would be made surer
/// without end.
/// `rows` are probabilities without temperature and the index of the right class.
#[must_use]
pub fn fit(rows: &[(Vec<f32>, usize)], activation: Activation, certain_above: f32) -> Calibrated {
    let doubt = 1.0 / (rows.len() as f64 + 2.0);
    let loss = |log: f64| -> f64 {
        let each = rows.iter().map(|(probabilities, class)| {
            let p = calibrated(probabilities, activation, log.exp() as f32);
            cross_entropy(&p, *class, activation, doubt)
        });
        each.sum()
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

/// The cross-entropy of probabilities with a target of 1 - `doubt` for the right class. The rest goes to the
/// other classes in equal parts, or, where each class has a probability of its own, `doubt` to each.
fn cross_entropy(probabilities: &[f32], right: usize, activation: Activation, doubt: f64) -> f64 {
    let log = |p: f64| p.max(1e-30).ln();
    let others = probabilities.len().saturating_sub(1).max(1) as f64;
    let each = probabilities.iter().enumerate().map(|(index, p)| {
        let p = f64::from(*p);
        match activation {
            Activation::Softmax => {
                let target = if index == right { 1.0 - doubt } else { doubt / others };
                -target * log(p)
            }
            Activation::Sigmoid => {
                let target = if index == right { 1.0 - doubt } else { doubt };
                -target * log(p) - (1.0 - target) * log(1.0 - p)
            }
        }
    });
    each.sum()
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

    /// 840 photos that are all right by a little are made surer, but only as far as 840 photos can tell.
    #[test]
    fn a_model_without_mistakes_is_not_made_sure_without_end() {
        for (activation, row) in
            [(Activation::Softmax, vec![0.6, 0.3, 0.1]), (Activation::Sigmoid, vec![0.7, 0.3, 0.3])]
        {
            let fitted = fit(&vec![(row.clone(), 0); 840], activation, 0.5);
            let p = calibrated(&row, activation, fitted.calibration.temperature);
            assert!((0.99..0.9999).contains(&p[0]), "{activation:?} {p:?}");
        }
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
