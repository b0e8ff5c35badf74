//! Determines a graph's photo input and its score output.
//!
//! Symbolic batch sizes become 1, the layout is derived from the dimensions, and for u8 input the
//! normalisation moves into the graph. The meaning of the scores is determined in `scores`.

mod layout;

use std::collections::HashSet;

use rten_onnx::onnx::{DataType, ValueInfoProto};
use skincell_vision::card::{ChannelOrder, Dtype, Input, Layout, MAX_INPUT_SIDE, Resize};
use thiserror::Error;

use crate::gradcam::channel_shape;
use crate::onnx::graph::{
    Graph, attribute, input, int_attribute, op, typed_value_info, value_info,
};
use skincell_onnx::Constant;

/// Why a graph's input or output does not fit a classifier of photos.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InterfaceError {
    /// The number of inputs is not one.
    #[error(
        "the model takes {count} inputs ({names}), and a classifier of photos takes one; set the other inputs \
         with --input-default NAME=VALUE[,VALUE…]"
    )]
    Inputs {
        /// Number of inputs.
        count: usize,
        /// Their names.
        names: String,
    },
    /// The input cannot be a photo.
    #[error(
        "input \"{name}\" has shape [{shape}]; a photo is [1, 3, height, width] or \
         [1, height, width, 3]{advice}"
    )]
    Shape {
        /// The input.
        name: String,
        /// Its dimensions, with names for symbolic ones.
        shape: String,
        /// What to do, as the end of the sentence, or nothing.
        advice: &'static str,
    },
    /// Height or width is variable.
    #[error("input \"{name}\" has a variable size ([{shape}]); set it with --size WIDTHxHEIGHT")]
    Size {
        /// The input.
        name: String,
        /// Its dimensions, with names for symbolic ones.
        shape: String,
    },
    /// The given size contradicts the model.
    #[error("--size {asked} was given, but the model is made for {held}")]
    OtherSize {
        /// The given size.
        asked: String,
        /// The model's size.
        held: String,
    },
    /// The sides are outside the supported range.
    #[error(
        "input \"{name}\" is {width}x{height}; 1 to {MAX_INPUT_SIDE} pixels per side are supported"
    )]
    TooLarge {
        /// The input.
        name: String,
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
    },
    /// The element type is neither floating point nor bytes.
    #[error(
        "input \"{name}\" takes {dtype} elements; a photo is float32, float16 or uint8: export the model \
         with one of these"
    )]
    Type {
        /// The input.
        name: String,
        /// Its element type.
        dtype: String,
    },
    /// A normalisation was given for a model that takes unnormalised pixels.
    #[error(
        "input \"{name}\" takes the pixels as bytes, and the model normalises them itself; leave out --mean, \
         --std and --preprocess, or name a --preprocess with the range 0 to 255"
    )]
    Bytes {
        /// The input.
        name: String,
    },
    /// The given order of the axes contradicts the model.
    #[error(
        "--layout {given} was given, but input \"{name}\" of shape [{shape}] takes {held}, as {evidence} shows; \
         leave the flag out"
    )]
    OtherLayout {
        /// The input.
        name: String,
        /// Its dimensions, with names for symbolic ones.
        shape: String,
        /// The given order.
        given: &'static str,
        /// The model's order.
        held: &'static str,
        /// What shows it.
        evidence: String,
    },
    /// The axis of the channels cannot be derived.
    #[error(
        "input \"{name}\" has shape [{shape}], and the graph does not show which axis holds the \
         channels; set it with --layout nchw (PyTorch) or nhwc (Keras)"
    )]
    Layout {
        /// The input.
        name: String,
        /// Its dimensions, with names for symbolic ones.
        shape: String,
    },
    /// A default was given for an input that the model does not have.
    #[error("--input-default names \"{name}\", but the model takes {names}")]
    NoInput {
        /// The given name.
        name: String,
        /// The inputs' names.
        names: String,
    },
    /// A default has the wrong number of values.
    #[error("--input-default {name} has {given} numbers, but the model takes {wanted}")]
    Default {
        /// The input.
        name: String,
        /// Number of values that the input takes.
        wanted: String,
        /// Number of given values.
        given: usize,
    },
    /// The model has several outputs, and none was chosen.
    #[error("the model has the outputs {names}; name the scores with --scores NAME{advice}")]
    Outputs {
        /// The outputs' names.
        names: String,
        /// What the names tell, as the end of the sentence, or nothing.
        advice: &'static str,
    },
    /// The chosen output does not exist.
    #[error("the model has no output \"{name}\"; it has {names}")]
    NoOutput {
        /// The requested name.
        name: String,
        /// The outputs' names.
        names: String,
    },
}

/// The user's settings of the photo input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Photo {
    pub(crate) mean: [f32; 3],
    pub(crate) std: [f32; 3],
    pub(crate) order: ChannelOrder,
    pub(crate) resize: Resize,
    /// Order of the axes, if the graph does not show it.
    pub(crate) layout: Option<Layout>,
    /// Width and height, if they are variable in the model.
    pub(crate) size: Option<(u32, u32)>,
}

/// Fixes the shape of the photo's input and describes it. Other inputs become constants with the values of
/// `defaults`.
///
/// # Errors
/// [`InterfaceError`] if the inputs are not one float32 photo and others with defaults.
pub(crate) fn input_of(
    graph: &mut Graph,
    photo: &Photo,
    defaults: &[(String, Vec<f32>)],
) -> Result<Input, InterfaceError> {
    drop_unread(graph);
    fix_others(graph, defaults)?;
    let [only] = &graph.inputs[..] else {
        let names: Vec<String> = graph.inputs.iter().map(quoted).collect();
        return Err(InterfaceError::Inputs { count: names.len(), names: names.join(", ") });
    };
    let name = only.name.clone().unwrap_or_default();
    let dtype = element_type(only);
    if dtype != DataType::FLOAT {
        return Err(InterfaceError::Type { name, dtype: dtype.to_string() });
    }
    let dims = dimensions(only);
    let shape = dims.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(", ");
    let sides: Vec<Option<usize>> = dims.iter().map(|(_, side)| *side).collect();
    let layout = layout::settle(graph, (&name, &shape), &sides, photo.layout)?;
    let [_, second, third, fourth] = sides[..] else {
        return Err(no_photo(name, shape, sides.len()));
    };
    let (channels, height, width) = match layout {
        Layout::Nchw => (second, third, fourth),
        Layout::Nhwc => (fourth, second, third),
    };
    let channels = channels.or_else(|| layout::channels_read(graph, &name));
    if let Some(channels) = channels.filter(|channels| *channels != 3) {
        return Err(InterfaceError::Shape {
            name,
            shape,
            advice: layout::other_channels(channels),
        });
    }
    let (width, height) = sides_of(&name, &shape, (width, height), photo.size)?;
    let input = Input {
        name: name.clone(),
        layout,
        dtype: Dtype::F32,
        width,
        height,
        mean: photo.mean,
        std: photo.std,
        order: photo.order,
        resize: photo.resize,
    };
    graph.inputs = vec![value_info(&name, &shape_of(&input))];
    Ok(input)
}

/// If the graph takes the photo as bytes, makes the input float32 with a cast after it. Returns whether it
/// did.
pub(crate) fn bytes_to_float(graph: &mut Graph) -> bool {
    let is_photo = |value: &&ValueInfoProto| {
        element_type(value) == DataType::UINT8 && dimensions(value).len() == 4
    };
    let Some(photo) = graph.inputs.iter().find(is_photo).cloned() else { return false };
    let name = photo.name.clone().unwrap_or_default();
    let to = vec![int_attribute("to", i64::from(DataType::UINT8.0))];
    let bytes = graph.fresh("input/bytes");
    graph.replace_reads(&name, &bytes);
    graph.emit("input/bytes", "Cast", &[&name], to);
    if let Some(cast) = graph.nodes.pop() {
        graph.nodes.insert(0, cast);
    }
    for input in graph.inputs.iter_mut().filter(|input| input.name == photo.name) {
        if let Some(tensor) = input.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()) {
            tensor.elem_type = Some(DataType::FLOAT);
        }
    }
    true
}

/// Width and height from the model, or as given if the model leaves them variable.
fn sides_of(
    name: &str,
    shape: &str,
    (width, height): (Option<usize>, Option<usize>),
    asked: Option<(u32, u32)>,
) -> Result<(u32, u32), InterfaceError> {
    let asked = asked.map(|(w, h)| (w as usize, h as usize));
    let (name, shape) = (name.to_owned(), shape.to_owned());
    let (width, height) = match (width, height, asked) {
        (Some(w), Some(h), Some(asked)) if asked != (w, h) => {
            let (asked, held) = (format!("{}x{}", asked.0, asked.1), format!("{w}x{h}"));
            return Err(InterfaceError::OtherSize { asked, held });
        }
        (Some(w), Some(h), _) => (w, h),
        (_, _, Some(asked)) => asked,
        _ => return Err(InterfaceError::Size { name, shape }),
    };
    let served = 1..=MAX_INPUT_SIDE as usize;
    if !served.contains(&width) || !served.contains(&height) {
        return Err(InterfaceError::TooLarge { name, width, height });
    }
    Ok((width as u32, height as u32))
}

/// Replaces the inputs besides the photo by constants.
fn fix_others(graph: &mut Graph, defaults: &[(String, Vec<f32>)]) -> Result<(), InterfaceError> {
    let named = |value: &ValueInfoProto, name: &str| value.name.as_deref() == Some(name);
    if let Some((name, _)) =
        defaults.iter().find(|(name, _)| !graph.inputs.iter().any(|value| named(value, name)))
    {
        let names = graph.inputs.iter().map(quoted).collect::<Vec<_>>().join(", ");
        return Err(InterfaceError::NoInput { name: name.clone(), names });
    }
    for (name, values) in defaults {
        let Some(at) = graph.inputs.iter().position(|value| named(value, name)) else { continue };
        let held = graph.inputs.remove(at);
        let sides: Vec<usize> =
            dimensions(&held).into_iter().map(|(_, side)| side.unwrap_or(1)).collect();
        let count = sides.iter().try_fold(1_usize, |n, side| n.checked_mul(*side));
        let wrong = |count: Option<usize>| InterfaceError::Default {
            name: name.clone(),
            wanted: count.map_or("fewer".to_owned(), |count| count.to_string()),
            given: values.len(),
        };
        let values = match (count, &values[..]) {
            (Some(count), [one]) if count <= 1 << 20 => vec![*one; count],
            (Some(count), values) if count == values.len() => values.to_vec(),
            (count, _) => return Err(wrong(count)),
        };
        let tensor = match element_type(&held) {
            DataType::FLOAT => Constant::f32(&sides, &values),
            DataType::INT64 => {
                let whole: Vec<i64> = values.iter().map(|v| *v as i64).collect();
                Constant { dims: sides, ..Constant::i64_list(&whole) }
            }
            dtype => {
                let name = name.clone();
                return Err(InterfaceError::Type { name, dtype: dtype.to_string() });
            }
        };
        graph.constants.insert(name.clone(), tensor);
    }
    Ok(())
}

/// Drops inputs that no node reads, if another input is left. Keras exports the constants of a Normalization
/// layer as such inputs.
fn drop_unread(graph: &mut Graph) {
    let read: HashSet<String> = graph.nodes.iter().flat_map(|n| n.input.iter().cloned()).collect();
    let is_read = |value: &ValueInfoProto| value.name.as_ref().is_some_and(|n| read.contains(n));
    if graph.inputs.iter().any(is_read) {
        graph.inputs.retain(is_read);
    }
}

/// The tensor's shape for one photo.
pub(crate) fn shape_of(input: &Input) -> [usize; 4] {
    let (width, height) = (input.width as usize, input.height as usize);
    match input.layout {
        Layout::Nchw => [1, 3, height, width],
        Layout::Nhwc => [1, height, width, 3],
    }
}

/// Moves the normalisation into the graph: the input becomes u8 pixels, and the nodes that read it get
/// `(pixel − mean) / std` as float32. The order of the channels stays.
pub(crate) fn take_bytes(graph: &mut Graph, input: &mut Input) {
    let placed = |[r, g, b]: [f32; 3]| match input.order {
        ChannelOrder::Rgb => [r, g, b],
        ChannelOrder::Bgr => [b, g, r],
    };
    let (mean, std) = (placed(input.mean), placed(input.std));
    let nodes = graph.nodes.len();
    let float = graph.fresh("input/float");
    graph.replace_reads(&input.name, &float);
    let axis = if input.layout == Layout::Nchw { 1 } else { 3 };
    let mut value = graph.emit(
        "input/pixels",
        "Cast",
        &[&input.name],
        vec![int_attribute("to", i64::from(DataType::FLOAT.0))],
    );
    let steps = [("Sub", "mean", mean, 0.0), ("Div", "std", std, 1.0)];
    for (operator, base, factors, idle) in steps {
        if factors.iter().any(|f| *f != idle) {
            let factors = Constant::f32(&channel_shape(4, axis, 3), &factors);
            let constant = graph.add_constant(&format!("input/{base}"), factors);
            value =
                graph.emit(&format!("input/less_{base}"), operator, &[&value, &constant], vec![]);
        }
    }
    // The last new node computes the value that the graph reads. The new nodes come first in the graph.
    if let Some(last) = graph.nodes.last_mut() {
        last.output = vec![float];
    }
    let new = graph.nodes.split_off(nodes);
    graph.nodes.splice(0..0, new);
    input.dtype = Dtype::U8;
    graph.inputs = vec![typed_value_info(&input.name, DataType::UINT8, &shape_of(input))];
}

/// Makes the scores the only output and returns their name.
///
/// Operators that turn scores into labels, dictionaries or indices are cut off. `chosen` may name any value
/// of the graph.
///
/// # Errors
/// [`InterfaceError`] if there are several outputs and none is chosen, or the chosen one does not exist.
pub(crate) fn output(graph: &mut Graph, chosen: Option<&str>) -> Result<String, InterfaceError> {
    let names = || graph.outputs.iter().map(quoted).collect::<Vec<_>>().join(", ");
    let name = match chosen {
        Some(name) if graph.producer_of(name).is_some() => before_labels(graph, name),
        Some(name) => {
            return Err(InterfaceError::NoOutput { name: name.to_owned(), names: names() });
        }
        None => {
            let all = graph.outputs.iter().filter_map(|o| o.name.as_deref());
            let mut scores: Vec<&str> = all.map(|name| before_labels(graph, name)).collect();
            scores.dedup();
            match scores[..] {
                [only] => only,
                _ => return Err(several_outputs(names())),
            }
        }
    }
    .to_owned();
    let given = graph.outputs.iter().find(|o| o.name.as_deref() == Some(name.as_str()));
    graph.outputs = vec![given.cloned().unwrap_or_else(|| value_info(&name, &[]))];
    Ok(name)
}

fn several_outputs(names: String) -> InterfaceError {
    let lower = names.to_lowercase();
    let detects = ["box", "detection", "mask", "anchor"].iter().any(|word| lower.contains(word));
    let advice = if detects {
        ", if one of them holds one score per class for the whole photo; a detector or segmenter has none, and \
         skincell serves classifiers"
    } else {
        ""
    };
    InterfaceError::Outputs { names, advice }
}

/// The scores from which an output of labels or indices is computed, or the output itself if it holds scores.
fn before_labels<'g>(graph: &'g Graph, name: &'g str) -> &'g str {
    const TAIL: [&str; 6] =
        ["ZipMap", "LabelEncoder", "ArgMax", "TopK", "ArrayFeatureExtractor", "SequenceConstruct"];
    let mut scores = name;
    let mut value = name;
    for _ in 0..8 {
        let Some((_, node)) = graph.producer_of(value) else { break };
        let Some(before) = input(node, 0) else { break };
        if TAIL.contains(&op(node)) {
            scores = before;
        } else if !matches!(op(node), "Cast" | "Reshape" | "Squeeze" | "Unsqueeze" | "Identity") {
            break;
        }
        value = before;
    }
    scores
}

/// The labels in a `ZipMap` or `LabelEncoder` of the graph, if there is one.
pub(crate) fn labels_inside(graph: &Graph) -> Option<Vec<String>> {
    let held = |name: &str| {
        let strings = |node| attribute(node, name).map(|a| a.strings.clone());
        graph.nodes.iter().filter_map(strings).find(|labels| !labels.is_empty())
    };
    held("classlabels_strings").or_else(|| held("values_strings"))
}

/// The error of an input that has not four axes.
fn no_photo(name: String, shape: String, rank: usize) -> InterfaceError {
    let advice = match rank {
        0 => {
            ": the file states no shape; export the model with one, such as torch.zeros(1, 3, 224, 224)"
        }
        2 => ": it takes a list of numbers, such as features or tokens of a text",
        3 => ": export the model with an axis for the batch, such as torch.zeros(1, 3, 224, 224)",
        5 => ": it takes several pictures at once, such as a video; export the model for one",
        _ => "",
    };
    InterfaceError::Shape { name, shape, advice }
}

fn quoted(value: &ValueInfoProto) -> String {
    format!("\"{}\"", value.name.as_deref().unwrap_or_default())
}

fn element_type(value: &ValueInfoProto) -> DataType {
    let tensor = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    tensor.and_then(|t| t.elem_type).unwrap_or(DataType(0))
}

/// Each dimension as text and, if it is fixed, as a number.
pub(crate) fn dimensions(value: &ValueInfoProto) -> Vec<(String, Option<usize>)> {
    let tensor = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let dims = tensor.and_then(|t| t.shape.as_ref()).map(|s| s.dim.as_slice()).unwrap_or_default();
    let one = |d: &rten_onnx::onnx::Dimension| {
        let side = d.dim_value.and_then(|v| usize::try_from(v).ok()).filter(|v| *v > 0);
        let name = d.dim_param.clone().filter(|n| !n.is_empty()).unwrap_or("?".to_owned());
        (side.map_or(name, |v| v.to_string()), side)
    };
    dims.iter().map(one).collect()
}
