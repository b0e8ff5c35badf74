//! Whether the labels of photos are evidently exchanged: a model that answers the photos of one class as
//! another and the other way round is right, and the folders' names or the order of its labels are wrong.

use std::collections::{BTreeMap, BTreeSet};

/// Fewest photos of classes that are said to be exchanged.
const FEWEST: usize = 10;
/// Standard deviations by which photos that an exchange makes right must outnumber those that are right as
/// they are.
const EVIDENT: f64 = 3.0;

/// How often photos of each class are answered as each other.
pub(super) struct Answers {
    /// By class of the folder and class answered.
    counts: BTreeMap<(usize, usize), usize>,
    photos: usize,
}

impl Answers {
    /// Of probabilities and the class of the folder.
    pub(super) fn of(rows: &[(Vec<f32>, usize)]) -> Self {
        let mut counts = BTreeMap::new();
        for (probabilities, folder) in rows {
            let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            if let Some((answer, _)) = best {
                *counts.entry((*folder, answer)).or_default() += 1;
            }
        }
        Self { counts, photos: rows.len() }
    }

    /// Number of classes that have photos.
    pub(super) fn folders(&self) -> usize {
        self.counts.keys().map(|(folder, _)| folder).collect::<BTreeSet<_>>().len()
    }

    /// Share of photos that would be right if the same answers were given without looking at the photo (Cohen
    /// 1960, "A coefficient of agreement for nominal scales").
    pub(super) fn chance(&self) -> f64 {
        let sum = |is_answer: bool, class: usize| -> usize {
            let of = |key: &(usize, usize)| if is_answer { key.1 } else { key.0 };
            self.counts.iter().filter(|(key, _)| of(key) == class).map(|(_, count)| count).sum()
        };
        let folders: BTreeSet<usize> = self.counts.keys().map(|(folder, _)| *folder).collect();
        let both = folders.into_iter().map(|class| sum(false, class) * sum(true, class));
        both.sum::<usize>() as f64 / (self.photos.max(1) as f64).powi(2)
    }

    /// The classes of folders with the classes that most of their photos are answered as, if exchanging the
    /// labels makes far more of these photos right.
    pub(super) fn exchanged(&self) -> Option<Vec<(usize, usize)>> {
        let matched = self.matched();
        let of = |folder: &usize| -> usize {
            let own = self.counts.iter().filter(|((from, _), _)| from == folder);
            own.map(|(_, count)| count).sum()
        };
        let count = |folder: usize, answer: usize| self.counts.get(&(folder, answer)).copied();
        let moved = matched.into_iter().filter(|(folder, answer)| {
            let most = count(*folder, *answer).unwrap_or_default();
            folder != answer && most * 2 > of(folder)
        });
        let moved: Vec<(usize, usize)> = moved.collect();
        // One class alone may just be confused with another: an exchange gives it away to a folder.
        let folders: BTreeSet<usize> = moved.iter().map(|(folder, _)| *folder).collect();
        let moved: Vec<_> =
            moved.into_iter().filter(|(_, answer)| folders.contains(answer)).collect();
        let photos: usize = moved.iter().map(|(folder, _)| of(folder)).sum();
        let sum = |pick: fn(&(usize, usize)) -> (usize, usize)| -> f64 {
            let each = moved.iter().map(pick).map(|(folder, answer)| count(folder, answer));
            each.flatten().sum::<usize>() as f64
        };
        let (right, as_is) = (sum(|pair| *pair), sum(|pair| (pair.0, pair.0)));
        let evident = right - as_is > EVIDENT * (right + as_is).sqrt();
        (photos >= FEWEST && evident).then_some(moved)
    }

    /// Each folder's class with one answer, so that no answer is used twice, the most frequent pairs first.
    fn matched(&self) -> Vec<(usize, usize)> {
        let mut pairs: Vec<(&(usize, usize), &usize)> = self.counts.iter().collect();
        pairs.sort_by(|a, b| b.1.cmp(a.1));
        let (mut folders, mut answers) = (BTreeSet::new(), BTreeSet::new());
        let mut found = Vec::new();
        for ((folder, answer), _) in pairs {
            if !folders.contains(folder) && !answers.contains(answer) {
                folders.insert(*folder);
                answers.insert(*answer);
                found.push((*folder, *answer));
            }
        }
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `counts[folder][answer]` photos.
    fn answers(counts: &[[usize; 3]]) -> Answers {
        let row =
            |answer: usize| (0..3).map(|class| f32::from(u8::from(class == answer))).collect();
        let mut rows: Vec<(Vec<f32>, usize)> = Vec::new();
        for (folder, counts) in counts.iter().enumerate() {
            for (answer, count) in counts.iter().enumerate() {
                rows.extend(std::iter::repeat_n((row(answer), folder), *count));
            }
        }
        Answers::of(&rows)
    }

    #[test]
    fn exchanged_labels_are_told_from_confused_classes() {
        let swapped = answers(&[[2, 18, 0], [17, 2, 1], [1, 0, 19]]);
        assert_eq!(swapped.exchanged(), Some(vec![(0, 1), (1, 0)]));
        let turned = answers(&[[0, 20, 0], [1, 0, 19], [20, 0, 0]]);
        assert_eq!(turned.exchanged(), Some(vec![(0, 1), (1, 2), (2, 0)]));
        for honest in [
            [[20, 0, 0], [0, 20, 0], [0, 0, 20]],
            [[5, 15, 0], [0, 20, 0], [0, 0, 20]],
            [[9, 11, 0], [11, 9, 0], [0, 0, 20]],
            [[0, 3, 0], [3, 0, 0], [0, 0, 20]],
        ] {
            assert_eq!(answers(&honest).exchanged(), None, "{honest:?}");
        }
    }

    #[test]
    fn chance_is_that_of_the_same_answers_given_blindly() {
        // 90 of 100 photos and all answers are of class 0.
        let found = answers(&[[90, 0, 0], [10, 0, 0], [0, 0, 0]]);
        assert!((found.chance() - 0.9).abs() < 1e-12 && found.folders() == 2);
        let found = answers(&[[10, 10, 0], [10, 10, 0], [0, 0, 0]]);
        assert!((found.chance() - 0.5).abs() < 1e-12);
    }
}
