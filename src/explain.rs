//! Decides whether to make a heatmap and for which class, and makes it. `skincell_vision` computes and
//! draws it.

use skincell_vision::card::{Basis, Card};
use skincell_vision::gradcam::{self, GradCamError};
use skincell_vision::overlay::{self, ALPHA, Colormap};
use skincell_vision::photo::Photo;
use skincell_vision::rank::Ranked;
use skincell_vision::view::View;

use crate::inference::Scores;
use crate::options::{DEFAULT_TOP_K, HeatmapForm, Options};
use crate::problem::{Problem, excerpt};
use crate::settings::Settings;

/// Whether to make a heatmap, decided before anything is computed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeatmapRequest {
    /// Make one.
    Make(HeatmapSpec),
    /// No heatmap, for this reason (the end of "no heatmap, …").
    Skip(String),
}

/// The heatmap to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeatmapSpec {
    /// The index of the class; `None` for the most likely one.
    pub class: Option<usize>,
    /// Its form.
    pub form: HeatmapForm,
    /// Its colours, if it is drawn.
    pub colormap: Colormap,
}

impl HeatmapRequest {
    /// The request for a heatmap, given the operator's settings, the request's options and the model.
    ///
    /// # Errors
    /// [`Problem::UnknownClass`], even if no heatmap will be made.
    pub fn of(settings: &Settings, options: &Options, card: &Card) -> Result<Self, Problem> {
        let class = options.class.as_deref().map(|asked| find_class(card, asked)).transpose()?;
        if !settings.gradcam {
            return Ok(Self::Skip("ENABLE_GRADCAM is off on this service".to_owned()));
        }
        if options.gradcam == Some(false) {
            return Ok(Self::Skip("the request says gradcam=false".to_owned()));
        }
        if card.gradcam.is_none() {
            let why = card.gradcam_missing.as_deref().unwrap_or("none was prepared");
            return Ok(Self::Skip(format!("model {:?} has no Grad-CAM output: {why}", card.name)));
        }
        let form = options.heatmap.unwrap_or(HeatmapForm::Overlay);
        let colormap = options.colormap.unwrap_or_default();
        Ok(Self::Make(HeatmapSpec { class, form, colormap }))
    }

    /// The class that a heatmap was asked for by the request.
    #[must_use]
    pub fn class(&self) -> Option<usize> {
        match self {
            Self::Make(wanted) => wanted.class,
            Self::Skip(_) => None,
        }
    }

    /// Whether the Grad-CAM output is needed.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        matches!(self, Self::Make(..))
    }
}

/// The class `asked`, by label or display name, with or without matching case, or by index.
fn find_class(card: &Card, asked: &str) -> Result<usize, Problem> {
    let folded = asked.to_lowercase();
    let by = |fits: &dyn Fn(&str) -> bool| {
        card.classes
            .iter()
            .position(|class| fits(&class.label) || class.display.as_deref().is_some_and(fits))
    };
    by(&|name| name == asked)
        .or_else(|| by(&|name| name.to_lowercase() == folded))
        .or_else(|| asked.parse().ok().filter(|index| *index < card.classes.len()))
        .ok_or_else(|| unknown_class(card, asked))
}

fn unknown_class(card: &Card, asked: &str) -> Problem {
    const SHOWN: usize = 10;
    let labels: Vec<String> =
        card.classes.iter().take(SHOWN).map(|class| format!("{:?}", class.label)).collect();
    let more = if card.classes.len() > SHOWN { ", …" } else { "" };
    let last = card.classes.len().saturating_sub(1);
    let known = format!("{}{more}, or an index from 0 to {last}", labels.join(", "));
    Problem::UnknownClass { class: excerpt(asked), model: card.name.clone(), known }
}

/// The heatmap of an answer, or the reason for none.
#[derive(Debug, Clone, PartialEq)]
pub enum Explanation {
    /// A drawn one.
    Shown {
        /// The PNG, of the model's input size: with the photo, or with transparency.
        png: Vec<u8>,
        /// Index of the class it explains.
        class: usize,
        /// The score whose gradient it shows.
        basis: Basis,
    },
    /// The maps of several classes as numbers, the requested one first; never empty.
    Maps(Vec<ClassMap>),
    /// No heatmap, for this reason (the end of "no heatmap, …").
    Missing(String),
}

/// The heatmap of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassMap {
    /// Index of the class it explains.
    pub class: usize,
    /// Its values, over the part of the photo that the model saw.
    pub heatmap: gradcam::Heatmap,
}

/// Makes the requested heatmap, over the part of the photo that the model saw, from the model's maps.
///
/// # Errors
/// [`Problem::Internal`] if a step fails that earlier checks should have ruled out.
pub fn explain(
    heatmap_request: &HeatmapRequest,
    card: &Card,
    seen: &View,
    scores: &Scores,
    probabilities: &[f32],
    ranking: &[Ranked],
) -> Result<Explanation, Problem> {
    let HeatmapSpec { class, form, colormap } = match heatmap_request {
        HeatmapRequest::Skip(why) => return Ok(Explanation::Missing(why.clone())),
        HeatmapRequest::Make(wanted) => *wanted,
    };
    let class = class.or_else(|| Some(ranking.first()?.index)).unwrap_or(0);
    let (Some(cam), Some(map)) = (&scores.cam, &card.gradcam) else {
        return Ok(Explanation::Missing("the model gave none".to_owned()));
    };
    let of = |class| gradcam::heatmap(cam, map, probabilities, card.output.activation, class);
    let made = match form {
        HeatmapForm::Overlay | HeatmapForm::Alpha => {
            of(class).map(|heatmap| vec![ClassMap { class, heatmap }])
        }
        HeatmapForm::Maps => mapped(class, ranking)
            .map(|other| Ok(ClassMap { class: other, heatmap: of(other)? }))
            // Other classes without a map are left out.
            .filter(|made| match made {
                Err(GradCamError::Unlikely { class: other, .. }) => *other == class,
                _ => true,
            })
            .collect(),
    };
    match (made, form) {
        (Err(error @ GradCamError::Unlikely { .. }), _) => {
            Ok(Explanation::Missing(error.to_string()))
        }
        (Ok(maps), HeatmapForm::Maps) => Ok(Explanation::Maps(maps)),
        (Ok(maps), form) => draw(&seen.photo, maps, form, colormap),
        // The classes are still valid, so they are answered without a heatmap.
        (Err(error @ GradCamError::NotFinite { .. }), _) => {
            Ok(Explanation::Missing(error.to_string()))
        }
        (Err(error), _) => Err(internal("the heatmap", &error)),
    }
}

/// The classes whose maps are answered: `first`, then the most likely others, up to a limit.
fn mapped(first: usize, ranking: &[Ranked]) -> impl Iterator<Item = usize> {
    let others = ranking.iter().map(|ranked| ranked.index).filter(move |index| *index != first);
    std::iter::once(first).chain(others).take(DEFAULT_TOP_K)
}

fn draw(
    photo: &Photo,
    maps: Vec<ClassMap>,
    form: HeatmapForm,
    colormap: Colormap,
) -> Result<Explanation, Problem> {
    let Some(ClassMap { class, heatmap }) = maps.into_iter().next() else {
        return Ok(Explanation::Missing("the model gave none".to_owned()));
    };
    let png = if form == HeatmapForm::Alpha {
        overlay::transparent_png(&heatmap, (photo.width(), photo.height()), colormap)
    } else {
        overlay::encode_png(&overlay::overlay(photo, &heatmap, ALPHA, colormap))
    };
    let png = png.map_err(|error| internal("the overlay", &error))?;
    Ok(Explanation::Shown { png, class, basis: heatmap.basis() })
}

fn internal(step: &'static str, error: &dyn std::error::Error) -> Problem {
    Problem::Internal { step, why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::tests::{card_json, mounted};

    fn card() -> Card {
        Card::parse(card_json("skin").as_bytes()).unwrap()
    }

    #[test]
    fn a_class_is_found_by_label_display_name_and_index() {
        let cases = [
            ("Heathy", Some(0)),
            ("Healthy", Some(0)),
            ("hEaThY", Some(0)),
            ("éCZEMA", Some(1)),
            ("1", Some(1)),
            ("2", None),
            ("-1", None),
            ("Acne", None),
        ];
        for (asked, expect) in cases {
            assert_eq!(find_class(&card(), asked).ok(), expect, "{asked:?}");
        }
        let detail = find_class(&card(), "Acne").unwrap_err().to_string();
        assert!(detail.contains("\"Heathy\", \"Éczema\", or an index from 0 to 1"), "{detail}");
    }

    #[test]
    fn setting_option_and_model_decide_whether_a_heatmap_is_made() {
        let without = Card { gradcam: None, gradcam_missing: Some("Erfc".to_owned()), ..card() };
        let cases = [
            (card(), true, None, Ok(())),
            (card(), true, Some(true), Ok(())),
            (card(), true, Some(false), Err("gradcam=false")),
            (card(), false, Some(true), Err("ENABLE_GRADCAM")),
            (without, true, None, Err("Erfc")),
        ];
        for (card, allowed, gradcam, expect) in cases {
            let (_folder, settings) = mounted(&[], None);
            let settings = Settings { gradcam: allowed, ..settings };
            let options = Options { gradcam, class: Some("1".to_owned()), ..Options::default() };
            match (HeatmapRequest::of(&settings, &options, &card).unwrap(), expect) {
                (heatmap_request, Ok(())) => {
                    let (class, form, colormap) = (Some(1), HeatmapForm::Overlay, Colormap::Jet);
                    assert_eq!(
                        heatmap_request,
                        HeatmapRequest::Make(HeatmapSpec { class, form, colormap })
                    );
                }
                (HeatmapRequest::Skip(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (heatmap_request, Err(part)) => {
                    panic!("{heatmap_request:?} where {part} rules it out")
                }
            }
        }
    }
}
