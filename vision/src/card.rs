//! The model card, `card.json`, which lies beside a model's weights and says how to serve the model.
//!
//! `modelkit` writes the card and the component reads it. The card does not say where the model's files
//! lie or which engine runs them; the host decides that.

mod familiarity;
mod gradcam;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use familiarity::{Calibration, Familiar, Familiarity};
pub use gradcam::{Basis, GradCam, MapClasses, NOT_ASKED, Target};

/// The only version of the card's format that this crate reads and writes.
pub const CARD_VERSION: u32 = 1;

/// A model card, as in `models/<name>/card.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Version of the card's format, [`CARD_VERSION`].
    pub card_version: u32,
    /// The model's name in `ai_models`, in requests and as its folder: `[a-z0-9][a-z0-9._-]*`.
    pub name: String,
    /// A title of one line, shown to users.
    #[serde(default)]
    pub title: String,
    /// A notice that every answer must carry, such as "not a medical device".
    #[serde(default)]
    pub notice: String,
    /// SPDX expression of the weights' licence, empty if unknown.
    #[serde(default)]
    pub license: String,
    /// Where the weights came from.
    #[serde(default)]
    pub source: String,
    /// The input tensor.
    pub input: Input,
    /// Further inputs besides the photo, such as an age.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    /// The tensor of class scores.
    pub output: Output,
    /// The Grad-CAM output, if the model has one.
    #[serde(default)]
    pub gradcam: Option<GradCam>,
    /// If there is no Grad-CAM output: the reason, as a sentence.
    #[serde(default)]
    pub gradcam_missing: Option<String>,
    /// The output that tells photos of an unknown kind, if the model has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub familiarity: Option<Familiarity>,
    /// The correction of the probabilities, if one was fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Whether browsers may load the model, to run it on the user's own device: its licence and size allow
    /// it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_device: bool,
    /// Settings above that neither the user nor the model's files gave, so that defaults were used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
    /// The classes, in the order of the score tensor.
    pub classes: Vec<Class>,
}

/// The model's input: one photo, batch size 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Name of the graph's input.
    pub name: String,
    /// Order of the axes.
    pub layout: Layout,
    /// Element type.
    pub dtype: Dtype,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Subtracted from each channel (R, G, B), in pixel units 0–255. Ignored for [`Dtype::U8`].
    pub mean: [f32; 3],
    /// Divides each channel (R, G, B) afterwards, in pixel units. Ignored for [`Dtype::U8`].
    pub std: [f32; 3],
    /// Order of the channels in the tensor; `mean` and `std` stay in the order R, G, B.
    #[serde(default, skip_serializing_if = "is_default")]
    pub order: ChannelOrder,
    /// How a photo is brought to the input's size.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resize: Resize,
}

/// Numbers beside the photo: an input of the graph, f32. A request may set them.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Name of the graph's input.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<u32>,
    /// Values used if a request gives none, last axis fastest.
    pub default: Vec<f32>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Order of a photo's channels in the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red first.
    #[default]
    Rgb,
    /// Blue first, as in OpenCV and Caffe.
    Bgr,
}

/// How a photo is brought to the input's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The resampling kernel.
    pub filter: Filter,
    /// Whether the kernel widens with the reduction, as in Pillow. Otherwise each output pixel is computed
    /// from the few nearest pixels of the photo, as in TensorFlow's `tf.image.resize` and OpenCV.
    pub antialias: bool,
    /// Which part of the photo the model sees.
    pub fit: Fit,
    /// With [`Fit::Crop`]: length in pixels of the photo's shorter side before the crop. With
    /// [`Fit::Stretch`]: length of both sides before the centre crop, as in DeiT's and BEiT's processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortest: Option<u32>,
    /// With [`Fit::Pad`]: colour of the bars, R, G, B.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fill: [u8; 3],
}

impl Default for Resize {
    /// The whole photo, stretched with Pillow's `LANCZOS`.
    fn default() -> Self {
        let (filter, fit) = (Filter::Lanczos, Fit::Stretch);
        Self { filter, antialias: true, fit, shortest: None, fill: [0; 3] }
    }
}

/// A resampling kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Three lobes; always with antialiasing.
    Lanczos,
    /// Catmull-Rom, a = -0.5; with antialiasing as in Pillow, without it as in TensorFlow.
    Bicubic,
    /// Linear between pixels.
    Bilinear,
    /// The pixel nearest to the centre; never with antialiasing.
    Nearest,
}

/// Which part of a photo a model sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The whole photo, stretched to the input's aspect ratio. With [`Resize::shortest`] the photo is
    /// stretched to a square of that side and the centre is cut out.
    Stretch,
    /// The shorter side is resized to [`Resize::shortest`] pixels and the centre is cut out, as
    /// torchvision's `Resize` and `CenterCrop` do.
    Crop,
    /// The largest centred part that has the input's aspect ratio, as Pillow's `ImageOps.fit`.
    Cover,
    /// The whole photo, with bars if the aspect ratio differs, as Pillow's `ImageOps.pad`.
    Pad,
}

/// Order of an image tensor's axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `[1, 3, height, width]`, as PyTorch exports it.
    Nchw,
    /// `[1, height, width, 3]`, as Keras exports it.
    Nhwc,
}

/// Element type of the input tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Little-endian IEEE 754 single precision: `(pixel - mean) / std`.
    F32,
    /// The pixel itself, 0–255; the graph does the preprocessing.
    U8,
}

/// The score tensor, `[1, classes]`, f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Name of the graph's output.
    pub name: String,
    /// Whether the graph has applied `activation` already.
    pub form: Form,
    /// The function from logits to probabilities.
    pub activation: Activation,
}

/// The kind of numbers in the score tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Before the activation.
    Logits,
    /// After the activation.
    Probabilities,
}

impl Form {
    fn logits() -> Self {
        Self::Logits
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_logits(&self) -> bool {
        *self == Self::Logits
    }
}

/// The function from logits to probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// One class applies; the probabilities sum to 1.
    Softmax,
    /// Each class has a probability of its own.
    Sigmoid,
}

/// One class.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// The label, exactly as trained: what `class` says in an answer.
    pub label: String,
    /// A corrected or friendlier name to show beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
}

/// Why a card cannot be used.
#[derive(Debug, Error)]
pub enum CardError {
    /// Not JSON, or a field is missing, unknown or of the wrong type.
    #[error("card.json cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The card has another version of the format.
    #[error("card_version is {found}, this build reads {CARD_VERSION}: prepare the model again")]
    Version {
        /// The card's version.
        found: u32,
    },
    /// A value is outside the range that can be served.
    #[error("card.json: `{field}` {problem}")]
    Value {
        /// Path of the field.
        field: &'static str,
        /// The problem, as the end of a sentence that begins with the field.
        problem: String,
    },
}

/// Largest model input side a card may ask for, in pixels.
pub const MAX_INPUT_SIDE: u32 = 4096;
/// Largest number of classes a card may list.
pub const MAX_CLASSES: usize = 100_000;
/// Most fields a card may list.
pub const MAX_FIELDS: usize = 16;
/// Most numbers a field may have.
pub const MAX_FIELD_LENGTH: usize = 4096;
/// Largest Grad-CAM side a card may declare.
pub const MAX_MAP_SIDE: u32 = 1024;

impl Input {
    /// Checks every value beyond its JSON type.
    ///
    /// # Errors
    /// The first [`CardError::Value`] found.
    pub fn check(&self) -> Result<(), CardError> {
        check_side("input.width", self.width, MAX_INPUT_SIDE)?;
        check_side("input.height", self.height, MAX_INPUT_SIDE)?;
        if self.std.iter().any(|s| !s.is_finite() || *s == 0.0) {
            let problem = format!("is {:?}; each must be finite and not 0", self.std);
            return Err(CardError::Value { field: "input.std", problem });
        }
        if self.mean.iter().any(|m| !m.is_finite()) {
            let problem = format!("is {:?}; each must be finite", self.mean);
            return Err(CardError::Value { field: "input.mean", problem });
        }
        self.check_resize()
    }

    fn check_resize(&self) -> Result<(), CardError> {
        let Resize { filter, antialias, fit, shortest, .. } = self.resize;
        let bad = |field, problem: String| Err(CardError::Value { field, problem });
        match (filter, antialias) {
            (Filter::Lanczos, false) => {
                return bad(
                    "input.resize.antialias",
                    format!("is false; {filter:?} is always antialiased"),
                );
            }
            (Filter::Nearest, true) => {
                return bad(
                    "input.resize.antialias",
                    "is true; nearest is never antialiased".to_owned(),
                );
            }
            _ => {}
        }
        let least = self.width.max(self.height);
        match (fit, shortest) {
            (Fit::Crop, None) => {
                bad("input.resize.shortest", "is missing; crop needs it".to_owned())
            }
            (Fit::Crop | Fit::Stretch, Some(side))
                if !(least..=2 * MAX_INPUT_SIDE).contains(&side) =>
            {
                bad(
                    "input.resize.shortest",
                    format!(
                        "is {side}; {least} (the input's longer side) to {} is supported",
                        2 * MAX_INPUT_SIDE
                    ),
                )
            }
            (Fit::Cover | Fit::Pad, Some(_)) => {
                let problem = "is given, but only crop and stretch use it";
                bad("input.resize.shortest", problem.to_owned())
            }
            _ => Ok(()),
        }
    }
}

impl Card {
    /// Parses and checks a card.
    ///
    /// # Errors
    /// [`CardError`] for malformed JSON, another version, or a value that cannot be served.
    pub fn parse(json: &[u8]) -> Result<Self, CardError> {
        let card: Self = serde_json::from_slice(json)?;
        card.check()?;
        Ok(card)
    }

    /// Checks every value beyond its JSON type.
    ///
    /// # Errors
    /// The first [`CardError::Version`] or [`CardError::Value`] found.
    pub fn check(&self) -> Result<(), CardError> {
        if self.card_version != CARD_VERSION {
            return Err(CardError::Version { found: self.card_version });
        }
        if !is_model_name(&self.name) {
            let problem = format!("is {:?}; a name is [a-z0-9][a-z0-9._-]*, at most 64", self.name);
            return Err(CardError::Value { field: "name", problem });
        }
        self.input.check()?;
        self.check_fields()?;
        if let Some(map) = &self.gradcam {
            check_side("gradcam.width", map.width, MAX_MAP_SIDE)?;
            check_side("gradcam.height", map.height, MAX_MAP_SIDE)?;
            if let MapClasses::Likeliest { count, .. } = map.classes
                && (count == 0 || count as usize > self.classes.len())
            {
                let problem = format!("is {count}; the model has {} classes", self.classes.len());
                return Err(CardError::Value { field: "gradcam.classes.count", problem });
            }
            let takes = |name| self.fields.iter().any(|f| f.name == name && f.default.len() == 1);
            if let Some(name) = map.asked().filter(|name| !takes(*name)) {
                let problem = format!("is {name:?}, which is not a field of one number");
                return Err(CardError::Value { field: "gradcam.classes.asked", problem });
            }
        }
        if let Some(familiarity) = &self.familiarity {
            familiarity.check()?;
        }
        if let Some(calibration) = &self.calibration {
            calibration.check()?;
        }
        if self.classes.is_empty() || self.classes.len() > MAX_CLASSES {
            let problem =
                format!("has {} entries; 1 to {MAX_CLASSES} are supported", self.classes.len());
            return Err(CardError::Value { field: "classes", problem });
        }
        Ok(())
    }

    fn check_fields(&self) -> Result<(), CardError> {
        let bad = |problem: String| Err(CardError::Value { field: "fields", problem });
        if self.fields.len() > MAX_FIELDS {
            return bad(format!("has {} entries; {MAX_FIELDS} are allowed", self.fields.len()));
        }
        for Field { name, shape, default } in &self.fields {
            let sides = shape.iter().map(|side| u64::from(*side));
            let count = sides.fold(1_u64, u64::saturating_mul);
            if count != default.len() as u64 || !(1..=MAX_FIELD_LENGTH).contains(&default.len()) {
                let given = default.len();
                return bad(format!(
                    "{name:?} of shape {shape:?} has {given} default numbers; their count must be the \
                     product of the shape, 1 to {MAX_FIELD_LENGTH}"
                ));
            }
            if default.iter().any(|number| !number.is_finite()) || *name == self.input.name {
                return bad(format!(
                    "{name:?} has a default that is not finite, or the name of the photo's input"
                ));
            }
        }
        Ok(())
    }

    /// The text of `card.json`: indented, with a final newline, the same bytes each time.
    ///
    /// # Errors
    /// [`CardError::Json`] if a number has no JSON form.
    pub fn to_json(&self) -> Result<String, CardError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// Whether `name` may name a model: `[a-z0-9][a-z0-9._-]*`, at most 64 bytes, so that it is also a
/// safe folder name.
#[must_use]
pub fn is_model_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut bytes = name.bytes();
    name.len() <= 64
        && bytes.next().is_some_and(plain)
        && bytes.all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
}

fn check_side(field: &'static str, side: u32, most: u32) -> Result<(), CardError> {
    if (1..=most).contains(&side) {
        return Ok(());
    }
    Err(CardError::Value { field, problem: format!("is {side}; 1 to {most} pixels are allowed") })
}
