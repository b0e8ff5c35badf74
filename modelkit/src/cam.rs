//! Adds the Grad-CAM output to a graph: for every class at once, from one matrix product.
//!
//! With t the target map `[1, K, h, w]`, G the matrix and D the diagonal of its adjoint (module
//! `adjoint`), `M_c = Σ_k G[c, k] · mean_hw(D_k) · t_k`. For the target "conv" t is the last
//! convolution's output less the bias that its batch norm left in it. The softmax's part, relu and
//! normalisation are the reader's, as the model card says.
//!
//! Emitted, beside the derivatives of `slope`: `Sub` (bias), `GlobalAveragePool` or `ReduceMean`,
//! `Mul`, `Reshape` to `[K, h·w]` (or `[h·w, K]`), one `Gemm` that reads the dense layer's own
//! weights in either orientation, `Reshape` to `[1, classes, h, w]`.

use rten_onnx::onnx::{
    DataType, Dimension, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};
use skincell_vision::card::{Basis, GradCam, Target};

use crate::adjoint::{Adjoint, Diagonal, Matrix, channel_shape, mean_of_map, name, reshape};
use crate::backward::{Refusal, Shapes, between, walk};
use crate::engine::{EngineError, Probe};
use crate::fold::Shifts;
use crate::graph::{Graph, input, int_attribute, ints_attribute, label, op, output};
use crate::scores::Scores;
use crate::tail::Tail;
use crate::tensor::Tensor;

/// What the Grad-CAM output is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) target: Target,
    pub(crate) basis: Basis,
    /// Whether the last convolution's bias is its own, and not what a batch norm left.
    pub(crate) own_bias: bool,
}

/// A Grad-CAM output that was added.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Added {
    pub(crate) card: GradCam,
    /// The last convolution, for people.
    pub(crate) conv: String,
    /// Channels of the target map.
    pub(crate) channels: usize,
    /// Where the bias came from, when that is a guess.
    pub(crate) note: Option<String>,
}

/// Adds the output; on a refusal the graph is as it was.
///
/// # Errors
/// The inner [`Refusal`] names the operator in the way; the outer error is the engine's.
pub(crate) fn add(
    graph: &mut Graph,
    probe: &mut Probe,
    scores: &Scores,
    tail: &Tail,
    shifts: &Shifts,
    wanted: Wanted,
) -> Result<Result<Added, Refusal>, EngineError> {
    let target = match (wanted.target, graph.nodes.get(tail.conv)) {
        (Target::Conv, Some(conv)) => output(conv).to_owned(),
        _ => tail.pooled.clone(),
    };
    let shapes = shapes(graph, probe, &target, scores.differentiated())?;
    let nodes = graph.nodes.len();
    let result = build(graph, shapes, scores, tail, shifts, wanted, &target);
    if result.is_err() {
        graph.nodes.truncate(nodes);
        graph.drop_unused();
    }
    Ok(result)
}

/// Shapes of everything the nodes between two values give and take.
fn shapes<'p>(
    graph: &Graph,
    probe: &'p mut Probe,
    target: &str,
    logits: &str,
) -> Result<&'p Shapes, EngineError> {
    let mut names = vec![target, logits];
    for node in between(graph, target, logits).into_iter().filter_map(|i| graph.nodes.get(i)) {
        names.push(output(node));
        let taken = node.input.iter().map(String::as_str);
        names.extend(taken.filter(|i| !i.is_empty() && !graph.constants.contains_key(*i)));
    }
    probe.learn(&names)
}

fn build(
    graph: &mut Graph,
    shapes: &Shapes,
    scores: &Scores,
    tail: &Tail,
    shifts: &Shifts,
    wanted: Wanted,
    target: &str,
) -> Result<Added, Refusal> {
    let conv = graph.nodes.get(tail.conv).cloned().unwrap_or_default();
    let refuse = |why: String| Refusal { node: label(&conv), why };
    let classes = shapes.get(scores.differentiated()).map_or(0, |s| s.iter().product());
    // Before the walk, whose own nodes would look like readers of the convolution.
    let (bias, note) = match wanted.target {
        Target::Conv => bias_of(graph, tail, shifts, wanted.own_bias),
        Target::Activation => (None, None),
    };
    let adjoint = walk(graph, shapes, target, scores.differentiated())?;
    let shape = shapes.get(target).cloned().unwrap_or_default();
    let map = Map::new(&shape, adjoint.axis)
        .ok_or_else(|| refuse(format!("its map has shape {shape:?}, not that of an image")))?;
    let mut value = target.to_owned();
    if let Some(bias) = bias.filter(|b| b.iter().any(|v| *v != 0.0)) {
        let shape = channel_shape(shape.len(), map.axis, bias.len());
        let bias = graph.add_constant(&name("bias"), Tensor::f32(&shape, &bias));
        value = graph.emit(&name("raw"), "Sub", &[&value, &bias], vec![]);
    }
    let value = weigh(graph, &value, &adjoint, shape.len());
    let output = product(graph, &value, &adjoint.matrix, &map, classes);
    graph.outputs.push(value_info(&output, &[1, classes, map.height, map.width]));
    let side = |s: usize| u32::try_from(s).unwrap_or(u32::MAX);
    let card = GradCam {
        output,
        width: side(map.width),
        height: side(map.height),
        target: wanted.target,
        basis: wanted.basis,
    };
    Ok(Added { card, conv: label(&conv), channels: map.channels, note })
}

/// The sides of a map of one photo.
struct Map {
    axis: usize,
    channels: usize,
    height: usize,
    width: usize,
}

impl Map {
    fn new(shape: &[usize], axis: usize) -> Option<Self> {
        let (channels, height, width) = match (shape, axis) {
            (&[1, channels, height, width], 1) => (channels, height, width),
            (&[1, height, width, channels], 3) => (channels, height, width),
            _ => return None,
        };
        Some(Self { axis, channels, height, width })
    }
}

/// The bias that is no part of the raw convolution, and a line on where that was guessed.
fn bias_of(
    graph: &Graph,
    tail: &Tail,
    shifts: &Shifts,
    own_bias: bool,
) -> (Option<Vec<f32>>, Option<String>) {
    let Some(conv) = graph.nodes.get(tail.conv) else { return (None, None) };
    if let Some(shift) = shifts.get(output(conv)) {
        return (Some(shift.clone()), None);
    }
    let bias = input(conv, 2).and_then(|b| graph.constants.get(b)).and_then(Tensor::to_f32);
    // A batch norm that an exporter left unfolded; a scalar factor belongs to an activation.
    let channels = input(conv, 1).and_then(|w| graph.constants.get(w)).map(|w| w.dims.first());
    let per_channel = |name: &String| {
        graph.constants.get(name).is_some_and(|t| t.len() > 1 && Some(Some(&t.len())) == channels)
    };
    let consumers = graph.consumers_of(output(conv));
    let normed = consumers.iter().filter_map(|i| graph.nodes.get(*i)).any(|n| {
        op(n) == "BatchNormalization" || (op(n) == "Mul" && n.input.iter().any(per_channel))
    });
    match bias {
        Some(bias) if !own_bias && !normed => {
            let note = format!(
                "the bias of {} was taken for what a folded batch norm left there; if the layer had \
                 a bias of its own, prepare again with --conv-bias own",
                label(conv)
            );
            (Some(bias), Some(note))
        }
        _ => (None, None),
    }
}

/// `t · mean_hw(D)`.
fn weigh(graph: &mut Graph, value: &str, adjoint: &Adjoint, rank: usize) -> String {
    let factor = match &adjoint.diagonal {
        Diagonal::Value(slope) => Some(mean_of_map(graph, slope, rank, adjoint.axis)),
        other => other.held(graph, rank, adjoint.axis),
    };
    match factor {
        Some(factor) => graph.emit(&name("weighted"), "Mul", &[value, &factor], vec![]),
        None => value.to_owned(),
    }
}

/// `Σ_k G[c, k] · value_k` as `[1, classes, h, w]`.
fn product(graph: &mut Graph, value: &str, matrix: &Matrix, map: &Map, classes: usize) -> String {
    let int = |side: usize| i64::try_from(side).unwrap_or(i64::MAX);
    let last = map.axis == 3;
    let maps = match matrix {
        Matrix::Identity if last => {
            let perm = vec![ints_attribute("perm", &[0, 3, 1, 2])];
            graph.emit(&name("maps"), "Transpose", &[value], perm)
        }
        Matrix::Identity => value.to_owned(),
        Matrix::Held { name: held, transposed } => {
            let places = int(map.height * map.width);
            let channels = int(map.channels);
            let shape = if last { [places, channels] } else { [channels, places] };
            let flat = reshape(graph, "flat", value, &shape);
            let flips = vec![
                int_attribute("transA", i64::from(*transposed)),
                int_attribute("transB", i64::from(last)),
            ];
            graph.emit(&name("maps"), "Gemm", &[held, &flat], flips)
        }
    };
    let shape = [1, int(classes), int(map.height), int(map.width)];
    let shape = graph.add_constant(&name("shape"), Tensor::i64_list(&shape));
    graph.emit("cam", "Reshape", &[&maps, &shape], vec![])
}

/// Describes a float32 value for the graph's inputs or outputs.
pub(crate) fn value_info(name: &str, shape: &[usize]) -> ValueInfoProto {
    typed_value_info(name, DataType::FLOAT, shape)
}

/// Describes a value of any element type.
pub(crate) fn typed_value_info(name: &str, dtype: DataType, shape: &[usize]) -> ValueInfoProto {
    let dim = |side: &usize| Dimension { dim_value: i64::try_from(*side).ok(), dim_param: None };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(TypeProtoTensor {
                elem_type: Some(dtype),
                shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
            }),
            sequence: None,
        }),
    }
}
