//! Adds the Grad-CAM output to a graph: for every class at once, from one matrix product.
//!
//! `place` finds the target map t, `tangent` follows it forward through what keeps channels apart,
//! `reverse` comes back from the scores to where that ends (in the closed form of `closed`, or by the
//! rules of `general`). Both together give α, the gradient of each score to each channel summed over the
//! places, and `M_c = Σ_k α[c, k] · t_k`. For the target "conv" t is the last convolution's output less the
//! bias that its batch norm left in it (`bias`). The softmax's part, relu and normalisation are the
//! reader's, as the model card says.

mod assemble;
mod axes;
mod bias;
mod closed;
mod fold;
mod general;
mod linear;
mod place;
mod products;
mod refusal;
mod reverse;
mod rows;
mod rules;
mod sheet;
mod slope;
mod tangent;
mod tokens;
mod types;
mod windows;

use rten_onnx::onnx::NodeProto;
use skincell_vision::card::{Basis, Form, GradCam, Target};

use assemble::Map;
use closed::Matrix;
pub(crate) use closed::channel_shape;
use linear::Summed;
pub(crate) use place::{Tail, find};
pub(crate) use refusal::Refusal;
use reverse::{Adjoint, Shapes, between, walk};
pub(crate) use rows::pull_up;
use tokens::Tokens;

use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::fold::Shifts;
use crate::onnx::graph::{Graph, label, output, value_info};
use crate::scores::Scores;

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
            let target = Chosen { value: conv, axis: 1, target: Target::Conv, tokens: None };
            let added = attempt(graph, probe, scores, tail, &target, &source, wanted)?;
            if added.is_ok() || wanted.target.is_some() {
                return Ok(added);
            }
        }
    } else if wanted.target == Some(Target::Conv) {
        let why = "no convolution gives a map of its size".to_owned();
        return Ok(Err(Refusal { node: format!("\"{}\"", tail.pooled), why }));
    }
    let (value, axis, tokens) = (tail.pooled.clone(), tail.axis, tail.tokens);
    let target = Chosen { value, axis, target: Target::Activation, tokens };
    attempt(graph, probe, scores, tail, &target, &source, wanted)
}

/// The map to be shown.
struct Chosen {
    value: String,
    axis: usize,
    target: Target,
    tokens: Option<Tokens>,
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
    } else {
        types::widen(graph, nodes);
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
    let classes: usize = shapes.get(from).map_or(0, |s| s.iter().product());
    let shape = shapes.get(&chosen.value).cloned().unwrap_or_default();
    let map = Map::new(&shape, chosen.axis, chosen.tokens)
        .ok_or_else(|| refuse(format!("its map has shape {shape:?}, not that of an image")))?;
    let mut path: Vec<NodeProto> =
        between(graph, &chosen.value, from).iter().map(|i| graph.nodes[*i].clone()).collect();
    let mut summed = Summed::new();
    let region = match chosen.tokens {
        None => tangent::spread(graph, shapes, &path, &chosen.value, chosen.axis),
        Some(tokens) => {
            let (linear, dead) = linear::linear(graph, shapes, &path, &chosen.value, tokens);
            path.retain(|node| !dead.contains(output(node)));
            summed = linear;
            tangent::only(&chosen.value, chosen.axis)
        }
    };
    let automatic = wanted.target.is_none() && chosen.target == Target::Conv;
    // Behind a convolution of a branch, or one that channels are mixed after, the whole map is shown.
    let whole = region.tangents.contains_key(&tail.pooled)
        && shapes.get(&tail.pooled).is_some_and(|s| s.get(tail.axis) == Some(&map.channels));
    if automatic && !whole {
        return Err(refuse("it is one branch of the last map".to_owned()));
    }
    let adjoints = walk(graph, shapes, &path, &region, &summed, (from, Matrix::Identity, classes))?;
    let mut parts = Vec::new();
    let mut reached: Vec<_> = adjoints.into_iter().collect();
    reached.sort_by(|a, b| a.0.cmp(&b.0));
    for (value, adjoint) in reached {
        let Some(tangent) = region.tangents.get(&value) else { continue };
        let shape = shapes.get(&value).cloned().unwrap_or_default();
        if let (Adjoint::Full(gradient), true) = (&adjoint, chosen.tokens.is_some()) {
            parts.push(assemble::summed(graph, gradient, map.channels, map.axis));
            continue;
        }
        let spread =
            shape.iter().product::<usize>() > shape.get(tangent.axis).copied().unwrap_or(1);
        if automatic && spread {
            return Err(refuse("the head has weights for each place of its map".to_owned()));
        }
        let part = assemble::part(graph, adjoint, tangent, &shape, map.channels);
        parts.push(part.map_err(&refuse)?);
    }
    let part = assemble::joined(graph, parts).map_err(&refuse)?;
    let value = assemble::shown(graph, chosen, source, &part, &map, shape.len());
    let output = assemble::product(graph, &value, &part.matrix, &map, classes);
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
