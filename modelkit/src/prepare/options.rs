//! The settings of `model prepare`.

use std::path::PathBuf;

use skincell_vision::card::{Basis, ChannelOrder, Class, Dtype, Layout, Resize, Target};

use crate::scores::SaidActivation;

/// The settings of [`prepare`](super::prepare()).
#[derive(Debug, Clone, PartialEq)]
pub struct PrepareOptions {
    /// The exported ONNX file.
    pub model: PathBuf,
    /// The folder to write.
    pub output: PathBuf,
    /// The classes, in the order of the scores; see [`crate::parse_labels`]. If empty, the labels inside the
    /// model are used.
    pub classes: Vec<Class>,
    /// The model's name; if empty, the last part of `output`.
    pub name: String,
    /// A title of one line, shown to users.
    pub title: String,
    /// A notice that every answer must carry.
    pub notice: String,
    /// Whether browsers may load the model, to run it on the user's own device.
    pub on_device: bool,
    /// SPDX expression of the weights' licence.
    pub license: String,
    /// Where the weights came from.
    pub source: String,
    /// Subtracted from each channel (R, G, B), in pixel units 0–255.
    pub mean: [f32; 3],
    /// Divides each channel afterwards, in pixel units.
    pub std: [f32; 3],
    /// Order of the channels in the tensor.
    pub order: ChannelOrder,
    /// How a photo is brought to the input's size.
    pub resize: Resize,
    /// For a crop without `shortest`: the input's longer side divided by the resized shorter side.
    pub crop_ratio: f64,
    /// Order of the axes, for a graph from which it cannot be derived.
    pub layout: Option<Layout>,
    /// Names of settings that were assumed, for the card.
    pub assumed: Vec<String>,
    /// Default values of inputs besides the photo, used if a request gives none.
    pub defaults: Vec<(String, Vec<f32>)>,
    /// Photos to compare on; if empty, the drawings of [`crate::samples`]. Familiarity is fitted to the
    /// folders among them.
    pub photos: Vec<PathBuf>,
    /// The photos in these folders in words; if empty, their number.
    pub photos_basis: String,
    /// Largest accepted difference of a probability; 1e-4 if `None`.
    pub max_difference: Option<f64>,
    /// Element type of the served graph's input; with u8 the graph normalises the pixels itself. If `None`,
    /// u8 for a model that takes bytes, and else f32.
    pub input: Option<Dtype>,
    /// Width and height in pixels, for a model with variable sizes.
    pub size: Option<(u32, u32)>,
    /// Name of the output with the scores, for a model with several outputs.
    pub scores: Option<String>,
    /// The kind of scores; if `None`, derived from the graph and its values.
    pub activation: Option<SaidActivation>,
    /// The feature map of the Grad-CAM.
    pub target: CamTarget,
    /// Name of the layer or node whose map is shown; the last map if `None`.
    pub layer: Option<String>,
    /// The score whose gradient is shown.
    pub basis: Basis,
    /// Whether the last convolution's bias belongs to the layer itself and not to a folded batch norm; if
    /// `None`, derived from the graph.
    pub own_bias: Option<bool>,
    /// Whether an existing folder is replaced.
    pub force: bool,
}

impl Default for PrepareOptions {
    /// Pixels from 0 to 255 in the order R, G, B, and the whole photo stretched.
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            output: PathBuf::new(),
            classes: Vec::new(),
            name: String::new(),
            title: String::new(),
            notice: String::new(),
            on_device: false,
            license: String::new(),
            source: String::new(),
            mean: [0.0; 3],
            std: [1.0; 3],
            order: ChannelOrder::Rgb,
            resize: Resize::default(),
            crop_ratio: 1.0,
            layout: None,
            assumed: Vec::new(),
            defaults: Vec::new(),
            photos: Vec::new(),
            photos_basis: String::new(),
            max_difference: None,
            input: None,
            size: None,
            scores: None,
            activation: None,
            target: CamTarget::Solvable,
            layer: None,
            basis: Basis::Probability,
            own_bias: None,
            force: false,
        }
    }
}

/// The feature map that Grad-CAM shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CamTarget {
    /// The last convolution if its map can be computed, otherwise the activation.
    #[default]
    Solvable,
    /// Only this target.
    Only(Target),
    /// None: the model is served without heatmaps.
    None,
}
