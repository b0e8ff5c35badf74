//! How photos are brought to a model's input: by the name of a convention, by the files that Hugging Face
//! and timm lay beside a model, or part by part.
//!
//! Ranges are given as `mean` and `std` in units of 0–255, R, G, B, as in the card.

use std::fs;
use std::path::Path;

use serde_json::Value;
use skincell_vision::card::{ChannelOrder, Filter, Fit, Resize};

/// ImageNet's mean and standard deviation as torchvision and timm use them, times 255.
const IMAGENET: ([f32; 3], [f32; 3]) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);

/// The parts of a convention; `None` where it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Preprocess {
    /// Subtracted from R, G, B.
    pub mean: Option<[f32; 3]>,
    /// Divides R, G, B afterwards.
    pub std: Option<[f32; 3]>,
    /// Order of the channels.
    pub order: Option<ChannelOrder>,
    /// The resampling kernel.
    pub filter: Option<Filter>,
    /// Whether the kernel widens with the reduction.
    pub antialias: Option<bool>,
    /// Which part of the photo is seen.
    pub fit: Option<Fit>,
    /// With a crop: the input's side by the resized shorter side.
    pub crop_ratio: Option<f64>,
    /// With a crop: the resized shorter side in pixels, which rules over the ratio.
    pub shortest: Option<u32>,
    /// With bars: their colour.
    pub fill: Option<[u8; 3]>,
}

/// A convention by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// 0–255 as `image_dataset_from_directory` gives it; the model normalises by itself.
    Keras,
    /// torchvision: ImageNet's mean and deviation, shorter side to input/0.875, centre crop, bilinear.
    Torch,
    /// Keras's mode "tf": -1 to 1.
    Tf,
    /// Keras's mode "caffe": BGR less ImageNet's mean.
    Caffe,
    /// timm: as torchvision, bicubic.
    Timm,
    /// Teachable Machine: the middle square, -1 to 1.
    TeachableMachine,
    /// Azure Custom Vision: BGR, 0–255, bicubic.
    CustomVision,
    /// Ultralytics' classifiers: 0 to 1, shorter side to the input's, centre crop, bilinear.
    Ultralytics,
}

impl Convention {
    /// All of its parts.
    #[must_use]
    pub fn parts(self) -> Preprocess {
        let of = |mean: [f32; 3], std: [f32; 3], order, filter, antialias, fit| Preprocess {
            mean: Some(mean),
            std: Some(std),
            order: Some(order),
            filter: Some(filter),
            antialias: Some(antialias),
            fit: Some(fit),
            ..Preprocess::default()
        };
        let (rgb, bgr) = (ChannelOrder::Rgb, ChannelOrder::Bgr);
        let (zero, one, half) = ([0.0; 3], [1.0; 3], [127.5; 3]);
        match self {
            Self::Keras => of(zero, one, rgb, Filter::Bilinear, false, Fit::Stretch),
            Self::Tf => of(half, half, rgb, Filter::Bilinear, false, Fit::Stretch),
            // imagenet_utils.preprocess_input, in the order R, G, B.
            Self::Caffe => {
                of([123.68, 116.779, 103.939], one, bgr, Filter::Bilinear, false, Fit::Stretch)
            }
            Self::Torch => Preprocess {
                crop_ratio: Some(0.875),
                ..of(IMAGENET.0, IMAGENET.1, rgb, Filter::Bilinear, true, Fit::Crop)
            },
            Self::Timm => Preprocess {
                crop_ratio: Some(0.875),
                ..of(IMAGENET.0, IMAGENET.1, rgb, Filter::Bicubic, true, Fit::Crop)
            },
            Self::TeachableMachine => of(half, half, rgb, Filter::Lanczos, true, Fit::Cover),
            Self::CustomVision => of(zero, one, bgr, Filter::Bicubic, true, Fit::Stretch),
            Self::Ultralytics => Preprocess {
                crop_ratio: Some(1.0),
                ..of(zero, [255.0; 3], rgb, Filter::Bilinear, true, Fit::Crop)
            },
        }
    }
}

impl Preprocess {
    /// These parts, and those of `other` where this says nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            mean: self.mean.or(other.mean),
            std: self.std.or(other.std),
            order: self.order.or(other.order),
            filter: self.filter.or(other.filter),
            antialias: self.antialias.or(if self.filter.is_some() {
                None
            } else {
                other.antialias
            }),
            fit: self.fit.or(other.fit),
            crop_ratio: self.crop_ratio.or(other.crop_ratio),
            shortest: self.shortest.or(other.shortest),
            fill: self.fill.or(other.fill),
        }
    }

    /// Names of the parts that nothing says, and that are assumed: 0–255, R, G, B, the whole photo
    /// stretched by Lanczos.
    #[must_use]
    pub fn assumed(&self) -> Vec<String> {
        let parts = [
            ("range", self.mean.is_none() && self.std.is_none()),
            ("order", self.order.is_none()),
            ("filter", self.filter.is_none()),
            ("crop", self.fit.is_none()),
        ];
        parts.into_iter().filter(|(_, open)| *open).map(|(name, _)| name.to_owned()).collect()
    }

    /// The card's part; the crop's `shortest` where it is said in pixels.
    #[must_use]
    pub fn resize(&self) -> Resize {
        let filter = self.filter.unwrap_or(Filter::Lanczos);
        let antialias = self.antialias.unwrap_or(filter != Filter::Nearest);
        let fit = self.fit.unwrap_or(Fit::Stretch);
        let shortest = self.shortest.filter(|_| fit == Fit::Crop);
        Resize { filter, antialias, fit, shortest, fill: self.fill.unwrap_or_default() }
    }
}

/// What the files beside a model say of its preprocessing, and which file it was: Hugging Face's
/// `preprocessor_config.json`, else timm's `config.json`.
#[must_use]
pub fn beside(model: &Path) -> Option<(String, Preprocess)> {
    let folder = if model.is_dir() { Some(model) } else { model.parent() }?;
    let read = |name: &str| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    };
    if let Some(found) = read("preprocessor_config.json") {
        return Some(("preprocessor_config.json".to_owned(), hugging_face(&found)));
    }
    let config = read("config.json")?;
    let timm = config.get("pretrained_cfg")?;
    Some(("config.json".to_owned(), timm_config(timm)))
}

fn triple(value: Option<&Value>, scale: f32) -> Option<[f32; 3]> {
    let list = value?.as_array()?;
    let number = |at: usize| list.get(at)?.as_f64().map(|n| n as f32 * scale);
    Some([number(0)?, number(1)?, number(2)?])
}

fn flag(config: &Value, name: &str) -> Option<bool> {
    config.get(name).and_then(Value::as_bool)
}

/// A side in pixels: a number, or a member of an object.
fn side(value: Option<&Value>, member: &str) -> Option<u32> {
    let value = value?;
    let number = value.as_u64().or_else(|| value.get(member)?.as_u64())?;
    u32::try_from(number).ok()
}

/// `preprocessor_config.json` of an image processor of transformers.
fn hugging_face(config: &Value) -> Preprocess {
    let factor = match flag(config, "do_rescale") {
        Some(false) => 1.0,
        _ => config.get("rescale_factor").and_then(Value::as_f64).unwrap_or(1.0 / 255.0),
    };
    let unit = (1.0 / factor) as f32;
    let normalises = flag(config, "do_normalize").unwrap_or(true);
    let mean = triple(config.get("image_mean"), unit).filter(|_| normalises);
    let std = triple(config.get("image_std"), unit).filter(|_| normalises);
    // PIL's numbers of the resampling filters.
    let filter = match config.get("resample").and_then(Value::as_u64) {
        Some(0) => Some(Filter::Nearest),
        Some(1) => Some(Filter::Lanczos),
        Some(2) => Some(Filter::Bilinear),
        Some(3) => Some(Filter::Bicubic),
        _ => None,
    };
    let size = config.get("size");
    let shortest =
        side(size, "shortest_edge").filter(|_| size.is_some_and(|s| s.get("height").is_none()));
    let crop = side(config.get("crop_size"), "height")
        .filter(|_| flag(config, "do_center_crop").unwrap_or(true));
    let percent = config.get("crop_pct").and_then(Value::as_f64);
    let (fit, shortest) = match (shortest, crop, percent) {
        // ConvNeXT: below 384 pixels it is cropped, from there on it is stretched.
        (Some(side), None, Some(percent)) if side < 384 => {
            (Some(Fit::Crop), Some((f64::from(side) / percent) as u32))
        }
        (Some(_), None, Some(_)) => (Some(Fit::Stretch), None),
        (Some(side), Some(_), _) => (Some(Fit::Crop), Some(side)),
        (Some(side), None, None) => (Some(Fit::Crop), Some(side)),
        (None, _, _) => (size.map(|_| Fit::Stretch), None),
    };
    Preprocess {
        mean: mean.or(Some([0.0; 3])),
        std: std.or(Some([unit; 3])),
        order: Some(match flag(config, "do_flip_channel_order") {
            Some(true) => ChannelOrder::Bgr,
            _ => ChannelOrder::Rgb,
        }),
        filter,
        antialias: filter.map(|filter| filter != Filter::Nearest),
        fit,
        shortest,
        ..Preprocess::default()
    }
}

/// `pretrained_cfg` of timm's `config.json`.
fn timm_config(config: &Value) -> Preprocess {
    let text = |name: &str| config.get(name).and_then(Value::as_str);
    let filter = match text("interpolation") {
        Some("bilinear") => Some(Filter::Bilinear),
        Some("bicubic") => Some(Filter::Bicubic),
        Some("lanczos") => Some(Filter::Lanczos),
        Some("nearest") => Some(Filter::Nearest),
        _ => None,
    };
    let fit = match text("crop_mode") {
        Some("squash") => Fit::Stretch,
        Some("border") => Fit::Pad,
        _ => Fit::Crop,
    };
    let ratio = config.get("crop_pct").and_then(Value::as_f64).unwrap_or(0.875);
    Preprocess {
        mean: triple(config.get("mean"), 255.0),
        std: triple(config.get("std"), 255.0),
        order: Some(ChannelOrder::Rgb),
        filter,
        antialias: filter.map(|filter| filter != Filter::Nearest),
        fit: Some(fit),
        crop_ratio: Some(ratio),
        ..Preprocess::default()
    }
}
