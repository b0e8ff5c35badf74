//! What an answer says about its own worth: whether the model knows photos of this kind, and whether a class
//! is certain. Models whose cards have neither familiarity nor calibration are answered as before.

use http::header::{HeaderName, HeaderValue};
use skincell_vision::card::{Card, Familiar};

use crate::inference::Scores;
use crate::problem::Problem;
use crate::settings::Unfamiliar;

/// The header that says of an answer in any form what the members `familiarity` and `is_certain` say of JSON,
/// for each of several photos. The runner counts by it.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-answer-certainty");
/// The largest score in the header: structured fields have no larger numbers with 3 decimals.
const MOST_SCORE: f64 = 999_999_999_999.0;

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
        let Familiar { basis, score, .. } = familiar.clone();
        let header = certainty(Some(familiar), &[], card).header(card);
        let (photo, model) = ("the photo".to_owned(), card.name.clone());
        return Err(Problem::Unfamiliar { photo, model, basis, score, header });
    }
    Ok(Some(familiar))
}

impl Certainty {
    /// The value of [`HEADER`], a structured field (RFC 9651): the model's name with the parameters `score`,
    /// `deviation` (of the score's logarithm from known photos', in standard deviations), `reference` (number
    /// of known photos), `is_familiar` and `is_certain`. `None` if the card has neither familiarity nor
    /// calibration.
    pub(crate) fn header(&self, card: &Card) -> Option<HeaderValue> {
        let mut parameters = String::new();
        if let Some((known, familiar)) = card.familiarity.as_ref().zip(self.familiarity.as_ref()) {
            let Familiar { score, is_familiar, .. } = familiar;
            parameters = format!(
                ";score={:.3};deviation={:.3};reference={};is_familiar=?{}",
                score.min(MOST_SCORE),
                known.deviation(*score),
                known.pictures,
                u8::from(*is_familiar)
            );
        }
        if let Some(is_certain) = self.is_certain {
            parameters += &format!(";is_certain=?{}", u8::from(is_certain));
        }
        if parameters.is_empty() {
            return None;
        }
        // A model's name has no characters that would have to be escaped.
        HeaderValue::from_str(&format!("\"{}\"{parameters}", card.name)).ok()
    }
}

/// The parameters of [`HEADER`] that each photo has its own of, in the order of [`several`].
const OWN: [&str; 4] = ["score", "deviation", "is_familiar", "is_certain"];

/// The value of [`HEADER`] for several photos from those for each: the model's name with the parameters
/// `reference` and `photos`, a string with the four values of each photo, such as `0.831 -1.204 ?1 ?0`, and
/// commas between photos; `-` is one that the model does not tell. It stays short, because proxies limit an
/// answer's head.
pub(crate) fn several(values: &[HeaderValue]) -> Option<HeaderValue> {
    let texts: Vec<&str> = values.iter().filter_map(|value| value.to_str().ok()).collect();
    let (model, _) = texts.first()?.split_once(';')?;
    let find = |text: &str, name: &str| -> Option<String> {
        let mut parts = text.split(';').filter_map(|part| part.split_once('='));
        parts.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    let own = |text: &&str| OWN.map(|name| find(text, name).unwrap_or_else(|| "-".to_owned()));
    let photos: Vec<String> = texts.iter().map(|text| own(text).join(" ")).collect();
    let reference = texts.iter().find_map(|text| find(text, "reference"));
    let reference = reference.map(|count| format!(";reference={count}")).unwrap_or_default();
    HeaderValue::from_str(&format!("{model}{reference};photos=\"{}\"", photos.join(", "))).ok()
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
