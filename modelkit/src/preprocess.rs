//! A model's preprocessing: by the name of a convention, from files that Hugging Face and timm write beside a
//! model, from metadata inside an ONNX file, or part by part.
//!
//! `mean` and `std` are in units of 0–255, in the order R, G, B, as in the card. The preprocessing itself is
//! done in `skincell_vision`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use skincell_vision::card::{ChannelOrder, Filter, Fit, Resize};

/// ImageNet's mean and standard deviation as torchvision and timm use them, times 255.
const IMAGENET: ([f32; 3], [f32; 3]) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);

/// The parts of a convention; `None` for parts that it leaves open.
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
    /// Which part of the photo the model sees.
    pub fit: Option<Fit>,
    /// For a crop: the input's side divided by the resized shorter side.
    pub crop_ratio: Option<f64>,
    /// For a crop: the resized shorter side in pixels, which has precedence over the ratio. For a stretched
    /// photo: the side of the square whose centre is cut out.
    pub shortest: Option<u32>,
    /// For padding: the colour of the bars.
    pub fill: Option<[u8; 3]>,
}

/// A convention by its name. The first lines are the help of the flag `--preprocess`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Convention {
    /// 0 to 255, bilinear without antialiasing: image_dataset_from_directory
    Keras,
    /// ImageNet's mean and deviation, bilinear, crop of 0.875: torchvision
    Torch,
    /// -1 to 1, otherwise as keras: preprocess_input of mode "tf"
    Tf,
    /// BGR minus ImageNet's mean, otherwise as keras: preprocess_input of mode "caffe"
    Caffe,
    /// ImageNet's mean and deviation, bicubic, crop of 0.875
    Timm,
    /// -1 to 1, Lanczos, the middle square
    TeachableMachine,
    /// BGR, 0 to 255, bicubic
    CustomVision,
    /// 0 to 1, bilinear, crop of 1
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
            // The means of Keras's imagenet_utils.preprocess_input, in the order R, G, B.
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
    /// These parts, completed by those of `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        // Ratio and side belong to one `fit` and do not apply to another.
        let same = self.fit.is_none() || self.fit == other.fit;
        let resized = other.shortest.filter(|_| same && self.crop_ratio.is_none());
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
            crop_ratio: self.crop_ratio.or(other.crop_ratio.filter(|_| same)),
            shortest: self.shortest.or(resized),
            fill: self.fill.or(other.fill),
        }
    }

    /// Names of the parts that are open, for which defaults are assumed: 0–255, R, G, B, the whole photo
    /// stretched with Lanczos.
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

    /// The card's `resize`; `shortest` only if it is given in pixels.
    #[must_use]
    pub fn resize(&self) -> Resize {
        let filter = self.filter.unwrap_or(Filter::Lanczos);
        let antialias = self.antialias.unwrap_or(filter != Filter::Nearest);
        let fit = self.fit.unwrap_or(Fit::Stretch);
        let shortest = self.shortest.filter(|_| matches!(fit, Fit::Crop | Fit::Stretch));
        Resize { filter, antialias, fit, shortest, fill: self.fill.unwrap_or_default() }
    }
}

/// The preprocessing in the files beside a model, with the file's name: Hugging Face's
/// `preprocessor_config.json`, otherwise timm's `config.json`.
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

/// The preprocessing in an ONNX file's metadata, with the name of its source: Azure Custom Vision and other
/// exporters for Windows ML (`Image.BitmapPixelFormat`), or Ultralytics.
#[must_use]
pub fn inside(model: &Path) -> Option<(String, Preprocess)> {
    let is_onnx = model.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    // Errors are ignored here; reading the model itself reports them.
    let held = Some(model).filter(|_| is_onnx).and_then(|model| skincell_onnx::read(model).ok())?;
    of_metadata(&held.metadata)
}

fn of_metadata(held: &BTreeMap<String, String>) -> Option<(String, Preprocess)> {
    let entry = |name: &str| held.get(name).map(String::as_str);
    if entry("author") == Some("Ultralytics") && entry("task") == Some("classify") {
        return Some(("Ultralytics' metadata".to_owned(), Convention::Ultralytics.parts()));
    }
    let order = match entry("Image.BitmapPixelFormat")? {
        "Bgr8" | "Bgra8" => ChannelOrder::Bgr,
        "Rgb8" | "Rgba8" => ChannelOrder::Rgb,
        _ => return None,
    };
    let (mean, std) = match entry("Image.NominalPixelRange") {
        Some("NominalRange_0_255") => ([0.0; 3], [1.0; 3]),
        Some("Normalized_1_1") => ([127.5; 3], [127.5; 3]),
        // In every other case Custom Vision's own code divides by 255.
        _ => ([0.0; 3], [255.0; 3]),
    };
    let parts = Convention::CustomVision.parts();
    let parts = Preprocess { mean: Some(mean), std: Some(std), order: Some(order), ..parts };
    Some(("the model's Image.BitmapPixelFormat".to_owned(), parts))
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
    // Pillow's numbers of the resampling filters.
    let filter = match config.get("resample").and_then(Value::as_u64) {
        Some(0) => Some(Filter::Nearest),
        Some(1) => Some(Filter::Lanczos),
        Some(2) => Some(Filter::Bilinear),
        Some(3) => Some(Filter::Bicubic),
        _ => None,
    };
    let size = config.get("size");
    let percent = config.get("crop_pct").and_then(Value::as_f64);
    // A plain number is a square's side; with ConvNeXT's `crop_pct` it is the shorter side.
    let shortest = side(size.filter(|s| s.is_object()), "shortest_edge")
        .filter(|_| size.is_some_and(|s| s.get("height").is_none()))
        .or(side(size, "").filter(|_| percent.is_some()));
    let square = side(size, "height");
    let crop = side(config.get("crop_size"), "height")
        .filter(|_| flag(config, "do_center_crop").unwrap_or(true));
    let (fit, shortest) = match (shortest, crop, percent) {
        // ConvNeXT crops below 384 pixels and stretches from 384 on.
        (Some(side), None, Some(percent)) if side < 384 => {
            (Some(Fit::Crop), Some((f64::from(side) / percent) as u32))
        }
        (Some(_), None, Some(_)) => (Some(Fit::Stretch), None),
        (Some(side), Some(_), _) => (Some(Fit::Crop), Some(side)),
        (Some(side), None, None) => (Some(Fit::Crop), Some(side)),
        // DeiT and BEiT: the centre of a stretched square.
        (None, Some(_), _) => (Some(Fit::Stretch), square),
        (None, None, _) => (size.map(|_| Fit::Stretch), None),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The parts as one line: mean, std, order, filter, antialias, fit, shortest, crop ratio.
    fn line(parts: &Preprocess) -> String {
        let resize = parts.resize();
        format!(
            "{:?} {:?} {:?} {:?} {} {:?} {:?} {:?}",
            parts.mean.unwrap_or_default()[0],
            parts.std.unwrap_or_default()[0],
            parts.order.unwrap_or_default(),
            resize.filter,
            resize.antialias,
            resize.fit,
            resize.shortest,
            parts.crop_ratio,
        )
    }

    /// Files of transformers for these architectures, reduced to the relevant members.
    #[test]
    fn processors_of_hugging_face_are_read() {
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let cases = [
            (
                "ViTImageProcessor",
                json!({"do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
                    "image_std": [0.5, 0.5, 0.5], "resample": 2, "rescale_factor": 0.003_921_568_627_450_98,
                    "size": {"height": 224, "width": 224}}),
                "127.5 127.5 Rgb Bilinear true Stretch None None",
            ),
            (
                "DeiTImageProcessor",
                json!({"crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "do_normalize": true,
                    "image_mean": mean, "image_std": std, "resample": 3,
                    "rescale_factor": 0.003_921_568_627_450_98, "size": {"shortest_edge": 256}}),
                "123.675 58.395 Rgb Bicubic true Crop Some(256) None",
            ),
            (
                "BeitImageProcessor",
                json!({"crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "do_normalize": true,
                    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3,
                    "rescale_factor": 0.003_921_568_627_450_98, "size": {"height": 256, "width": 256}}),
                "127.5 127.5 Rgb Bicubic true Stretch Some(256) None",
            ),
            (
                "ConvNextImageProcessor",
                json!({"crop_pct": 0.875, "do_normalize": true, "image_mean": mean, "image_std": std,
                    "resample": 3, "size": {"shortest_edge": 224}}),
                "123.675 58.395 Rgb Bicubic true Crop Some(256) None",
            ),
            (
                "ConvNextImageProcessor, large",
                json!({"crop_pct": 0.875, "image_mean": mean, "image_std": std, "resample": 3,
                    "size": {"shortest_edge": 384}}),
                "123.675 58.395 Rgb Bicubic true Stretch None None",
            ),
            (
                "MobileViTImageProcessor",
                json!({"crop_size": {"height": 256, "width": 256}, "do_center_crop": true, "do_flip_channel_order": true,
                    "do_normalize": false, "do_rescale": true, "resample": 2, "size": {"shortest_edge": 288}}),
                "0.0 255.0 Bgr Bilinear true Crop Some(288) None",
            ),
            (
                "an old feature extractor",
                json!({"do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
                    "resample": 2, "size": 224}),
                "127.5 127.5 Rgb Bilinear true Stretch None None",
            ),
        ];
        for (name, config, expected) in cases {
            assert_eq!(line(&hugging_face(&config)), expected, "{name}");
        }
    }

    #[test]
    fn configs_of_timm_are_read() {
        let config = json!({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
            "crop_pct": 0.95, "crop_mode": "center", "input_size": [3, 224, 224]});
        let parts = timm_config(&config);
        assert_eq!(line(&parts), "127.5 127.5 Rgb Bicubic true Crop None Some(0.95)");
        let squash = timm_config(
            &json!({"interpolation": "bilinear", "crop_mode": "squash", "crop_pct": 0.9}),
        );
        assert_eq!((squash.fit, squash.crop_ratio), (Some(Fit::Stretch), Some(0.9)));
        let said = Preprocess { fit: Some(Fit::Stretch), ..Preprocess::default() };
        assert_eq!(
            said.or(parts).crop_ratio,
            None,
            "the ratio of a crop does not apply to a stretched photo"
        );
    }

    #[test]
    fn metadata_of_onnx_files_is_read() {
        let of = |entries: &[(&str, &str)]| {
            let held: BTreeMap<String, String> =
                entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            of_metadata(&held).map(|(_, parts)| line(&parts))
        };
        let format = ("Image.BitmapPixelFormat", "Bgr8");
        let range = ("Image.NominalPixelRange", "NominalRange_0_255");
        let stretched = "Bicubic true Stretch None None";
        assert_eq!(of(&[format, range]), Some(format!("0.0 1.0 Bgr {stretched}")));
        assert_eq!(of(&[format]), Some(format!("0.0 255.0 Bgr {stretched}")));
        let rgb = ("Image.BitmapPixelFormat", "Rgb8");
        assert_eq!(of(&[rgb, range]), Some(format!("0.0 1.0 Rgb {stretched}")));
        let yolo = [("author", "Ultralytics"), ("task", "classify"), ("names", "{0: 'a'}")];
        assert_eq!(of(&yolo), Some("0.0 255.0 Rgb Bilinear true Crop None Some(1.0)".to_owned()));
        assert_eq!(of(&[("author", "Ultralytics"), ("task", "detect")]), None);
        assert_eq!(of(&[("Image.BitmapPixelFormat", "Gray8")]), None);
    }
}
