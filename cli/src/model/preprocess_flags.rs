//! The preprocessing of photos: a named convention, a flag for each part, or a file beside the model.

use std::path::Path;

use clap::{Args, ValueEnum};
use skincell_modelkit::preprocess::{Convention, Preprocess, beside, inside};
use skincell_vision::card::{ChannelOrder, Filter, Fit};

/// Flags of `skincell model prepare` for preprocessing.
#[derive(Debug, Clone, PartialEq, Args)]
pub(super) struct PreprocessFlags {
    /// The convention photos were prepared by in training: range, order of channels, filter and crop
    /// [default: preprocessor_config.json or config.json beside the model, else the ONNX metadata, else
    /// 0 to 255, RGB, the whole photo stretched by Lanczos]
    #[arg(long, value_enum)]
    preprocess: Option<Convention>,
    /// Subtracted from R, G and B of each pixel (0 to 255)
    #[arg(long, value_name = "R,G,B", value_parser = parse_triple)]
    mean: Option<[f32; 3]>,
    /// Divisor of R, G and B, after subtracting the mean
    #[arg(long, value_name = "R,G,B", value_parser = parse_triple)]
    std: Option<[f32; 3]>,
    /// Order of the channels in the tensor
    #[arg(long, value_enum)]
    channels: Option<OrderKind>,
    /// The resampling filter, with antialiasing as in Pillow; *-sharp without, as in TensorFlow and OpenCV
    #[arg(long, value_enum)]
    filter: Option<FilterKind>,
    /// The part of the photo that is used: all of it stretched, the centre after resizing the shorter side
    /// (crop), the largest centred part with the input's aspect ratio (cover), all of it with bars (pad)
    #[arg(long, value_enum)]
    fit: Option<FitKind>,
    /// With --fit crop: the input's side divided by the resized shorter side, such as 0.875
    #[arg(long, value_name = "RATIO", value_parser = parse_ratio)]
    crop_ratio: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum OrderKind {
    Rgb,
    Bgr,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum FilterKind {
    Lanczos,
    Bicubic,
    Bilinear,
    Nearest,
    BicubicSharp,
    BilinearSharp,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum FitKind {
    Stretch,
    Crop,
    Cover,
    Pad,
}

impl PreprocessFlags {
    /// Each part from its own flag, else from `--preprocess`, else from a file beside the model, else from
    /// the model's metadata, else from the convention the model was recognised by; and the sources, for the
    /// report.
    pub(super) fn parts(
        &self,
        model: &Path,
        recognised: Option<Convention>,
    ) -> (Preprocess, Vec<String>) {
        let mut sources = Vec::new();
        let mut parts = self.single();
        if let Some(convention) = self.preprocess {
            let name = convention.to_possible_value().map(|v| v.get_name().to_owned());
            sources.push(format!("--preprocess {}", name.unwrap_or_default()));
            parts = parts.or(convention.parts());
        } else if let Some((file, found)) = beside(model) {
            sources.push(format!("{file} beside the model"));
            parts = parts.or(found);
        } else if let Some((who, found)) = inside(model) {
            sources.push(who);
            parts = parts.or(found);
        } else if let Some(convention) = recognised {
            sources.push(format!("recognised as {convention:?}"));
            parts = parts.or(convention.parts());
        }
        // A crop without a ratio is a crop of the whole shorter side.
        if parts.fit == Some(Fit::Crop) && parts.crop_ratio.is_none() && parts.shortest.is_none() {
            parts.crop_ratio = Some(1.0);
        }
        (parts, sources)
    }

    fn single(&self) -> Preprocess {
        let (filter, antialias) = match self.filter {
            None => (None, None),
            Some(FilterKind::Lanczos) => (Some(Filter::Lanczos), Some(true)),
            Some(FilterKind::Bicubic) => (Some(Filter::Bicubic), Some(true)),
            Some(FilterKind::Bilinear) => (Some(Filter::Bilinear), Some(true)),
            Some(FilterKind::Nearest) => (Some(Filter::Nearest), Some(false)),
            Some(FilterKind::BicubicSharp) => (Some(Filter::Bicubic), Some(false)),
            Some(FilterKind::BilinearSharp) => (Some(Filter::Bilinear), Some(false)),
        };
        Preprocess {
            mean: self.mean,
            std: self.std,
            order: self.channels.map(|order| match order {
                OrderKind::Rgb => ChannelOrder::Rgb,
                OrderKind::Bgr => ChannelOrder::Bgr,
            }),
            filter,
            antialias,
            fit: match (self.fit, self.crop_ratio) {
                (None, None) => None,
                (None | Some(FitKind::Crop), _) => Some(Fit::Crop),
                (Some(FitKind::Stretch), _) => Some(Fit::Stretch),
                (Some(FitKind::Cover), _) => Some(Fit::Cover),
                (Some(FitKind::Pad), _) => Some(Fit::Pad),
            },
            crop_ratio: self.crop_ratio,
            ..Preprocess::default()
        }
    }
}

fn parse_triple(text: &str) -> Result<[f32; 3], String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|n| n.trim().parse::<f32>()).collect();
    match numbers.as_deref() {
        Ok([r, g, b]) => Ok([*r, *g, *b]),
        Ok([one]) => Ok([*one; 3]),
        Ok(other) => Err(format!("{} numbers; give one each for R, G and B", other.len())),
        Err(error) => Err(format!("{error}; write a list such as 127.5,127.5,127.5")),
    }
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if ratio > 0.1 && ratio <= 1.0 => Ok(ratio),
        _ => Err("give a ratio above 0.1 and up to 1, such as 0.875".to_owned()),
    }
}
