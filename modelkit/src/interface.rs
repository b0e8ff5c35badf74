//! What a graph takes and gives: its photo input and its score output, made definite.
//!
//! Symbolic batch sizes become 1, the layout is read off the dimensions, and with u8 input the
//! normalisation moves into the graph.

use std::collections::HashSet;

use rten_onnx::onnx::{DataType, ValueInfoProto};
use skincell_vision::card::{Dtype, Input, Layout, MAX_INPUT_SIDE};
use thiserror::Error;

use crate::gradcam::{channel_shape, typed_value_info, value_info};
use crate::graph::{Graph, int_attribute};
use crate::tensor::Tensor;

/// Why a graph's input or output does not fit a classifier of photos.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InterfaceError {
    /// Not one input.
    #[error("the model takes {count} inputs ({names}), and a classifier of photos takes one")]
    Inputs {
        /// How many.
        count: usize,
        /// Their names.
        names: String,
    },
    /// The input is no photo.
    #[error(
        "input \"{name}\" has shape [{shape}]; a photo is [1, 3, height, width] or \
         [1, height, width, 3]"
    )]
    Shape {
        /// The input.
        name: String,
        /// Its dimensions, names where they are symbolic.
        shape: String,
    },
    /// Height or width is left open.
    #[error("input \"{name}\" leaves its size open ([{shape}]); say it with --size WIDTHxHEIGHT")]
    Size {
        /// The input.
        name: String,
        /// Its dimensions, names where they are symbolic.
        shape: String,
    },
    /// A size that contradicts the model.
    #[error("--size {asked} was given, and the model is made for {held}")]
    OtherSize {
        /// The size asked for.
        asked: String,
        /// The model's.
        held: String,
    },
    /// Sides outside what is served.
    #[error("input \"{name}\" is {width}x{height}; 1 to {MAX_INPUT_SIDE} pixels a side are served")]
    TooLarge {
        /// The input.
        name: String,
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
    },
    /// Not float32.
    #[error("input \"{name}\" takes {dtype} elements; export the model with float32 input")]
    Type {
        /// The input.
        name: String,
        /// Its element type.
        dtype: String,
    },
    /// Several outputs, none chosen.
    #[error("the model gives {names}; say which are the scores with --scores NAME")]
    Outputs {
        /// The outputs' names.
        names: String,
    },
    /// A chosen output that is not there.
    #[error("the model has no output \"{name}\"; it gives {names}")]
    NoOutput {
        /// The name asked for.
        name: String,
        /// The outputs' names.
        names: String,
    },
}

/// How the photo is to be given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Photo {
    pub(crate) dtype: Dtype,
    pub(crate) mean: [f32; 3],
    pub(crate) std: [f32; 3],
    /// Width and height, where the model leaves them open.
    pub(crate) size: Option<(u32, u32)>,
}

/// Makes the input definite and describes it.
///
/// # Errors
/// [`InterfaceError`] when it is not one float32 photo.
pub(crate) fn input(graph: &mut Graph, photo: &Photo) -> Result<Input, InterfaceError> {
    drop_unread(graph);
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
    let (layout, height, width) = match sides[..] {
        [_, Some(3), height, width] => (Layout::Nchw, height, width),
        [_, height, width, Some(3)] => (Layout::Nhwc, height, width),
        _ => return Err(InterfaceError::Shape { name, shape }),
    };
    let asked = photo.size.map(|(w, h)| (w as usize, h as usize));
    let (width, height) = match (width, height, asked) {
        (Some(w), Some(h), Some(asked)) if asked != (w, h) => {
            let (asked, held) = (format!("{}x{}", asked.0, asked.1), format!("{w}x{h}"));
            return Err(InterfaceError::OtherSize { asked, held });
        }
        (Some(w), Some(h), _) => (w, h),
        (_, _, Some(asked)) => asked,
        _ => return Err(InterfaceError::Size { name, shape }),
    };
    let most = MAX_INPUT_SIDE as usize;
    if !(1..=most).contains(&width) || !(1..=most).contains(&height) {
        return Err(InterfaceError::TooLarge { name, width, height });
    }
    let input = Input {
        name: name.clone(),
        layout,
        dtype: Dtype::F32,
        width: width as u32,
        height: height as u32,
        mean: photo.mean,
        std: photo.std,
    };
    graph.inputs = vec![value_info(&name, &shape_of(&input))];
    Ok(input)
}

/// Drops inputs that no node reads, where another is left: Keras exports the constants of a
/// Normalization layer among them.
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

/// Moves the normalisation into the graph: u8 pixels in, `(pixel − mean) / std` as float32 to
/// whatever read the input before.
pub(crate) fn take_bytes(graph: &mut Graph, input: &mut Input) {
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
    let steps = [("Sub", "mean", input.mean, 0.0), ("Div", "std", input.std, 1.0)];
    for (operator, base, factors, idle) in steps {
        if factors.iter().any(|f| *f != idle) {
            let factors = Tensor::f32(&channel_shape(4, axis, 3), &factors);
            let constant = graph.add_constant(&format!("input/{base}"), factors);
            value =
                graph.emit(&format!("input/less_{base}"), operator, &[&value, &constant], vec![]);
        }
    }
    // The last of the new nodes gives what the graph reads; all of them run first.
    if let Some(last) = graph.nodes.last_mut() {
        last.output = vec![float];
    }
    let new = graph.nodes.split_off(nodes);
    graph.nodes.splice(0..0, new);
    input.dtype = Dtype::U8;
    graph.inputs = vec![typed_value_info(&input.name, DataType::UINT8, &shape_of(input))];
}

/// Keeps the score output alone and returns its name.
///
/// # Errors
/// [`InterfaceError`] when there are several and none is chosen, or the chosen one is not there.
pub(crate) fn output(graph: &mut Graph, chosen: Option<&str>) -> Result<String, InterfaceError> {
    let names = graph.outputs.iter().map(quoted).collect::<Vec<_>>().join(", ");
    let kept = match (chosen, &graph.outputs[..]) {
        (None, [only]) => only.clone(),
        (None, _) => return Err(InterfaceError::Outputs { names }),
        (Some(name), outputs) => {
            let found = outputs.iter().find(|o| o.name.as_deref() == Some(name));
            let name = name.to_owned();
            found.cloned().ok_or(InterfaceError::NoOutput { name, names })?
        }
    };
    let name = kept.name.clone().unwrap_or_default();
    graph.outputs = vec![kept];
    Ok(name)
}

fn quoted(value: &ValueInfoProto) -> String {
    format!("\"{}\"", value.name.as_deref().unwrap_or_default())
}

fn element_type(value: &ValueInfoProto) -> DataType {
    let tensor = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    tensor.and_then(|t| t.elem_type).unwrap_or(DataType(0))
}

/// Each dimension as text and, where it is definite, as a number.
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
