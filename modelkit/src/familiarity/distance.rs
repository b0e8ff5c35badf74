//! The distance of a feature vector from others: Mahalanobis's, with a covariance of low rank.
//!
//! With eigenvalues λ of the covariance, directions v and the mean variance σ² of all other directions, the
//! squared distance of r = f/|f| - mean is |r|²/σ² - Σ (1/σ² - 1/λ) (v·r)² (Tipping and Bishop 1999,
//! "Probabilistic Principal Component Analysis"). The directions are found by a block power iteration
//! (Halko, Martinsson and Tropp 2011, arXiv:0909.4061); a whole eigendecomposition is not needed.

use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::MatrixLayout;
use rten_tensor::{Matrix, NdTensorView};

/// Directions iterated beside those wanted (Halko et al. use 5 to 10).
const SPARE: usize = 8;
/// Power iterations. Chosen, not measured; Halko et al. use one or two for a coarser result.
const ITERATIONS: usize = 8;

/// Rows that are compared with all others at once: 20 MB of cosines for 10,000 photos.
pub(super) const BLOCK: usize = 512;

/// A fitted distance.
#[derive(Debug, Clone)]
pub(super) struct Distance {
    /// Mean of the normalised features.
    pub(super) mean: Vec<f32>,
    /// `[features, rank]`: each direction times √(1 - σ²/λ).
    pub(super) directions: Vec<f32>,
    pub(super) rank: usize,
    /// 1/σ².
    pub(super) precision: f64,
}

/// Rows of `width` numbers each.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) width: usize,
    pub(super) data: Vec<f32>,
}

impl Rows {
    /// Rows divided by their L2 norm.
    pub(super) fn normalised<'r>(rows: impl Iterator<Item = &'r [f32]>, width: usize) -> Self {
        let mut data = Vec::new();
        for row in rows {
            let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
            data.extend(row.iter().map(|v| (f64::from(*v) / norm) as f32));
        }
        Self { width, data }
    }

    pub(super) fn count(&self) -> usize {
        self.data.len() / self.width.max(1)
    }

    pub(super) fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.width..(index + 1) * self.width]
    }

    pub(super) fn take(&self, indices: &[usize]) -> Self {
        let data = indices.iter().flat_map(|index| self.row(*index)).copied().collect();
        Self { width: self.width, data }
    }

    /// The mean of all rows.
    pub(super) fn mean(&self) -> Vec<f32> {
        let mut sum = vec![0.0_f64; self.width];
        for row in self.data.chunks_exact(self.width) {
            sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        sum.into_iter().map(|sum| (sum / self.count() as f64) as f32).collect()
    }

    /// The rows with a vector subtracted from each.
    pub(super) fn minus(&self, vector: &[f32]) -> Self {
        let each = self.data.chunks_exact(self.width);
        let data = each.flat_map(|row| row.iter().zip(vector).map(|(v, m)| v - m)).collect();
        Self { width: self.width, data }
    }

    fn view(&self) -> Matrix<'_, f32> {
        NdTensorView::from_data([self.count(), self.width], self.data.as_slice())
    }

    /// `self · other`, or `self^T · other`, or `self · other^T`.
    pub(super) fn times(&self, other: &Self, turned: Turned) -> Self {
        let (a, b) = match turned {
            Turned::Neither => (self.view(), other.view()),
            Turned::First => (self.view().transposed(), other.view()),
            Turned::Second => (self.view(), other.view().transposed()),
        };
        let (height, width) = (a.rows(), b.cols());
        let mut data = vec![0.0; height * width];
        let (a, b) = (GemmInputA::Unpacked(a), GemmInputB::Unpacked(b));
        let product = GemmExecutor::<f32, f32, f32>::new();
        // Fails only for shapes that do not match, which no caller passes.
        let _ = product.gemm(&mut data, a, b, GemmOptions::default());
        Self { width, data }
    }
}

/// Which factor of a product is transposed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Turned {
    Neither,
    First,
    Second,
}

impl Distance {
    /// Fits to normalised rows, with at most `rank` directions.
    pub(super) fn fit(rows: &Rows, rank: usize) -> Self {
        let mean = rows.mean();
        let centred = rows.minus(&mean);
        let freedom = (rows.count() as f64 - 1.0).max(1.0);
        let rank = rank.min(rows.count().saturating_sub(SPARE + 1)).min(rows.width / 2);
        let (values, vectors) = leading(&centred, rank);
        let total: f64 = centred.data.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / freedom;
        let values: Vec<f64> = values.iter().map(|value| value / freedom).collect();
        let mut fitted = Self { mean, directions: vectors.data, rank, precision: 1.0 };
        fitted.weigh(&values, total);
        fitted
    }

    /// Scales unit directions by √(1 - σ²/λ).
    fn weigh(&mut self, values: &[f64], total: f64) {
        let rest = (total - values.iter().sum::<f64>()).max(total * 1e-6).max(1e-12);
        let noise = rest / (self.mean.len() - self.rank).max(1) as f64;
        for row in self.directions.chunks_exact_mut(self.rank.max(1)) {
            for (direction, value) in row.iter_mut().zip(values) {
                *direction *= (1.0 - noise / value.max(noise)).sqrt() as f32;
            }
        }
        self.precision = 1.0 / noise;
    }

    /// The distance of each normalised row: not squared, 0 or more.
    pub(super) fn of(&self, rows: &Rows) -> Vec<f64> {
        let centred = rows.minus(&self.mean);
        let directions = Rows { width: self.rank.max(1), data: self.directions.clone() };
        let along = centred.times(&directions, Turned::Neither);
        let square = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        let each = (0..rows.count()).map(|i| square(centred.row(i)) - square(along.row(i)));
        each.map(|squared| (squared.max(0.0) * self.precision).sqrt()).collect()
    }
}

/// The largest `rank` eigenvalues of `rows^T · rows` and their directions, `[width, rank]`.
fn leading(rows: &Rows, rank: usize) -> (Vec<f64>, Rows) {
    let wide = (rank + SPARE).min(rows.width);
    // A fixed seed: the same photos give the same fit.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    let start = (0..rows.width * wide).map(|_| next()).collect();
    let mut basis = Rows { width: wide, data: start };
    for _ in 0..ITERATIONS {
        orthonormalise(&mut basis);
        let along = rows.times(&basis, Turned::Neither);
        basis = rows.times(&along, Turned::First);
    }
    orthonormalise(&mut basis);
    let along = rows.times(&basis, Turned::Neither);
    let small = along.times(&along, Turned::First);
    let (values, turn) =
        symmetric(&small.data.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), wide);
    let mut order: Vec<usize> = (0..wide).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(rank);
    let chosen = (0..wide).flat_map(|row| order.iter().map(move |column| (row, *column)));
    let turn = chosen.map(|(row, column)| turn[row * wide + column] as f32).collect();
    let vectors = basis.times(&Rows { width: rank.max(1), data: turn }, Turned::Neither);
    (order.iter().map(|index| values[*index].max(0.0)).collect(), vectors)
}

/// Makes the columns orthonormal, by Gram and Schmidt's method applied twice.
fn orthonormalise(basis: &mut Rows) {
    let (height, width) = (basis.count(), basis.width);
    let mut columns: Vec<Vec<f64>> = (0..width)
        .map(|column| (0..height).map(|row| f64::from(basis.data[row * width + column])).collect())
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for at in 0..width {
        let (done, rest) = columns.split_at_mut(at);
        let column = &mut rest[0];
        for _ in 0..2 {
            for other in done.iter() {
                let share = dot(column, other);
                column.iter_mut().zip(other).for_each(|(v, o)| *v -= share * o);
            }
            let norm = dot(column, column).sqrt().max(1e-300);
            column.iter_mut().for_each(|v| *v /= norm);
        }
    }
    for (at, value) in basis.data.iter_mut().enumerate() {
        *value = columns[at % width][at / width] as f32;
    }
}

/// Eigenvalues and eigenvectors (columns) of a small symmetric matrix, by Jacobi's rotations (Golub and Van
/// Loan, "Matrix Computations", 8.5).
fn symmetric(matrix: &[f64], size: usize) -> (Vec<f64>, Vec<f64>) {
    let mut a = matrix.to_vec();
    let mut v: Vec<f64> =
        (0..size * size).map(|i| f64::from(u8::from(i / size == i % size))).collect();
    // A few sweeps are enough, because they converge quadratically; 30 only bounds the loop.
    for _ in 0..30 {
        let outside = |i: &usize| i / size != i % size;
        let rest: f64 = (0..size * size).filter(outside).map(|i| a[i] * a[i]).sum();
        if rest <= 1e-22 * a.iter().map(|x| x * x).sum::<f64>() {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                rotate(&mut a, &mut v, size, (p, q));
            }
        }
    }
    ((0..size).map(|i| a[i * size + i]).collect(), v)
}

/// Makes element (p, q) zero.
fn rotate(a: &mut [f64], v: &mut [f64], size: usize, (p, q): (usize, usize)) {
    let off = a[p * size + q];
    if off == 0.0 {
        return;
    }
    let theta = (a[q * size + q] - a[p * size + p]) / (2.0 * off);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    let turn = |m: &mut [f64], i: usize, j: usize| {
        let (x, y) = (m[i], m[j]);
        m[i] = c * x - s * y;
        m[j] = s * x + c * y;
    };
    for k in 0..size {
        turn(a, k * size + p, k * size + q);
    }
    for k in 0..size {
        turn(a, p * size + k, q * size + k);
        turn(v, k * size + p, k * size + q);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points spread by 4, 2 and 1 along three axes and by 0.1 along 29 others, seeded.
    fn cloud(count: usize) -> Rows {
        let mut state = 7_u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let spread = |at: usize| [4.0, 2.0, 1.0].get(at).copied().unwrap_or(0.1);
        let data =
            (0..count * 32).map(|i| (uniform() + uniform() + uniform()) * 2.0 * spread(i % 32));
        Rows { width: 32, data: data.collect() }
    }

    /// A uniform on [-0.5, 0.5] has variance 1/12; three of them, doubled, have 1.
    #[test]
    fn the_distance_is_that_of_the_known_covariance() {
        let fitted = Distance::fit(&cloud(4000), 3);
        assert!((1.0 / fitted.precision / 0.01 - 1.0).abs() < 0.05, "{}", fitted.precision);
        let mut probe = vec![0.0_f32; 32];
        for (axis, value, expected) in [(0, 8.0, 2.0), (1, 2.0, 1.0), (2, 3.0, 3.0), (9, 0.5, 5.0)]
        {
            probe.fill(0.0);
            probe[axis] = value;
            let found = fitted.of(&Rows { width: 32, data: probe.clone() })[0];
            assert!(
                (found / expected - 1.0_f64).abs() < 0.06,
                "axis {axis}: {found}, not {expected}"
            );
        }
    }

    #[test]
    fn eigenvalues_of_a_small_matrix_are_exact() {
        let (values, vectors) = symmetric(&[2.0, 1.0, 1.0, 2.0], 2);
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        assert!((sorted[0] - 1.0).abs() < 1e-12 && (sorted[1] - 3.0).abs() < 1e-12);
        assert!(vectors.iter().all(|v| (v.abs() - 0.5_f64.sqrt()).abs() < 1e-12));
    }
}
