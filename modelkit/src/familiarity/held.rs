//! Scores photos by fits that have not seen them.

use super::distance::{Distance, Rows};

pub(super) const FOLDS: usize = 5;

/// For each kept photo its distance by a fit without its fold, and for each foreign picture the mean of its
/// distances by all fits.
pub(super) fn held_out(
    rows: &Rows,
    foreign: &Rows,
    groups: &[usize],
    kept: &[usize],
    rank: usize,
    folds: usize,
) -> (Vec<f64>, Vec<f64>) {
    let mut scores = vec![0.0; kept.len()];
    let mut others = vec![0.0; foreign.count()];
    for fold in 0..folds {
        let inside = |at: &usize| groups[kept[*at]] % folds == fold;
        let (out, rest): (Vec<usize>, Vec<usize>) = (0..kept.len()).partition(inside);
        let indices =
            |positions: &[usize]| positions.iter().map(|at| kept[*at]).collect::<Vec<_>>();
        let distance = Distance::fit(&rows.take(&indices(&rest)), rank);
        let found = distance.of(&rows.take(&indices(&out)));
        out.iter().zip(found).for_each(|(at, score)| scores[*at] = score);
        let found = distance.of(foreign);
        others.iter_mut().zip(found).for_each(|(sum, score)| *sum += score / folds as f64);
    }
    (scores, others)
}
