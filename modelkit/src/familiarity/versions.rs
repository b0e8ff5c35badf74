//! Which photos show the same picture: copies of it, crops, and the same photo saved again.
//!
//! Photos are versions of one picture if their names say so, if they look alike as thumbnails, or if the
//! model sees nearly the same in them.

use skincell_vision::card::Card;

use super::distance::{BLOCK, Rows, Turned};
use super::gather::{Gathered, Looks, Picture, picture_of};
use super::{FEWEST, FamiliarityError};
use crate::photos;

/// Photos whose centred features have at least this cosine are versions of one picture.
const SAME: f32 = 0.995;
/// Photos whose squared distance is at most this share of the mean one between foreign pictures are versions
/// too if they look alike: where all photos are versions of one picture, nothing is left of centred features
/// but noise. Features of a network that sees little may be as near for different pictures.
const NEAR: f64 = 0.02;
/// Photos look alike if the squared difference of their thumbnails is at most this share of the sum of both
/// squares; it is about 1 for different pictures.
const ALIKE: f32 = 0.05;
/// Photos are versions whatever a network makes of them if that share is at most this. Saved again with other
/// sizes and JPEG qualities down to 30, `models/skin`'s drawings reach 0.008; two different ones have at
/// least 0.16.
const ALMOST_EQUAL: f32 = 0.01;

/// Reads photos until so many different pictures are found, by names and thumbnails, that a fit is possible.
/// The model, which takes much longer, may tell fewer apart; it never tells more.
///
/// # Errors
/// [`FamiliarityError::Unreadable`] or [`FamiliarityError::TooFew`] if the photos are too few for a fit.
pub(super) fn enough(pictures: &[Picture], card: &Card) -> Result<(), FamiliarityError> {
    let mut different: Vec<Looks> = Vec::with_capacity(FEWEST);
    let mut files = Vec::new();
    for picture in pictures {
        match photos::load(&picture.file, &card.input) {
            Ok(tensor) => {
                let elements = photos::elements(&tensor);
                let new = Looks::of(picture_of(&picture.file), &elements, &card.input);
                if !different.iter().any(|known| look_same(known, &new, ALMOST_EQUAL)) {
                    different.push(new);
                }
            }
            Err(error) => files.push(error.to_string()),
        }
        if different.len() >= FEWEST {
            return Ok(());
        }
    }
    let (photos, pictures) = (pictures.len(), different.len());
    Err(if files.is_empty() {
        FamiliarityError::TooFew { photos, pictures, outliers: Vec::new() }
    } else {
        FamiliarityError::Unreadable { photos, files }
    })
}

/// Whether two photos show the same picture by their names, or by thumbnails that are this much unlike.
fn look_same(one: &Looks, other: &Looks, most: f32) -> bool {
    one.picture == other.picture || unlike(&one.thumbnail, &other.thumbnail) <= most
}

/// The picture that each photo shows, numbered from 0. Photos show the same picture if their names up to
/// `__` are the same, or if their features or thumbnails almost are: see [`SAME`], [`NEAR`] and
/// [`ALMOST_EQUAL`]. All rows are normalised.
pub(super) fn groups(rows: &Rows, foreign: &Rows, seen: &[Gathered]) -> Vec<usize> {
    // The mean squared distance between normalised rows is 2 - 2 |mean|^2, that between two 2 - 2 cos.
    let mean: f64 = foreign.mean().iter().map(|v| f64::from(*v).powi(2)).sum();
    let near = (1.0 - NEAR * (1.0 - mean)) as f32;
    let centred = rows.minus(&rows.mean());
    let units = Rows::normalised((0..rows.count()).map(|i| centred.row(i)), rows.width);
    let all: Vec<usize> = (0..rows.count()).collect();
    let mut first = all.clone();
    for block in all.chunks(BLOCK) {
        let cosines = units.take(block).times(&units, Turned::Second);
        let plain = rows.take(block).times(rows, Turned::Second);
        for (row, later) in block.iter().copied().enumerate() {
            let same = |earlier: &usize| {
                let most = if plain.row(row)[*earlier] >= near { ALIKE } else { ALMOST_EQUAL };
                cosines.row(row)[*earlier] >= SAME
                    || look_same(&seen[*earlier].looks, &seen[later].looks, most)
            };
            if let Some(earlier) = (0..later).find(same) {
                first[later] = first[earlier];
            }
        }
    }
    let mut numbers = vec![usize::MAX; rows.count()];
    let mut count = 0;
    for index in 0..rows.count() {
        if first[index] == index {
            numbers[index] = count;
            count += 1;
        }
    }
    first.into_iter().map(|index| numbers[index]).collect()
}

/// The squared difference of two thumbnails, as a share of the sum of both squares.
fn unlike(one: &[f32], other: &[f32]) -> f32 {
    let (between, both) = one.iter().zip(other).fold((0.0, 0.0), |(between, both), (a, b)| {
        (between + (a - b) * (a - b), both + a * a + b * b)
    });
    between / f32::max(both, f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_picture_count_once_even_if_there_is_no_other() {
        let row = |picture: usize, version: usize| {
            let noise = |at: usize| ((picture * 31 + version * 17 + at * 7) % 13) as f32 / 13.0;
            let base = |at: usize| if at == picture { 3.0 } else { 1.0 };
            (0..64).map(|at| base(at) + 0.02 * noise(at)).collect::<Vec<_>>()
        };
        let rows = |all: &[Vec<f32>]| Rows::normalised(all.iter().map(Vec::as_slice), 64);
        let named = |look: &dyn Fn(usize) -> Vec<f32>| -> Vec<Gathered> {
            let picture = |index: usize| Gathered {
                features: vec![],
                probabilities: vec![],
                looks: Looks { thumbnail: look(index), picture: index.to_string().into() },
            };
            (0..40).map(picture).collect()
        };
        let bright = |at: usize| (0..40).map(|part| f32::from(u8::from(part == at))).collect();
        let foreign = rows(&(0..64).map(|picture| row(picture, 0)).collect::<Vec<_>>());
        let one = rows(&(0..40).map(|version| row(5, version)).collect::<Vec<_>>());
        assert_eq!(groups(&one, &foreign, &named(&|_| bright(3))), [0; 40]);
        // A network may see little difference where there is one.
        let found = groups(&one, &foreign, &named(&|index| bright(index % 2)));
        assert!(found[0] == 0 && found[1] == 1, "{found:?}");
        let all = rows(&(0..40).map(|picture| row(picture, 1)).collect::<Vec<_>>());
        assert_eq!(groups(&all, &foreign, &named(&bright)), (0..40).collect::<Vec<_>>());
        // Or much of what saving a photo again has changed.
        let found = groups(&all, &foreign, &named(&|index| bright(index / 2)));
        assert_eq!(found, (0..40).map(|index| index / 2).collect::<Vec<_>>());
    }
}
