//! The component's settings, read from its environment for each request.
//!
//! They are set by `environment` in `spin.toml` or `--env` on the command line; [`Settings`] lists the
//! variables.

use std::path::PathBuf;

use skincell_vision::photo::Colors;
use thiserror::Error;

/// Default of `SKINCELL_MAX_BODY`: 16 MiB.
pub const DEFAULT_MAX_BODY: u64 = 16 << 20;

/// Where `spin.toml` mounts the cards: `<name>/card.json` each.
const MODELS_FOLDER: &str = "/models";

/// Where `spin.toml` mounts what `skincell page` wrote.
const DEVICE_FOLDER: &str = "/device";

/// The variables: name, default, and meaning.
pub const VARIABLES: [(&str, &str, &str); 7] = [
    (
        "ENABLE_GRADCAM",
        "`true`",
        "Heatmaps: on for `true`, `1` or `yes`; anything else switches them off",
    ),
    (
        "SKINCELL_COLOR",
        "`srgb`",
        "`srgb` converts from a photo's colour profile, `stored` does not",
    ),
    ("SKINCELL_MAX_BODY", "`16MiB`", "Largest request body: bytes, or `KiB` or `MiB`"),
    ("SKINCELL_MODEL", "the first by name", "The model for requests that name none"),
    ("SKINCELL_PAGE", "`server`", "Where the page looks at photos: `server`, `device` or `both`"),
    ("SKINCELL_PREDICT", "`on`", "`off` refuses photos and tensors"),
    (
        "SKINCELL_UNFAMILIAR",
        "`warn`",
        "Photos of a kind that the model does not know: `warn` answers and says so, `refuse` refuses them",
    ),
];

/// The component's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the model cards are.
    pub cards: Cards,
    /// `SKINCELL_MODEL`: the model for requests that name none. If unset, the first by name.
    pub default_model: Option<String>,
    /// `SKINCELL_MAX_BODY`: largest request body in bytes; `KiB` and `MiB` are understood.
    pub max_body: u64,
    /// `ENABLE_GRADCAM`, as in the origin app: on for `true`, `1` or `yes`; on by default.
    pub gradcam: bool,
    /// `SKINCELL_COLOR`: `srgb`, the default, converts from the photo's colour profile; `stored` uses the
    /// file's values unchanged, as the origin app did.
    pub colors: Colors,
    /// `SKINCELL_UNFAMILIAR`: what to answer about a photo that the model does not know.
    pub unfamiliar: Unfamiliar,
    /// `SKINCELL_PAGE`: where the page looks at photos.
    pub page: Place,
    /// `SKINCELL_PREDICT`: `off` refuses photos and tensors, so that photos can stay on devices only.
    pub predict: bool,
    /// Folder of the files for the device, `/device`; see `device`.
    pub device: PathBuf,
}

/// Where the page looks at photos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// `server`, the default: photos are sent to the service.
    #[default]
    Server,
    /// `device`: on the user's device, in the browser.
    Device,
    /// `both`: the user chooses.
    Both,
}

impl Place {
    /// The value of `SKINCELL_PAGE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Device => "device",
            Self::Both => "both",
        }
    }
}

/// Where the model cards are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cards {
    /// In this folder, `<name>/card.json` each; in the component `/models`.
    Folder(PathBuf),
    /// In memory: one model's name, and the JSON of its card.
    Held(String, Vec<u8>),
}

/// The answer to a photo of a kind that the model does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unfamiliar {
    /// `warn`, the default: the classes, and that the photo is unfamiliar.
    #[default]
    Warn,
    /// `refuse`: a problem with status 422, without classes.
    Refuse,
}

/// A variable has an invalid value.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// `SKINCELL_MAX_BODY` is not a size above 0.
    #[error("SKINCELL_MAX_BODY is {0:?}: set bytes above 0, such as 16777216 or 16MiB")]
    MaxBody(String),
    /// `SKINCELL_COLOR` is neither of the two values.
    #[error("SKINCELL_COLOR is {0:?}: set srgb or stored")]
    Color(String),
    /// `SKINCELL_UNFAMILIAR` is neither of the two values.
    #[error("SKINCELL_UNFAMILIAR is {0:?}: set warn or refuse")]
    Unfamiliar(String),
    /// `SKINCELL_PAGE` is none of the three values.
    #[error("SKINCELL_PAGE is {0:?}: set server, device or both")]
    Page(String),
    /// `SKINCELL_PREDICT` is neither of the two values.
    #[error("SKINCELL_PREDICT is {0:?}: set on or off")]
    Predict(String),
}

impl Settings {
    /// Reads the settings with `variable` as the environment.
    ///
    /// # Errors
    /// [`SettingsError`] for the first invalid variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let max_body = match set("SKINCELL_MAX_BODY") {
            Some(value) => parse_size(&value).ok_or(SettingsError::MaxBody(value))?,
            None => DEFAULT_MAX_BODY,
        };
        let gradcam = set("ENABLE_GRADCAM").is_none_or(|value| {
            ["true", "1", "yes"].contains(&value.trim().to_ascii_lowercase().as_str())
        });
        let colors = match set("SKINCELL_COLOR") {
            None => Colors::Srgb,
            Some(value) => match value.trim() {
                "srgb" => Colors::Srgb,
                "stored" => Colors::Stored,
                _ => return Err(SettingsError::Color(value)),
            },
        };
        let unfamiliar = match set("SKINCELL_UNFAMILIAR") {
            None => Unfamiliar::Warn,
            Some(value) => match value.trim() {
                "warn" => Unfamiliar::Warn,
                "refuse" => Unfamiliar::Refuse,
                _ => return Err(SettingsError::Unfamiliar(value)),
            },
        };
        let page = match set("SKINCELL_PAGE") {
            None => Place::Server,
            Some(value) => [Place::Server, Place::Device, Place::Both]
                .into_iter()
                .find(|place| place.name() == value.trim())
                .ok_or(SettingsError::Page(value))?,
        };
        let predict = match set("SKINCELL_PREDICT") {
            None => true,
            Some(value) => match value.trim() {
                "on" => true,
                "off" => false,
                _ => return Err(SettingsError::Predict(value)),
            },
        };
        let device = PathBuf::from(DEVICE_FOLDER);
        let default_model = set("SKINCELL_MODEL").map(|name| name.trim().to_owned());
        let cards = Cards::Folder(PathBuf::from(MODELS_FOLDER));
        Ok(Self {
            cards,
            default_model,
            max_body,
            gradcam,
            colors,
            unfamiliar,
            page,
            predict,
            device,
        })
    }

    /// The settings that concern answers, as lines of `NAME=value` that [`Settings::read`] understands.
    #[must_use]
    pub fn for_device(&self) -> String {
        let colors = match self.colors {
            Colors::Srgb => "srgb",
            Colors::Stored => "stored",
        };
        let unfamiliar = match self.unfamiliar {
            Unfamiliar::Warn => "warn",
            Unfamiliar::Refuse => "refuse",
        };
        let (max_body, gradcam) = (self.max_body, self.gradcam);
        format!(
            "SKINCELL_MAX_BODY={max_body}\nENABLE_GRADCAM={gradcam}\nSKINCELL_COLOR={colors}\n\
             SKINCELL_UNFAMILIAR={unfamiliar}\n"
        )
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20)];
    let (digits, unit) = units
        .into_iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?.trim_end(), unit)))
        .unwrap_or((text, 1));
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &'static str) -> Result<Settings, SettingsError> {
        Settings::read(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn the_list_has_every_variable_that_is_read() {
        let read = std::cell::RefCell::new(std::collections::BTreeSet::new());
        let note = |name: &str| {
            read.borrow_mut().insert(name.to_owned());
            None
        };
        Settings::read(note).unwrap();
        let listed = VARIABLES.map(|(name, ..)| name.to_owned());
        assert_eq!(read.into_inner(), listed.into());
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let settings = Settings::read(|_| None).unwrap();
        let expect = Settings {
            cards: Cards::Folder(PathBuf::from("/models")),
            default_model: None,
            max_body: 16_777_216,
            gradcam: true,
            colors: Colors::Srgb,
            unfamiliar: Unfamiliar::Warn,
            page: Place::Server,
            predict: true,
            device: PathBuf::from("/device"),
        };
        assert_eq!(settings, expect);
    }

    #[test]
    fn a_device_gets_the_settings_that_concern_answers() {
        let settings = Settings {
            max_body: 5,
            gradcam: false,
            colors: Colors::Stored,
            unfamiliar: Unfamiliar::Refuse,
            ..Settings::read(|_| None).unwrap()
        };
        let lines = settings.for_device();
        let set = |name: &str| {
            let lines = lines.lines().filter_map(|line| line.split_once('='));
            lines.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned()).next()
        };
        assert_eq!(Settings::read(set).unwrap(), settings);
    }

    #[test]
    fn the_page_has_three_places_and_predict_a_switch() {
        assert_eq!(read("SKINCELL_PAGE", " both ").map(|s| s.page), Ok(Place::Both));
        assert_eq!(read("SKINCELL_PAGE", "device").map(|s| s.page), Ok(Place::Device));
        let error = read("SKINCELL_PAGE", "phone").unwrap_err();
        assert_eq!(error, SettingsError::Page("phone".to_owned()));
        assert_eq!(read("SKINCELL_PREDICT", "off").map(|s| s.predict), Ok(false));
        let error = read("SKINCELL_PREDICT", "no").unwrap_err();
        assert_eq!(error, SettingsError::Predict("no".to_owned()));
    }

    #[test]
    fn gradcam_is_read_as_in_the_origin_app() {
        let cases = [
            ("true", true),
            ("1", true),
            ("YES", true),
            ("false", false),
            ("0", false),
            ("on", false),
            ("", true),
        ];
        for (value, expect) in cases {
            assert_eq!(read("ENABLE_GRADCAM", value).unwrap().gradcam, expect, "{value:?}");
        }
    }

    #[test]
    fn unfamiliar_photos_are_warned_of_or_refused() {
        let unfamiliar =
            |value| read("SKINCELL_UNFAMILIAR", value).map(|settings| settings.unfamiliar);
        assert_eq!(unfamiliar("warn"), Ok(Unfamiliar::Warn));
        assert_eq!(unfamiliar(" refuse "), Ok(Unfamiliar::Refuse));
        let error = unfamiliar("drop").unwrap_err();
        assert_eq!(error, SettingsError::Unfamiliar("drop".to_owned()));
    }

    #[test]
    fn colours_have_two_valid_values() {
        let colors = |value| read("SKINCELL_COLOR", value).map(|settings| settings.colors);
        assert_eq!(colors("srgb"), Ok(Colors::Srgb));
        assert_eq!(colors(" stored "), Ok(Colors::Stored));
        assert_eq!(colors("p3"), Err(SettingsError::Color("p3".to_owned())));
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        let cases = [
            ("1000", Some(1000)),
            ("8MiB", Some(8 << 20)),
            (" 512 KiB ", Some(512 << 10)),
            ("0", None),
            ("-1", None),
            ("8MB", None),
            ("99999999999999999999", None),
            ("18446744073709551615MiB", None),
        ];
        for (value, expect) in cases {
            assert_eq!(
                read("SKINCELL_MAX_BODY", value).ok().map(|s| s.max_body),
                expect,
                "{value:?}"
            );
        }
    }
}
