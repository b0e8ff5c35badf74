//! Rounds weights to whole steps so that the error of the layer's output on the photos is small, not that of
//! each weight.
//!
//! The error of one weight's rounding is made good by the weights rounded after it, as far as their inputs
//! vary together on the photos (GPTQ, arXiv:2210.17323). The inputs' means do not count, because the bias
//! takes up what they contribute. Scales are given.

/// Share of the mean variance that is added to each variance: less fits the photos better, and others worse.
const DAMPING: f64 = 0.05;

/// How the inputs of a layer go together, as the Cholesky factor of their covariance.
pub(super) struct Together {
    /// Indices of the inputs, those of the smallest variance first. The last is rounded first.
    order: Vec<usize>,
    /// `[inputs][inputs]`, lower triangle, in that order.
    factor: Vec<f64>,
}

impl Together {
    /// The factor of a covariance `[inputs][inputs]`; `None` if it has none, as when a value is not finite.
    pub(super) fn new(covariance: &[f32], inputs: usize) -> Option<Self> {
        if inputs == 0 || covariance.len() != inputs * inputs {
            return None;
        }
        let at = |row: usize, column: usize| f64::from(covariance[row * inputs + column]);
        let mean = (0..inputs).map(|i| at(i, i)).sum::<f64>() / inputs as f64;
        let more = DAMPING * mean + f64::from(f32::MIN_POSITIVE);
        let mut order: Vec<usize> = (0..inputs).collect();
        order.sort_by(|a, b| at(*a, *a).total_cmp(&at(*b, *b)));
        let mut factor = vec![0.0; inputs * inputs];
        for row in 0..inputs {
            for column in 0..=row {
                let given = at(order[row], order[column]) + if row == column { more } else { 0.0 };
                let (before, own) = factor.split_at_mut(row * inputs);
                let other = if column == row {
                    &own[..column]
                } else {
                    &before[column * inputs..][..column]
                };
                let left = given - dot(&own[..column], other);
                own[column] = if column < row {
                    left / before[column * inputs + column]
                } else {
                    left.sqrt()
                };
            }
            let diagonal = factor[row * inputs + row];
            if !(diagonal.is_finite() && diagonal > 0.0) {
                return None;
            }
        }
        Some(Self { order, factor })
    }

    /// Whole steps for the weights of one output, `[inputs]`, at most `most` in size.
    pub(super) fn steps(&self, weights: &[f32], scale: f32, most: f32) -> Vec<f32> {
        let inputs = self.order.len();
        let mut steps = vec![0.0; inputs];
        // For each input, the part of the output's error that its weight can make good.
        let mut owed = vec![0.0; inputs];
        for place in (0..inputs).rev() {
            let row = &self.factor[place * inputs..=place * inputs + place];
            let weight = f64::from(weights[self.order[place]]);
            let wanted = weight + owed[place] / row[place];
            let step = (wanted / f64::from(scale)).round().clamp(-f64::from(most), f64::from(most));
            steps[self.order[place]] = step as f32;
            let error = weight - step * f64::from(scale);
            owed.iter_mut().zip(row).for_each(|(owed, factor)| *owed += error * factor);
        }
        steps
    }
}

/// The sum of products, in eight parts, which the compiler computes at once.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.0.iter().zip(b.0) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeded numbers from -1 to 1.
    fn noise(seed: u32) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1_u32 << 23) as f32 - 1.0
        }
    }

    /// The covariance of inputs of which `inputs` are mixed from a third as many sources.
    fn covariance(inputs: usize, next: &mut impl FnMut() -> f32) -> Vec<f32> {
        let sources = inputs / 3;
        let mixed: Vec<f32> = (0..inputs * sources).map(|_| next()).collect();
        let mut covariance = vec![0.0; inputs * inputs];
        for a in 0..inputs {
            for b in 0..inputs {
                let pairs = (0..sources).map(|s| mixed[a * sources + s] * mixed[b * sources + s]);
                covariance[a * inputs + b] =
                    pairs.sum::<f32>() + f32::from(u8::from(a == b)) * 0.01;
            }
        }
        covariance
    }

    fn error(covariance: &[f32], weights: &[f32], steps: &[f32], scale: f32) -> f64 {
        let off: Vec<f32> = weights.iter().zip(steps).map(|(w, s)| w - scale * s).collect();
        let products = covariance.chunks(off.len()).zip(&off);
        let of_row = |(row, own): (&[f32], &f32)| -> f64 {
            row.iter().zip(&off).map(|(c, other)| f64::from(c * own * other)).sum()
        };
        products.map(of_row).sum()
    }

    #[test]
    fn errors_of_inputs_that_go_together_cancel() {
        let mut next = noise(7);
        let covariance = covariance(48, &mut next);
        let together = Together::new(&covariance, 48).expect("it is positive");
        let scale = 1.0 / 15.0;
        let (mut nearest, mut found) = (0.0, 0.0);
        for _ in 0..20 {
            let weights: Vec<f32> = (0..48).map(|_| next()).collect();
            let rounded: Vec<f32> = weights.iter().map(|w| (w / scale).round()).collect();
            let steps = together.steps(&weights, scale, 15.0);
            assert!(steps.iter().all(|s| s.fract() == 0.0 && s.abs() <= 15.0), "{steps:?}");
            nearest += error(&covariance, &weights, &rounded, scale);
            found += error(&covariance, &weights, &steps, scale);
        }
        assert!(found < 0.4 * nearest, "{found} of {nearest}");
    }

    #[test]
    fn without_covariance_each_weight_is_rounded_to_the_nearest() {
        let mut unit = vec![0.0; 25];
        (0..5).for_each(|i| unit[i * 6] = 1.0 + i as f32);
        let together = Together::new(&unit, 5).expect("it is positive");
        let weights = [0.31, -0.49, 0.74, 9.0, -9.0];
        assert_eq!(together.steps(&weights, 0.25, 4.0), [1.0, -2.0, 3.0, 4.0, -4.0]);
        assert!(Together::new(&[f32::NAN; 4], 2).is_none());
        assert!(Together::new(&[0.0; 4], 2).is_some(), "a constant input is no obstacle");
        assert!(Together::new(&[1.0, -9.0, -9.0, 1.0], 2).is_none(), "no covariance is like this");
    }
}
