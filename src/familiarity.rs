//! What an answer says about its own worth: whether the model knows photos of this kind, and whether a class is
//! certain. Models whose cards have neither familiarity nor calibration are answered as before.

use skincell_vision::card::{Card, Familiar};

use crate::inference::Scores;
use crate::problem::Problem;
use crate::settings::Unfamiliar;

/// How far the classes of an answer may be relied on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Certainty {
    /// The photo's familiarity, if the model has that output.
    pub familiarity: Option<Familiar>,
    /// Whether the photo is familiar and a class reaches the card's `certain_above`, if the card has it.
    pub is_certain: Option<bool>,
}

/// The photo's familiarity.
///
/// # Errors
/// [`Problem::Unfamiliar`] if the photo is unfamiliar and such photos are refused.
pub(crate) fn read(
    scores: &Scores,
    card: &Card,
    unfamiliar: Unfamiliar,
) -> Result<Option<Familiar>, Problem> {
    let known = card.familiarity.as_ref().zip(scores.familiarity);
    let Some(familiar) = known.map(|(card, score)| card.read(score)) else { return Ok(None) };
    if !familiar.is_familiar && unfamiliar == Unfamiliar::Refuse {
        let Familiar { basis, score, .. } = familiar;
        return Err(Problem::Unfamiliar { model: card.name.clone(), basis, score });
    }
    Ok(Some(familiar))
}

/// Whether a class is certain; never of an unfamiliar photo.
pub(crate) fn certainty(
    familiarity: Option<Familiar>,
    probabilities: &[f32],
    card: &Card,
) -> Certainty {
    let known = familiarity.as_ref().is_none_or(|familiar| familiar.is_familiar);
    let reached = |least: f32| known && probabilities.iter().any(|p| *p >= least);
    let is_certain =
        card.calibration.as_ref().map(|calibration| reached(calibration.certain_above));
    Certainty { familiarity, is_certain }
}
