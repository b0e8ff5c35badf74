//! Fits the distance, and takes its threshold from photos that the fit has not seen.
//!
//! A photo's score is its distance by a fit to the other four fifths of the pictures. Versions of one picture
//! (copies, crops) are always in the same fifth: otherwise their distances would be too small, and the
//! threshold would refuse most new photos. Together they weigh as much as any other picture.

use super::distance::{Distance, Rows};
use super::gather::Gathered;
use super::held::{FOLDS, held_out};
use super::versions::groups;
use super::{ACCEPTED, FEWEST, outliers};

/// The ranks that are compared: with the column of ones, whole panels of cellnet's products.
const RANKS: [usize; 3] = [31, 15, 7];
/// The rank that is taken unless another's AUROC is larger by [`BETTER`]: 31 costs twice the bytes.
const PREFERRED: usize = 15;
const BETTER: f64 = 1e-3;
/// Fewest pictures for each direction: with fewer, distances depend so much on their number that a threshold
/// from fits to a part of them is too large for the fit to all.
const EACH: usize = 4;
/// Bytes that the added constants may take: a row of directions, the mean and a one for each feature.
const MOST_BYTES: usize = 190_000;
/// The result of [`fit`].
pub(super) struct Fitted {
    pub(super) distance: Distance,
    /// The largest distance of a familiar photo.
    pub(super) threshold: f64,
    /// Scores of the kept photos by fits that have not seen them, divided by the threshold, ascending.
    pub(super) scores: Vec<Score>,
    pub(super) auroc: f64,
    /// Indices of the photos fitted to.
    pub(super) kept: Vec<usize>,
    /// Number of different pictures among them.
    pub(super) pictures: usize,
    /// Indices of the photos of another kind.
    pub(super) outliers: Vec<usize>,
}

/// A photo's score.
#[derive(Debug, Clone, Copy)]
pub(super) struct Score {
    pub(super) value: f64,
    /// 1 / number of photos that show the same picture. The weights of all photos add up to the pictures.
    pub(super) weight: f64,
}

/// Too few different pictures for a fit.
pub(super) struct TooFew {
    /// Number of different pictures of the same kind.
    pub(super) pictures: usize,
    /// Indices of the photos of another kind.
    pub(super) outliers: Vec<usize>,
}

/// Fits to the features of photos; `foreign` are the features of pictures of other kinds.
///
/// # Errors
/// [`TooFew`] for fewer than 35 different pictures of one kind.
pub(super) fn fit(seen: &[Gathered], foreign: &[Gathered]) -> Result<Fitted, TooFew> {
    let width = seen.first().map_or(0, |photo| photo.features.len());
    let normalised =
        |all: &[Gathered]| Rows::normalised(all.iter().map(|g| &g.features[..]), width);
    let (rows, foreign) = (normalised(seen), normalised(foreign));
    let groups = groups(&rows, &foreign, seen);
    let count = |kept: &[usize]| {
        let mut found: Vec<usize> = kept.iter().map(|index| groups[*index]).collect();
        found.sort_unstable();
        found.dedup();
        found.len()
    };
    let left_out = |kept: &[usize]| -> Vec<usize> {
        (0..seen.len()).filter(|index| kept.binary_search(index).is_err()).collect()
    };
    let enough = |kept: &[usize]| match count(kept) {
        pictures if pictures < FEWEST => Err(TooFew { pictures, outliers: left_out(kept) }),
        pictures => Ok(pictures),
    };
    let all: Vec<usize> = (0..seen.len()).collect();
    let most = ranks(width, enough(&all)?)[0];
    let kept = outliers::without(&rows, &groups, most);
    let pictures = enough(&kept)?;
    let mut best: Option<(f64, usize, Vec<f64>)> = None;
    for rank in ranks(width, pictures) {
        let (scores, others) = held_out(&rows, &foreign, &groups, &kept, rank, FOLDS);
        let auroc = auroc(&weighted(&scores, &kept, &groups), &others);
        if best.as_ref().is_none_or(|(most, other, _)| worth(auroc, rank) > worth(*most, *other)) {
            best = Some((auroc, rank, scores));
        }
    }
    let (auroc, rank, scores) = best.unwrap_or_default();
    let mut scores = weighted(&scores, &kept, &groups);
    let halves = held_out(&rows, &foreign, &groups, &kept, rank, 2).0;
    let shift = settled(&scores, &weighted(&halves, &kept, &groups)) - log_mean(&scores);
    scores.iter_mut().for_each(|score| score.value *= shift.exp());
    let threshold = order_statistic(&scores).max(f64::MIN_POSITIVE);
    let distance = Distance::fit(&rows.take(&kept), rank);
    scores.iter_mut().for_each(|score| score.value /= threshold);
    let outliers = left_out(&kept);
    Ok(Fitted { distance, threshold, scores, auroc, kept, pictures, outliers })
}

/// What ranks are compared by.
fn worth(auroc: f64, rank: usize) -> f64 {
    if rank == PREFERRED { auroc + BETTER } else { auroc }
}

/// The scores of the kept photos, ascending, with their weights.
fn weighted(scores: &[f64], kept: &[usize], groups: &[usize]) -> Vec<Score> {
    let mut sizes = vec![0_usize; groups.iter().max().map_or(0, |last| last + 1)];
    kept.iter().for_each(|index| sizes[groups[*index]] += 1);
    let weight = |index: &usize| 1.0 / sizes[groups[*index]].max(1) as f64;
    let each = scores.iter().zip(kept);
    let mut found: Vec<Score> =
        each.map(|(value, index)| Score { value: *value, weight: weight(index) }).collect();
    found.sort_by(|a, b| a.value.total_cmp(&b.value));
    found
}

/// The ranks to be compared for so many features and pictures, largest first: those that fit in
/// [`MOST_BYTES`] and leave [`EACH`] pictures for a direction, or the largest that does.
fn ranks(width: usize, pictures: usize) -> Vec<usize> {
    let fits = (MOST_BYTES / 4 / width.max(1)).saturating_sub(2).min(pictures / EACH).max(1);
    let found: Vec<usize> = RANKS.into_iter().filter(|rank| *rank <= fits).collect();
    if found.is_empty() { vec![fits] } else { found }
}

/// The smallest of the ascending scores that at least the share `ACCEPTED` of photos of further pictures does
/// not exceed: number ⌈(n + 1) · share⌉ of n, or the largest (Vovk, Gammerman and Shafer 2005, "Algorithmic
/// Learning in a Random World", 2.2). Photos of one picture count as parts of one (Dunn, Wasserman and Ramdas
/// 2018, arXiv:1809.07441).
fn order_statistic(scores: &[Score]) -> f64 {
    let pictures = total(scores).round();
    let number = ((pictures + 1.0) * ACCEPTED - 1e-9).ceil().min(pictures);
    let mut below = 0.0;
    let found = scores.iter().find(|score| {
        below += score.weight;
        below >= number - 1e-6
    });
    found.or(scores.last()).map_or(0.0, |score| score.value)
}

/// The score at a share from 0 to 1 of the ascending scores, linear between them.
pub(super) fn quantile(scores: &[Score], share: f64) -> f64 {
    let Some(last) = scores.last() else { return 0.0 };
    let at = share * (total(scores) - last.weight);
    let mut place = 0.0;
    for pair in scores.windows(2) {
        if at <= place + pair[0].weight {
            let part = ((at - place) / pair[0].weight).clamp(0.0, 1.0);
            return pair[0].value + (pair[1].value - pair[0].value) * part;
        }
        place += pair[0].weight;
    }
    last.value
}

/// The sum of the weights: the number of pictures.
fn total(scores: &[Score]) -> f64 {
    scores.iter().map(|score| score.weight).sum()
}

/// The mean of the scores' logarithms, each picture counted once.
pub(super) fn log_mean(scores: &[Score]) -> f64 {
    let sum: f64 = scores.iter().map(|score| score.weight * score.value.max(1e-9).ln()).sum();
    sum / total(scores).max(1e-9)
}

/// The mean logarithm of the scores of further photos by a fit to all n, from scores by fits to 4/5 and to
/// 1/2 of them. The more photos are fitted to, the smaller are the scores of others: the mean is `a + b/n`.
fn settled(most: &[Score], halves: &[Score]) -> f64 {
    let more = FOLDS as f64 / (FOLDS as f64 - 1.0);
    log_mean(most) - (log_mean(halves) - log_mean(most)) * (more - 1.0) / (2.0 - more)
}

/// Area under the ROC curve: the share of pairs in which the foreign picture has the larger score. The scores
/// are ascending.
fn auroc(scores: &[Score], foreign: &[f64]) -> f64 {
    let weight = |until: usize| total(&scores[..until]);
    let below = |score: &f64| {
        let less = weight(scores.partition_point(|known| known.value < *score));
        let most = weight(scores.partition_point(|known| known.value <= *score));
        f64::midpoint(less, most)
    };
    let pairs = total(scores) * foreign.len() as f64;
    foreign.iter().map(below).sum::<f64>() / pairs.max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(values: &[f64]) -> Vec<Score> {
        values.iter().map(|value| Score { value: *value, weight: 1.0 }).collect()
    }

    #[test]
    fn versions_of_one_picture_weigh_as_much_as_any_other() {
        // 39 pictures, and 61 versions of one with the largest scores, as one of 40: number 40 of 40.
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        let groups: Vec<usize> = (0..100).map(|at| at.min(39)).collect();
        let kept: Vec<usize> = (0..100).collect();
        let scores = weighted(&values, &kept, &groups);
        assert!((total(&scores) - 40.0).abs() < 1e-9);
        assert_eq!(order_statistic(&scores), 100.0);
        // By photos the median is 50.5; 20 of 40 pictures have at most 20.
        let middle = quantile(&scores, 0.5);
        assert!((20.0..21.0).contains(&middle), "{middle}");
        let logs: f64 = (1..=39).map(|at| f64::from(at).ln()).sum();
        let last: f64 = (40..=100).map(|at| f64::from(at).ln()).sum::<f64>() / 61.0;
        assert!((log_mean(&scores) - (logs + last) / 40.0).abs() < 1e-9);
        assert!((auroc(&scores, &[39.5]) - 39.0 / 40.0).abs() < 1e-9);
    }

    #[test]
    fn quantiles_are_linear_between_scores() {
        let scores = once(&[1.0, 2.0, 4.0]);
        let found = [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| quantile(&scores, share));
        assert_eq!(found, [1.0, 1.5, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn the_threshold_is_the_conformal_order_statistic() {
        let scores = once(&(1..=99).map(f64::from).collect::<Vec<_>>());
        assert_eq!(order_statistic(&scores), 98.0);
        assert_eq!(order_statistic(&scores[..35]), 35.0, "of few photos the largest");
    }

    #[test]
    fn ranks_fit_in_the_bytes_allowed() {
        assert_eq!(ranks(1280, 840), [31, 15, 7]);
        assert_eq!(ranks(2048, 840), [15, 7]);
        assert_eq!(ranks(9216, 840), [3]);
        assert_eq!(ranks(50_000, 840), [1]);
        assert_eq!([ranks(1280, 123), ranks(1280, 60)], [[15, 7], [15, 7]]);
        assert_eq!(ranks(1280, 35), [7]);
    }

    #[test]
    fn the_mean_of_further_photos_is_that_of_a_fit_to_all() {
        let scores = |n: f64| once(&[(2.0 + 3.0 / n).exp()]);
        let found = settled(&scores(80.0), &scores(50.0));
        assert!((found - (2.0 + 3.0 / 100.0)).abs() < 1e-12, "{found}");
    }

    #[test]
    fn auroc_counts_pairs() {
        assert_eq!(auroc(&once(&[1.0, 2.0]), &[3.0, 4.0]), 1.0);
        assert_eq!(auroc(&once(&[1.0, 3.0]), &[2.0]), 0.5);
        assert_eq!(auroc(&once(&[1.0, 1.0]), &[1.0]), 0.5);
    }
}
