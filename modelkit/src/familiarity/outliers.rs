//! Finds photos of another kind than the others, also if several of one kind are among them.
//!
//! A fit of high rank has a direction for every few photos that are like each other, so pictures of another
//! kind make each other familiar. The distance to a neighbour does not, if more neighbours are counted than
//! such pictures are expected: those far from it are suspects, and so is what lies among suspects. Then all
//! suspects are scored by fits to the others.

use super::distance::{BLOCK, Rows, Turned};
use super::held::{FOLDS, held_out};

/// Robust standard deviations of the logarithm of a score above which a photo is an outlier.
const FAR: f64 = 3.5;
/// Share of the photos that may be of one other kind without hiding it.
const LIKE: f64 = 0.125;
/// Robust standard deviations of the logarithm of the distance to the neighbour above which a photo is
/// suspect.
const SUSPECT: f64 = 2.5;
/// As [`FAR`], for a suspect whose nearest photo is one too.
const GROUPED: f64 = 2.5;
/// Neighbours of which most are suspects beside a further suspect, which is among the share [`FARTHEST`].
const NEAREST: usize = 3;
const FARTHEST: f64 = 0.25;

/// Where a photo is among the others.
struct Place {
    /// Distance to its neighbour number n · [`LIKE`] + 1.
    distance: f64,
    /// Its nearest photos, the first one first.
    nearest: Vec<usize>,
}

/// Indices of the photos that are of one kind, ascending.
pub(super) fn without(rows: &Rows, groups: &[usize], rank: usize) -> Vec<usize> {
    let outliers = find(rows, groups, rank);
    let mut kept: Vec<usize> =
        (0..rows.count()).filter(|index| outliers.binary_search(index).is_err()).collect();
    // Outliers of many kinds hide each other a little, so those found are left out and the rest is examined
    // again.
    for _ in 0..3 {
        let scores = held_out(rows, &rows.take(&[]), groups, &kept, rank, FOLDS).0;
        let far = deviations(&scores, &scores);
        if far.iter().all(|far| *far <= FAR) {
            break;
        }
        let mut far = far.into_iter();
        kept.retain(|_| far.next().is_none_or(|far| far <= FAR));
    }
    kept
}

/// Indices of the photos of another kind, ascending. The rows are normalised, `groups` are their pictures,
/// and `rank` is that of the fits.
fn find(rows: &Rows, groups: &[usize], rank: usize) -> Vec<usize> {
    let places = places(rows);
    let suspects = suspects(&places);
    let (suspected, others): (Vec<usize>, Vec<usize>) =
        (0..rows.count()).partition(|index| suspects[*index]);
    if suspected.is_empty() {
        return Vec::new();
    }
    let (known, found) = held_out(rows, &rows.take(&suspected), groups, &others, rank, FOLDS);
    let is_outlier = |(index, far): &(usize, f64)| {
        let grouped = places[*index].nearest.first().is_some_and(|nearest| suspects[*nearest]);
        *far > if grouped { GROUPED } else { FAR }
    };
    let found = suspected.into_iter().zip(deviations(&found, &known));
    found.filter(is_outlier).map(|(index, _)| index).collect()
}

fn places(rows: &Rows) -> Vec<Place> {
    let count = rows.count();
    let number = ((count as f64 * LIKE).ceil() as usize + 1).min(count.saturating_sub(1));
    let all: Vec<usize> = (0..count).collect();
    let mut found = Vec::with_capacity(count);
    for block in all.chunks(BLOCK) {
        let cosines = rows.take(block).times(rows, Turned::Second);
        for (row, own) in block.iter().enumerate() {
            let mut near: Vec<(f32, usize)> =
                cosines.row(row).iter().copied().zip(0..).filter(|(_, at)| at != own).collect();
            near.sort_by(|a, b| b.0.total_cmp(&a.0));
            let cosine = number.checked_sub(1).and_then(|at| near.get(at)).map_or(1.0, |n| n.0);
            let distance = f64::from(2.0 - 2.0 * cosine).max(0.0).sqrt();
            let nearest = near.into_iter().take(NEAREST).map(|(_, at)| at).collect();
            found.push(Place { distance, nearest });
        }
    }
    found
}

/// Whether each photo is suspect.
fn suspects(places: &[Place]) -> Vec<bool> {
    let distances: Vec<f64> = places.iter().map(|place| place.distance).collect();
    let mut sorted = distances.clone();
    sorted.sort_by(f64::total_cmp);
    let far = sorted.get((sorted.len() as f64 * (1.0 - FARTHEST)) as usize).copied();
    let far = far.unwrap_or(f64::INFINITY);
    let mut suspects: Vec<bool> =
        deviations(&distances, &distances).into_iter().map(|far| far > SUSPECT).collect();
    loop {
        let among = |place: &Place| {
            let count = place.nearest.iter().filter(|nearest| suspects[**nearest]).count();
            place.distance >= far && count * 2 > NEAREST
        };
        let more: Vec<usize> =
            (0..places.len()).filter(|at| !suspects[*at] && among(&places[*at])).collect();
        if more.is_empty() {
            return suspects;
        }
        more.into_iter().for_each(|at| suspects[at] = true);
    }
}

/// How far the logarithms of values are above those of known ones, in robust standard deviations.
fn deviations(values: &[f64], known: &[f64]) -> Vec<f64> {
    let log = |value: &f64| value.max(1e-9).ln();
    let logs: Vec<f64> = known.iter().map(log).collect();
    let middle = median(&logs);
    let spreads: Vec<f64> = logs.iter().map(|log| (log - middle).abs()).collect();
    // 1.4826 times the median deviation is the standard deviation of a normal distribution.
    let spread = (1.4826 * median(&spreads)).max(1e-9);
    values.iter().map(|value| (log(value) - middle) / spread).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from -1 to 1 without order.
    fn numbers(seed: u64) -> impl FnMut() -> f32 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        }
    }

    /// 200 photos of 64 features around one direction, spread most along 8 others; then `like` around
    /// another.
    fn folder(like: usize) -> Rows {
        let kind = |index: usize| {
            let mut number = numbers(index as u64 + 1);
            let other = index >= 200;
            (0..64)
                .map(|at| {
                    let centre = if at == usize::from(other) { 4.0 } else { 0.0 };
                    let spread = if (8..16).contains(&at) { 1.0 } else { 0.3 };
                    centre + number() * spread
                })
                .collect::<Vec<f32>>()
        };
        let all: Vec<Vec<f32>> = (0..200 + like).map(kind).collect();
        Rows::normalised(all.iter().map(Vec::as_slice), 64)
    }

    #[test]
    fn pictures_of_one_other_kind_do_not_hide_each_other() {
        for like in [0, 1, 2, 5, 10, 20] {
            let rows = folder(like);
            let groups: Vec<usize> = (0..rows.count()).collect();
            let found = find(&rows, &groups, 31);
            assert_eq!(found, (200..200 + like).collect::<Vec<_>>(), "{like} others");
        }
    }

    #[test]
    fn a_deviation_is_that_of_the_logarithm() {
        let known: Vec<f64> = (-3..=3).map(|at| f64::from(at).exp()).collect();
        let found = deviations(&[1.0, (1.4826_f64 * 2.0 * 4.0).exp()], &known);
        assert!(found[0].abs() < 1e-12 && (found[1] - 4.0).abs() < 1e-12, "{found:?}");
    }
}
