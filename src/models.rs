//! Lists the model cards mounted read-only under `/models`, and reads the card of a model.
//!
//! A model's folder, its card's `name` and the name the host loads it by are the same. Whether the host
//! grants the model is known only after loading it.

use std::fs;
use std::io::{self, ErrorKind};

#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;
use skincell_vision::card::{Card, Target, is_model_name};

use crate::problem::{Problem, excerpt};
use crate::settings::{Cards, Settings};

/// The card of the model `asked`, or of the default model.
///
/// # Errors
/// [`Problem::UnknownModel`], [`Problem::BadCard`].
pub fn find(settings: &Settings, asked: Option<&str>) -> Result<Card, Problem> {
    let name = match asked.map(str::to_owned).or_else(|| default_name(settings)) {
        Some(name) => name,
        None => return Err(unknown(settings, "")),
    };
    // Only a valid name may become part of a path.
    if !is_model_name(&name) {
        return Err(unknown(settings, &name));
    }
    match read(&settings.cards, &name) {
        Ok(json) => parse(&name, &json),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(unknown(settings, &name)),
        Err(error) => Err(Problem::BadCard { name, why: format!("card.json: {error}") }),
    }
}

/// The JSON of the card of `name`, a valid name.
fn read(cards: &Cards, name: &str) -> io::Result<Vec<u8>> {
    match cards {
        Cards::Folder(folder) => fs::read(folder.join(name).join("card.json")),
        Cards::Held(held, json) if held == name => Ok(json.clone()),
        Cards::Held(..) => Err(ErrorKind::NotFound.into()),
    }
}

fn parse(name: &str, json: &[u8]) -> Result<Card, Problem> {
    let bad = |why: String| Problem::BadCard { name: name.to_owned(), why };
    let card = Card::parse(json).map_err(|error| bad(error.to_string()))?;
    if card.name == name {
        return Ok(card);
    }
    Err(bad(format!("card.json names {:?}, its folder {name:?}", card.name)))
}

/// The model for requests that name none: the one in the settings, else the first by name.
fn default_name(settings: &Settings) -> Option<String> {
    settings.default_model.clone().or_else(|| names(settings).into_iter().next())
}

/// The names of the mounted models, in order.
pub(crate) fn names(settings: &Settings) -> Vec<String> {
    let folder = match &settings.cards {
        Cards::Folder(folder) => folder,
        Cards::Held(name, _) => return vec![name.clone()],
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join("card.json").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_model_name(name))
        .collect();
    names.sort_unstable();
    names
}

fn unknown(settings: &Settings, name: &str) -> Problem {
    let known = match names(settings).as_slice() {
        [] => "no card is mounted, add files = [\"models/*/card.json\"] to spin.toml".to_owned(),
        names => format!("name one of {}", names.join(", ")),
    };
    Problem::UnknownModel { name: excerpt(name), known }
}

/// The answer of `GET /models`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "Models"))]
pub struct Listing {
    /// The model for requests that name none.
    default: Option<String>,
    models: Vec<Entry>,
}

/// One model of a listing: a summary of its card, or the reason why the card is invalid.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(untagged)]
#[cfg_attr(test, schemars(rename = "ListedModel"))]
enum Entry {
    Served(Box<Summary>),
    Broken { name: String, error: String },
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "Model"))]
struct Summary {
    name: String,
    title: String,
    notice: String,
    license: String,
    source: String,
    default: bool,
    input: Size,
    gradcam: Option<Target>,
    gradcam_missing: Option<String>,
    /// Numbers beside the photo, which a request may set; left out if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<skincell_vision::card::Field>,
    classes: Vec<skincell_vision::card::Class>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "InputSize"))]
struct Size {
    width: u32,
    height: u32,
}

/// Every mounted model. This reads cards only and loads no model.
#[must_use]
pub fn list(settings: &Settings) -> Listing {
    let default = default_name(settings);
    let entry = |name: String| match find(settings, Some(&name)) {
        Ok(card) => Entry::Served(Box::new(Summary {
            default: default.as_ref() == Some(&name),
            name,
            title: card.title,
            notice: card.notice,
            license: card.license,
            source: card.source,
            input: Size { width: card.input.width, height: card.input.height },
            gradcam: card.gradcam.map(|gradcam| gradcam.target),
            gradcam_missing: card.gradcam_missing,
            fields: card.fields,
            classes: card.classes,
        })),
        Err(problem) => Entry::Broken { name, error: problem.to_string() },
    };
    Listing { models: names(settings).into_iter().map(entry).collect(), default }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::Path;

    /// Like [`card_json`], of a model that says whether it knows the photo and how sure it is.
    pub(crate) fn judging_card_json(name: &str) -> String {
        let mut card: serde_json::Value = serde_json::from_str(&card_json(name)).unwrap();
        card["familiarity"] = serde_json::json!({"output": "familiarity", "method": "",
            "basis": "99 spots", "photos": 99, "pictures": 99, "accepted": 0.98, "auroc": 1.0,
            "against": "", "quantiles": [0.5, 1.0], "log_mean": 0.0, "log_deviation": 0.5});
        card["calibration"] =
            serde_json::json!({"temperature": 1.0, "photos": 99, "certain_above": 0.75});
        card.to_string()
    }

    /// A card of two classes with a 4×4 input and a 2×2 Grad-CAM.
    pub(crate) fn card_json(name: &str) -> String {
        format!(
            r#"{{"card_version": 1, "name": "{name}", "title": "Test", "notice": "No medical device.",
            "input": {{"name": "photo", "layout": "nhwc", "dtype": "u8", "width": 4, "height": 4,
                      "mean": [0, 0, 0], "std": [1, 1, 1]}},
            "output": {{"name": "logits", "form": "logits", "activation": "softmax"}},
            "gradcam": {{"output": "cam", "width": 2, "height": 2, "target": "activation",
                        "basis": "probability"}},
            "classes": [{{"label": "Heathy", "display": "Healthy"}}, {{"label": "Éczema"}}]}}"#
        )
    }

    /// A folder of models, each with the given `card.json`.
    pub(crate) fn mounted(
        models: &[(&str, &str)],
        default_model: Option<&str>,
    ) -> (tempfile::TempDir, Settings) {
        let folder = tempfile::tempdir().unwrap();
        for (name, json) in models {
            write_card(folder.path(), name, json);
        }
        let default_model = default_model.map(str::to_owned);
        let settings = Settings {
            cards: Cards::Folder(folder.path().to_owned()),
            default_model,
            max_body: 1 << 20,
            gradcam: true,
            colors: skincell_vision::photo::Colors::Srgb,
            unfamiliar: crate::settings::Unfamiliar::Warn,
            page: crate::settings::Place::Server,
            predict: true,
            device: folder.path().join("device"),
        };
        (folder, settings)
    }

    fn write_card(folder: &Path, name: &str, json: &str) {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("card.json"), json).unwrap();
    }

    #[test]
    fn a_card_is_found_by_name_or_default() {
        let (skin, other) = (card_json("skin"), card_json("other"));
        let models = [
            ("skin", skin.as_str()),
            ("other", &other),
            ("broken", "{"),
            ("moved", &skin),
            ("UPPER", &skin),
        ];
        let cases = [
            (Some("skin"), Some("other"), Ok("other")),
            (Some("skin"), None, Ok("skin")),
            (None, Some("skin"), Ok("skin")),
            (None, None, Err("bad-card")),
            (Some("gone"), None, Err("unknown-model")),
            (None, Some("gone"), Err("unknown-model")),
            (None, Some(""), Err("unknown-model")),
            (None, Some("../skin"), Err("unknown-model")),
            (None, Some("UPPER"), Err("unknown-model")),
            (None, Some("broken"), Err("bad-card")),
            (None, Some("moved"), Err("bad-card")),
        ];
        for (default, asked, expect) in cases {
            let (_folder, settings) = mounted(&models, default);
            let found = find(&settings, asked).map(|card| card.name);
            let found = found.as_deref().map_err(|problem| problem.kind().name);
            assert_eq!(found, expect, "default {default:?}, asked {asked:?}");
        }
    }

    #[test]
    fn an_unknown_model_names_the_known_ones() {
        let (skin, other) = (card_json("skin"), card_json("other"));
        let (_folder, settings) = mounted(&[("skin", &skin), ("other", &other)], None);
        let detail = find(&settings, Some("x")).unwrap_err().to_string();
        assert!(detail.contains("other, skin"), "{detail}");
        let (_folder, settings) = mounted(&[], None);
        let detail = find(&settings, None).unwrap_err().to_string();
        assert!(detail.contains("spin.toml"), "{detail}");
    }

    #[test]
    fn the_listing_shows_the_mounted_models() {
        let skin = card_json("skin");
        let (_folder, settings) = mounted(&[("skin", &skin), ("broken", "{")], Some("skin"));
        let listing = serde_json::to_value(list(&settings)).unwrap();
        assert_eq!(listing["default"], "skin");
        assert!(listing["models"][0]["error"].as_str().unwrap().contains("broken"));
        let summary = &listing["models"][1];
        assert_eq!(summary["name"], "skin");
        assert_eq!(summary["default"], true);
        assert_eq!(summary["input"]["width"], 4);
        assert_eq!(summary["gradcam"], "activation");
        assert_eq!(summary["classes"][0]["label"], "Heathy");
    }
}
