//! The options of a request, `top_k`, `gradcam`, `class`, `heatmap`, `colormap`, `model` and `fields`, from
//! the query, form fields or JSON members.
//!
//! If one is given twice, the later wins, and the body comes after the query. An empty value counts as not
//! given, because browsers send unused form fields as empty.

use std::collections::BTreeMap;

use serde::Deserialize;
use skincell_vision::overlay::Colormap;

use crate::problem::{Problem, excerpt};

/// Longest value of an option in bytes; class labels are the longest values.
pub const MAX_VALUE: usize = 1024;

/// Default of `top_k`: all classes of a small model, the first ones of a large model.
pub const DEFAULT_TOP_K: usize = 10;

/// The options; `None` if not given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Number of classes to rank, at least 1.
    pub top_k: Option<usize>,
    /// Whether to make a heatmap.
    pub gradcam: Option<bool>,
    /// The class of the heatmap, by label or index.
    pub class: Option<String>,
    /// The form of the heatmap.
    pub heatmap: Option<HeatmapForm>,
    /// The colours of a drawn heatmap.
    pub colormap: Option<Colormap>,
    /// The model to use.
    pub model: Option<String>,
    /// Numbers for the inputs beside the photo, by their names.
    pub fields: Vec<(String, Vec<f32>)>,
}

/// The forms of a heatmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeatmapForm {
    /// Drawn over the photo, as one PNG. The default.
    Overlay,
    /// Alone as one PNG, transparent where its values are low, for clients that lay it over the photo.
    Alpha,
    /// As numbers, for each of the most likely classes, for clients that draw it themselves, such as the
    /// page.
    Maps,
}

impl Options {
    /// The options in a query string. A mistyped name is an error; otherwise a request could silently go to
    /// the wrong model.
    ///
    /// # Errors
    /// [`Problem::UnknownOption`], [`Problem::BadOption`].
    pub fn from_query(query: &str) -> Result<Self, Problem> {
        let mut options = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !options.set(&name, &value)? {
                return Err(Problem::UnknownOption { name: excerpt(&name), photo: "" });
            }
        }
        Ok(options)
    }

    /// Sets the option `name`; `false` if there is no option of that name.
    ///
    /// # Errors
    /// [`Problem::BadOption`] for an invalid value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, Problem> {
        let value = value.trim();
        let bad = |name, allowed| Err(Problem::BadOption { name, value: excerpt(value), allowed });
        match name {
            _ if !is_option(name) => return Ok(false),
            _ if value.is_empty() => {}
            "top_k" => match value.parse() {
                Ok(top_k) if top_k > 0 => self.top_k = Some(top_k),
                _ => return bad("top_k", "a whole number from 1"),
            },
            "gradcam" => match parse_switch(value) {
                Some(gradcam) => self.gradcam = Some(gradcam),
                None => return bad("gradcam", "true, 1, yes or on; false, 0, no or off"),
            },
            "heatmap" => match value.to_ascii_lowercase().as_str() {
                "overlay" => self.heatmap = Some(HeatmapForm::Overlay),
                "alpha" => self.heatmap = Some(HeatmapForm::Alpha),
                "maps" => self.heatmap = Some(HeatmapForm::Maps),
                _ => {
                    let allowed =
                        "overlay (a PNG), alpha (a PNG without the photo) or maps (numbers)";
                    return bad("heatmap", allowed);
                }
            },
            "colormap" => {
                let named = |colormap: &Colormap| colormap.name().eq_ignore_ascii_case(value);
                match Colormap::ALL.into_iter().find(named) {
                    Some(colormap) => self.colormap = Some(colormap),
                    None => return bad("colormap", "jet, viridis, inferno or turbo"),
                }
            }
            "fields" => match parse_fields(value) {
                Some(fields) => self.fields = fields,
                None => {
                    return bad("fields", "a JSON object of numbers, such as {\"age\": 54}");
                }
            },
            "class" if value.len() <= MAX_VALUE => self.class = Some(value.to_owned()),
            "class" => return bad("class", "a class's label or index"),
            _ if value.len() <= MAX_VALUE => self.model = Some(value.to_owned()),
            _ => return bad("model", "a model's name, see /models"),
        }
        Ok(true)
    }
}

/// The names of all options.
pub const NAMES: [&str; 7] =
    ["top_k", "gradcam", "class", "heatmap", "colormap", "model", "fields"];

/// Whether there is an option of this name.
#[must_use]
pub fn is_option(name: &str) -> bool {
    NAMES.contains(&name)
}

/// The number or numbers of a field.
#[derive(Deserialize)]
#[serde(untagged)]
enum Numbers {
    One(f32),
    Many(Vec<f32>),
}

/// Finite numbers by name, one at least; `None` for anything else.
fn parse_fields(text: &str) -> Option<Vec<(String, Vec<f32>)>> {
    let short = Some(text).filter(|text| text.len() <= MAX_VALUE)?;
    let named: BTreeMap<String, Numbers> = serde_json::from_str(short).ok()?;
    let listed = named.into_iter().map(|(name, numbers)| match numbers {
        Numbers::One(number) => (name, vec![number]),
        Numbers::Many(numbers) => (name, numbers),
    });
    let fields: Vec<(String, Vec<f32>)> = listed.collect();
    let finite = fields.iter().all(|(_, numbers)| numbers.iter().all(|n| n.is_finite()));
    (finite && !fields.is_empty()).then_some(fields)
}

fn parse_switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let of = |top_k, gradcam, class: Option<&str>, model: Option<&str>| Options {
            top_k,
            gradcam,
            class: class.map(str::to_owned),
            heatmap: None,
            colormap: None,
            model: model.map(str::to_owned),
            fields: Vec::new(),
        };
        let long = format!("class={}", "a".repeat(MAX_VALUE + 1));
        let cases: [(&str, Result<Options, &str>); 20] = [
            ("", Ok(of(None, None, None, None))),
            ("top_k=3", Ok(of(Some(3), None, None, None))),
            ("gradcam=YES&model=skin", Ok(of(None, Some(true), None, Some("skin")))),
            ("gradcam=0", Ok(of(None, Some(false), None, None))),
            ("gradcam=on", Ok(of(None, Some(true), None, None))),
            ("gradcam=Off", Ok(of(None, Some(false), None, None))),
            ("class=Eczema+Photos", Ok(of(None, None, Some("Eczema Photos"), None))),
            ("class=Eczema%20Photos", Ok(of(None, None, Some("Eczema Photos"), None))),
            ("class=1", Ok(of(None, None, Some("1"), None))),
            ("top_k=&gradcam=&class=", Ok(of(None, None, None, None))),
            ("top_k=1&top_k=2", Ok(of(Some(2), None, None, None))),
            ("top_k=0", Err("bad-option")),
            ("top_k=-1", Err("bad-option")),
            ("top_k=1.5", Err("bad-option")),
            ("top_k=99999999999999999999999", Err("bad-option")),
            ("gradcam=maybe", Err("bad-option")),
            ("topk=3", Err("unknown-option")),
            ("=", Err("unknown-option")),
            ("model", Ok(of(None, None, None, None))),
            (&long, Err("bad-option")),
        ];
        for (query, expect) in cases {
            let found = Options::from_query(query).map_err(|problem| problem.kind().name);
            assert_eq!(found, expect, "{query:?}");
        }
    }

    #[test]
    fn a_heatmap_has_forms_and_colours() {
        let form = |query| Options::from_query(query).map(|options| options.heatmap);
        assert_eq!(form("heatmap=maps").unwrap(), Some(HeatmapForm::Maps));
        assert_eq!(form("heatmap=Overlay").unwrap(), Some(HeatmapForm::Overlay));
        assert_eq!(form("heatmap=alpha").unwrap(), Some(HeatmapForm::Alpha));
        assert_eq!(form("heatmap=svg").unwrap_err().kind().name, "bad-option");
        let colors = |query| Options::from_query(query).map(|options| options.colormap);
        assert_eq!(colors("colormap=Viridis").unwrap(), Some(Colormap::Viridis));
        assert_eq!(colors("colormap=").unwrap(), None);
        assert_eq!(colors("colormap=hot").unwrap_err().kind().name, "bad-option");
    }

    #[test]
    fn a_later_value_replaces_an_earlier_one() {
        let mut options = Options::from_query("model=skin&top_k=2").unwrap();
        assert!(options.set("model", "imagenet").unwrap());
        assert!(!options.set("csrfmiddlewaretoken", "x").unwrap());
        assert_eq!((options.model.as_deref(), options.top_k), (Some("imagenet"), Some(2)));
    }

    #[test]
    fn fields_are_numbers_by_name() {
        let fields = |text: &str| {
            let mut options = Options::default();
            options.set("fields", text).map(|_| options.fields).map_err(|p| p.kind().name)
        };
        let named = |name: &str, numbers: &[f32]| (name.to_owned(), numbers.to_vec());
        let both = vec![named("age", &[54.0]), named("site", &[0.0, 1.5])];
        assert_eq!(fields("{\"site\": [0, 1.5], \"age\": 54}"), Ok(both));
        assert_eq!(fields(""), Ok(Vec::new()));
        let long = format!("{{\"age\": [{}1]}}", "1,".repeat(MAX_VALUE));
        for text in
            ["{}", "{\"age\": \"old\"}", "[1]", "{\"age\": 1e99}", "{\"age\": null}", "{", &long]
        {
            assert_eq!(fields(text), Err("bad-option"), "{text:.40}");
        }
    }
}
