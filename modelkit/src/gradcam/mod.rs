//! Adds the Grad-CAM output to a graph: for every class at once, from one matrix product.
//!
//! `place` finds the target map t, `tangent` follows it forward through what keeps channels apart,
//! `reverse` comes back from the scores to where that ends (in the closed form of `closed`, or by the
//! rules of `general`). Both together give α, the gradient of each score to each channel summed over the
//! places, and `M_c = Σ_k α[c, k] · t_k`. For the target "conv" t is the last convolution's output less the
//! bias that its batch norm left in it (`bias`). The softmax's part, relu and normalisation are the
//! reader's, as the model card says.

mod bias;
mod closed;
mod fold;
mod general;
mod place;
mod refusal;
mod reverse;
mod rules;
mod sheet;
mod slope;
mod tangent;

use rten_onnx::onnx::NodeProto;
use skincell_vision::card::{Basis, Form, GradCam, Target};

pub(crate) use closed::channel_shape;
use closed::{Diagonal, Matrix, name, reshape};
pub(crate) use place::{Tail, find};
pub(crate) use refusal::Refusal;
use reverse::{Adjoint, Shapes, between, walk};
use sheet::{Sheet, Val};
use tangent::Tangent;

use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::fold::Shifts;
use crate::onnx::graph::{Graph, int_attribute, ints_attribute, label, output, value_info};
use crate::scores::Scores;
use skincell_onnx::Constant;

/// What the Grad-CAM output is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Wanted {
    /// The target asked for, or none: the last convolution where that is right and cheap.
    pub(crate) target: Option<Target>,
    pub(crate) basis: Basis,
    /// Whether the last convolution's bias is its own, and not what a batch norm left, if that is known.
    pub(crate) own_bias: Option<bool>,
}

/// A Grad-CAM output that was added.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Added {
    pub(crate) card: GradCam,
    /// The node that gives the map shown, for people.
    pub(crate) conv: String,
    /// Channels of the target map.
    pub(crate) channels: usize,
    /// What the reader should know about the choice.
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
    let source = bias::source(graph, tail, shifts, wanted.own_bias);
    let conv = tail.conv.and_then(|i| graph.nodes.get(i)).map(|n| output(n).to_owned());
    if let (Some(conv), None | Some(Target::Conv)) = (conv, wanted.target) {
        let unknown = matches!(source, bias::Source::Unknown(_) | bias::Source::Computed);
        if source == bias::Source::Computed && wanted.target.is_some() {
            let why = "its bias is computed, so that what a batch norm left there cannot be taken off: say \
                       --conv-bias own, or --cam-target activation";
            return Ok(Err(Refusal { node: format!("\"{conv}\""), why: why.to_owned() }));
        }
        if wanted.target.is_some() || !unknown {
            let target = Chosen { value: conv, axis: 1, target: Target::Conv };
            let added = attempt(graph, probe, scores, tail, &target, &source, wanted)?;
            if added.is_ok() || wanted.target.is_some() {
                return Ok(added);
            }
        }
    } else if wanted.target == Some(Target::Conv) {
        let why = "no convolution gives a map of its size".to_owned();
        return Ok(Err(Refusal { node: format!("\"{}\"", tail.pooled), why }));
    }
    let target = Chosen { value: tail.pooled.clone(), axis: tail.axis, target: Target::Activation };
    attempt(graph, probe, scores, tail, &target, &source, wanted)
}

/// The map to be shown.
struct Chosen {
    value: String,
    axis: usize,
    target: Target,
}

fn attempt(
    graph: &mut Graph,
    probe: &mut Probe,
    scores: &Scores,
    tail: &Tail,
    chosen: &Chosen,
    source: &bias::Source,
    wanted: Wanted,
) -> Result<Result<Added, Refusal>, EngineError> {
    let shapes = shapes(graph, probe, &chosen.value, scores.differentiated())?;
    let nodes = graph.nodes.len();
    let result = build(graph, shapes, scores, tail, chosen, source, wanted);
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
        names.extend(node.output.iter().map(String::as_str).filter(|o| !o.is_empty()));
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
    chosen: &Chosen,
    source: &bias::Source,
    wanted: Wanted,
) -> Result<Added, Refusal> {
    let made = graph.producer_of(&chosen.value).map(|(_, node)| label(node)).unwrap_or_default();
    let refuse = |why: String| Refusal { node: made.clone(), why };
    let from = scores.differentiated();
    let classes = shapes.get(from).map_or(0, |s| s.iter().product());
    let shape = shapes.get(&chosen.value).cloned().unwrap_or_default();
    let map = Map::new(&shape, chosen.axis)
        .ok_or_else(|| refuse(format!("its map has shape {shape:?}, not that of an image")))?;
    let path: Vec<NodeProto> =
        between(graph, &chosen.value, from).iter().map(|i| graph.nodes[*i].clone()).collect();
    let region = tangent::spread(graph, shapes, &path, &chosen.value, chosen.axis);
    let automatic = wanted.target.is_none() && chosen.target == Target::Conv;
    // Behind a convolution of a branch, or one that channels are mixed after, the whole map is shown.
    let whole = region.tangents.contains_key(&tail.pooled)
        && shapes.get(&tail.pooled).is_some_and(|s| s.get(tail.axis) == Some(&map.channels));
    if automatic && !whole {
        return Err(refuse("it is one branch of the last map".to_owned()));
    }
    let none = std::collections::HashMap::new();
    let adjoints = walk(graph, shapes, &path, &region, &none, (from, Matrix::Identity))?;
    let mut parts = Vec::new();
    let mut reached: Vec<_> = adjoints.into_iter().collect();
    reached.sort_by(|a, b| a.0.cmp(&b.0));
    for (value, adjoint) in reached {
        let Some(tangent) = region.tangents.get(&value) else { continue };
        let shape = shapes.get(&value).cloned().unwrap_or_default();
        let spread =
            shape.iter().product::<usize>() > shape.get(tangent.axis).copied().unwrap_or(1);
        if automatic && spread {
            return Err(refuse("the head has weights for each place of its map".to_owned()));
        }
        let part = part(graph, adjoint, tangent, &shape, map.channels);
        parts.push(part.map_err(&refuse)?);
    }
    let part = joined(graph, parts).map_err(&refuse)?;
    let value = shown(graph, chosen, source, &part, &map, shape.len());
    let output = product(graph, &value, &part.matrix, &map, classes);
    graph.outputs.push(value_info(&output, &[1, classes, map.height, map.width]));
    let side = |s: usize| u32::try_from(s).unwrap_or(u32::MAX);
    let card = GradCam {
        output,
        width: side(map.width),
        height: side(map.height),
        target: chosen.target,
        basis: wanted.basis,
        layer: Some(layer(graph, &chosen.value)),
        of: if scores.logits.is_some() { Form::Logits } else { scores.form },
    };
    let note = note(shapes, tail, chosen, source, wanted, &map);
    Ok(Added { card, conv: made, channels: map.channels, note })
}

/// The target map, less the bias that is none of the layer's, times the factor of each channel.
fn shown(
    graph: &mut Graph,
    chosen: &Chosen,
    source: &bias::Source,
    part: &Part,
    map: &Map,
    rank: usize,
) -> String {
    let mut value = chosen.value.clone();
    let bias = (chosen.target == Target::Conv).then(|| source.bias()).flatten();
    if let Some(bias) = bias.filter(|b| b.iter().any(|v| *v != 0.0)) {
        let shape = channel_shape(rank, map.axis, bias.len());
        let bias = graph.add_constant(&name("bias"), Constant::f32(&shape, &bias));
        value = graph.emit(&name("raw"), "Sub", &[&value, &bias], vec![]);
    }
    let factor = match part.factor.clone() {
        Diagonal::Value(factor) if part.axes != (rank, map.axis) => {
            let row = channel_shape(rank, map.axis, map.channels);
            let row: Vec<i64> = row.iter().filter_map(|s| i64::try_from(*s).ok()).collect();
            Diagonal::Value(reshape(graph, "factor", &factor, &row))
        }
        factor => factor,
    };
    if let Some(factor) = factor.held(graph, rank, map.axis) {
        value = graph.emit(&name("weighted"), "Mul", &[&value, &factor], vec![]);
    }
    value
}

/// The name by which people know what gives a value: its node's, or else the value's own.
fn layer(graph: &Graph, value: &str) -> String {
    let node = graph.producer_of(value).and_then(|(_, node)| node.name.clone());
    node.filter(|name| !name.is_empty()).unwrap_or_else(|| value.to_owned())
}

fn note(
    shapes: &Shapes,
    tail: &Tail,
    chosen: &Chosen,
    source: &bias::Source,
    wanted: Wanted,
    map: &Map,
) -> Option<String> {
    let all = shapes.get(&tail.pooled).and_then(|s| s.get(tail.axis)).copied().unwrap_or(0);
    match (chosen.target, source) {
        (Target::Conv, _) if all > map.channels => Some(format!(
            "Grad-CAM shows a branch: {} of the {all} channels that are pooled; --cam-target \
             activation shows them all",
            map.channels
        )),
        (Target::Conv, bias::Source::Unknown(_)) => Some(
            "the bias of the last convolution was taken for what a folded batch norm left there; if \
             the layer had a bias of its own, prepare again with --conv-bias own"
                .to_owned(),
        ),
        (Target::Activation, bias::Source::Unknown(_)) if wanted.target.is_none() => Some(
            "Grad-CAM shows the activation after the last convolution, because the file does not say \
             whether that one's bias is its own; --cam-target conv with --conv-bias own or folded shows \
             the convolution"
                .to_owned(),
        ),
        _ => None,
    }
}

/// A share of α: `matrix[c, k] · factor[k]`.
struct Part {
    matrix: Matrix,
    factor: Diagonal,
    /// Number of axes of the factor, and which of them is the channels'; the others have length 1.
    axes: (usize, usize),
}

/// What comes back at the end of the region, times what the target does there, summed over places.
fn part(
    graph: &mut Graph,
    adjoint: Adjoint,
    tangent: &Tangent,
    shape: &[usize],
    channels: usize,
) -> Result<Part, String> {
    let (axis, from, rank) = (tangent.axis, tangent.from, shape.len());
    let all = shape.get(axis).copied().unwrap_or(1);
    let places = shape.iter().product::<usize>() / all.max(1);
    let mut own = shape.to_vec();
    own[axis] = channels;
    match adjoint {
        Adjoint::Closed(closed) if closed.axis == axis => {
            let cut = all != channels;
            let matrix = if cut {
                closed.matrix.columns(from, from + channels, graph)
            } else {
                Some(closed.matrix)
            };
            let matrix = matrix.ok_or("its channels are classes, and not all of them are shown")?;
            let diagonal = match closed.diagonal {
                Diagonal::Channels(list) if cut && list.len() > 1 => {
                    Diagonal::Channels(list.get(from..from + channels).unwrap_or_default().to_vec())
                }
                Diagonal::Value(value) if cut => {
                    Diagonal::Value(closed::slice_value(graph, &value, axis, from, from + channels))
                }
                other => other,
            };
            let factor = diagonal.times(&tangent.factor, graph, rank, axis);
            let factor = tangent::summed(graph, &factor, &own, axis, places);
            Ok(Part { matrix, factor, axes: (rank, axis) })
        }
        Adjoint::Closed(_) => Err("its channels lie along another axis".to_owned()),
        Adjoint::Full(gradient) => {
            let sheet = &mut Sheet { graph };
            let gradient = sheet.slice(&gradient, axis + 1, (from, 1, channels));
            let gradient = match &tangent.factor {
                Diagonal::One => gradient,
                factor => {
                    let dims = match factor {
                        Diagonal::Channels(list) => channel_shape(rank, axis, list.len()),
                        _ => own.clone(),
                    };
                    let name = factor.held(sheet.graph, rank, axis).unwrap_or_default();
                    sheet.binary("Mul", &gradient, &Val { name, dims })?
                }
            };
            let others: Vec<usize> = (0..rank).filter(|a| *a != axis).collect();
            let alike: usize =
                others.iter().filter(|a| gradient.side(**a + 1) == 1).map(|a| own[*a]).product();
            let axes: Vec<usize> = others.iter().map(|a| a + 1).collect();
            let sum = sheet.sum(&gradient, &axes);
            let sum = sheet.times(&sum, alike as f32);
            let seeds = sum.side(0);
            let mut dims = vec![seeds];
            dims.extend(channel_shape(rank, axis, channels));
            let sum = sheet.expand(&sum, &dims);
            let flat = sheet.reshape(&sum, &[seeds, channels]);
            let matrix = Matrix::Held { name: flat.name, transposed: false };
            Ok(Part { matrix, factor: Diagonal::One, axes: (rank, axis) })
        }
    }
}

/// The sum of all shares.
fn joined(graph: &mut Graph, parts: Vec<Part>) -> Result<Part, String> {
    let mut parts = parts.into_iter();
    let mut sum = parts.next().ok_or("it does not reach the scores")?;
    for other in parts {
        if sum.matrix == other.matrix {
            let rank = 2;
            if let (Diagonal::One | Diagonal::Channels(_), Diagonal::One | Diagonal::Channels(_)) =
                (&sum.factor, &other.factor)
            {
                sum.factor = sum.factor.plus(&other.factor, graph, rank, 1);
                continue;
            }
        }
        let scaled = sum.matrix.scaled(&sum.factor, graph);
        let more = other.matrix.scaled(&other.factor, graph);
        let both = scaled.zip(more).and_then(|(a, b)| a.plus(&b, graph));
        let matrix = both.ok_or("two ways lead from it to each class")?;
        sum = Part { matrix, factor: Diagonal::One, axes: sum.axes };
    }
    Ok(sum)
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
    let shape = graph.add_constant(&name("shape"), Constant::i64_list(&shape));
    graph.emit("cam", "Reshape", &[&maps, &shape], vec![])
}
