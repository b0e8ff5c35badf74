//! What an answer says of its own worth, in the header `x-answer-certainty`, and whether the photos of a
//! service have drifted from those its model knows. What a photo and a class are is left to the application.

use http::{HeaderMap, HeaderName};

/// The header: a structured field (RFC 9651) of a model's name and parameters. Those of several photos are in
/// one, `photos`, a string of score, deviation, `is_familiar` and `is_certain` of each, with commas between
/// photos.
pub const HEADER: HeaderName = HeaderName::from_static("x-answer-certainty");
/// Photos among which drift is looked for: the latest of a service.
pub(crate) const WINDOW: usize = 200;
/// Most photos of one answer that are counted: a guest may write any number.
const MOST_PHOTOS: usize = 256;
/// Fewest photos of which a drift is stated.
pub const FEWEST: usize = 50;
/// The absolute value of [`drift`] from which photos differ from those the model knows. By chance alone about
/// one window in ten thousand exceeds it; `models/drift.py` measures how many do.
pub const DRIFTED: f64 = 4.0;

/// What an answer says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Certainty {
    /// The model that answered.
    pub model: String,
    /// How familiar the photo is, if the model tells.
    pub familiarity: Option<Familiarity>,
    /// Whether the photo is familiar and a class is probable enough, if the model tells.
    pub is_certain: Option<bool>,
}

/// How familiar an input is to its model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Familiarity {
    /// The distance from what the model knows; up to 1 the input is familiar.
    pub score: f64,
    /// Standard deviations of the score's logarithm from the mean of known inputs.
    pub deviation: f64,
    /// Number of known inputs.
    pub reference: u32,
    /// Whether the input is familiar.
    pub is_familiar: bool,
}

impl Certainty {
    /// Reads an answer's header: one for each photo that it tells of, none without a header or from one that
    /// is malformed.
    #[must_use]
    pub fn all(headers: &HeaderMap) -> Vec<Self> {
        let text = headers.get(HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let found = parsed(text);
        found.map(|(model, parameters)| Self::each(model, &parameters)).unwrap_or_default()
    }

    /// Reads the header of an answer to one photo. `None` without one, or with one that is malformed.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Self::all(headers).into_iter().next()
    }

    fn each(model: &str, parameters: &[(&str, &str)]) -> Vec<Self> {
        let value = |name| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let names = ["score", "deviation", "is_familiar", "is_certain"];
        let Some(photos) = value("photos") else {
            let fields = names.map(|name| value(name).unwrap_or_default());
            return vec![Self::of_photo(model, fields, value("reference"))];
        };
        let photos = photos.trim_matches('"').split(',');
        let fields = |photo: &str| {
            let mut words = photo.split_whitespace();
            names.map(|_| words.next().unwrap_or_default().to_owned())
        };
        let each = photos.take(MOST_PHOTOS).map(fields);
        each.map(|fields| {
            Self::of_photo(model, fields.each_ref().map(String::as_str), value("reference"))
        })
        .collect()
    }

    fn of_photo(model: &str, fields: [&str; 4], reference: Option<&str>) -> Self {
        let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
        let truth = |text: &str| match text {
            "?1" => Some(true),
            "?0" => Some(false),
            _ => None,
        };
        let [score, deviation, is_familiar, is_certain] = fields;
        let familiarity = truth(is_familiar).and_then(|is_familiar| {
            let (score, deviation) = (number(score)?, number(deviation)?);
            let reference = reference?.parse().ok()?;
            Some(Familiarity { score, deviation, reference, is_familiar })
        });
        Self { model: model.to_owned(), familiarity, is_certain: truth(is_certain) }
    }

    /// `unfamiliar`, `uncertain` or `certain`. An answer of a model that tells only one of the two is judged
    /// by that.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match (self.familiarity, self.is_certain) {
            (Some(Familiarity { is_familiar: false, .. }), _) => "unfamiliar",
            (_, Some(false)) => "uncertain",
            _ => "certain",
        }
    }
}

/// The model's name and the parameters of a header's value.
fn parsed(text: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let mut parts = text.split(';').map(str::trim);
    let model = parts.next()?.strip_prefix('"')?.strip_suffix('"')?;
    Some((model, parts.filter_map(|part| part.split_once('=')).collect()))
}

/// Welch's statistic between inputs and those that their model knows: the mean of the `deviations` divided by
/// its standard error, to which the `reference` known inputs, of deviation 1, contribute. Positive if the
/// inputs are stranger than known ones. `None` for fewer than [`FEWEST`].
#[must_use]
pub fn drift(deviations: &[f64], reference: u32) -> Option<f64> {
    if deviations.len() < FEWEST {
        return None;
    }
    let count = deviations.len() as f64;
    let mean = deviations.iter().sum::<f64>() / count;
    let squares: f64 = deviations.iter().map(|deviation| (deviation - mean).powi(2)).sum();
    let error = squares / (count - 1.0) / count + 1.0 / f64::from(reference.max(1));
    Some(mean / error.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(value: &str) -> Option<Certainty> {
        Certainty::of(&HeaderMap::from_iter([(HEADER, HeaderValue::from_str(value).unwrap())]))
    }

    #[test]
    fn a_header_is_read_whole_or_as_far_as_it_is_sound() {
        let whole = "\"skin\";score=1.86;deviation=6.1;reference=840;is_familiar=?0;is_certain=?0";
        let familiarity =
            Familiarity { score: 1.86, deviation: 6.1, reference: 840, is_familiar: false };
        let found = read(whole).unwrap();
        assert_eq!(found.familiarity, Some(familiarity));
        assert_eq!((found.model.as_str(), found.is_certain), ("skin", Some(false)));
        assert_eq!(found.verdict(), "unfamiliar");
        let cases = [
            ("\"skin\";is_certain=?1", "certain"),
            ("\"skin\"; is_certain=?0", "uncertain"),
            ("\"skin\";score=NaN;deviation=1;reference=9;is_familiar=?0", "certain"),
            ("\"skin\";score=1;deviation=inf;reference=9;is_familiar=?0", "certain"),
            ("\"skin\";score=1;deviation=1;reference=-9;is_familiar=?0", "certain"),
            ("\"\";;;=;is_certain=?2", "certain"),
        ];
        for (value, verdict) in cases {
            let found = read(value).unwrap();
            assert_eq!((found.familiarity, found.verdict()), (None, verdict), "{value}");
        }
        for value in ["", "skin", "\"skin", ";score=1"] {
            assert_eq!(read(value), None, "{value}");
        }
    }

    #[test]
    fn every_photo_of_an_answer_is_told_of() {
        let value = "\"skin\";reference=840;photos=\"0.8 -0.3 ?1 ?1, 0.9 0.4 ?1 ?0, 1.86 6.1 ?0 ?0, - - - ?1\"";
        let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_static(value))]);
        let all = Certainty::all(&headers);
        let verdicts: Vec<_> = all.iter().map(Certainty::verdict).collect();
        assert_eq!(verdicts, ["certain", "uncertain", "unfamiliar", "certain"]);
        let second = Familiarity { score: 0.9, deviation: 0.4, reference: 840, is_familiar: true };
        assert_eq!((all[1].familiarity, all[3].familiarity), (Some(second), None));
        assert!(Certainty::all(&HeaderMap::new()).is_empty());
    }

    #[test]
    fn drift_is_that_of_welch_computed_by_hand() {
        // Mean 1, variance 100/99 · 0.25, 100 photos, reference 400.
        let deviations: Vec<f64> = (0..100).map(|i| 0.5 + f64::from(i % 2)).collect();
        let error = (25.0 / 99.0 / 100.0 + 1.0 / 400.0_f64).sqrt();
        assert!((drift(&deviations, 400).unwrap() - 1.0 / error).abs() < 1e-9);
        assert_eq!(drift(&deviations[..FEWEST - 1], 400), None);
        assert!(drift(&[0.0; 60], 0).is_some_and(f64::is_finite));
    }
}
