//! Adds the Grad-CAM output to a graph: the maps of all classes, from one matrix product.
//!
//! For a target map `t` with channels k the map of class c is `M_c = Σ_k α[c, k] · t_k`, where `α[c, k]` is
//! the gradient of score c with respect to channel k, summed over all places (pixels) of the map.
//!
//! - `place` finds the target map, or `layer` the one that the user names; in a transformer the tokens are
//!   its places (`tokens`).
//! - `tangent` propagates derivatives forward from the target through operators that keep channels apart.
//! - `reverse` propagates gradients backward from the scores to where `tangent` ends, in closed form
//!   (`closed`) or by general rules (`general`). `assemble` joins both to α.
//! - `bias` decides what to subtract from the last convolution's output if that is the target.
//! - `dynamic` takes dynamic quantization out of the graph while that is done.
//! - `price` estimates the cost. If it is too high, only the likeliest classes get maps (`seeds`), unless
//!   cellnet, which does not support what chooses these, makes up for it.
//! - `upright` checks that the map lies over the photo, by the operators or by a trial (`response`).
//! - `trial` computes the maps once, and takes them out again if that is impossible.
//!
//! The derivative of the softmax, relu and normalisation are left to the reader of the output
//! (`skincell_vision::gradcam`).

mod assemble;
mod axes;
mod bias;
mod closed;
mod derivative;
mod dynamic;
mod fold;
mod general;
mod layer;
mod linear;
mod place;
mod price;
mod products;
mod refusal;
mod response;
mod reverse;
mod rows;
mod rules;
mod seeds;
mod sheet;
mod tangent;
mod tokens;
mod trial;
mod types;
mod upright;
mod windows;

use std::collections::BTreeMap;

use rten_onnx::onnx::NodeProto;
use skincell_onnx::ModelFile;
use skincell_vision::card::{Basis, Form, GradCam, Target};

use assemble::Map;
pub(crate) use axes::ancestors;
pub(crate) use closed::channel_shape;
pub(crate) use dynamic::as_values;
pub(crate) use layer::{last_maps, named};
use linear::Summed;
pub(crate) use place::{FeatureMap, find, find_all};
pub use price::Price;
use price::price;
pub(crate) use refusal::Refusal;
pub(crate) use response::response;
use reverse::{Shapes, Vjp, between, walk};
pub(crate) use rows::pull_up;
use seeds::Seeds;
use tokens::Tokens;
pub(crate) use trial::{computable, without_maps};
pub(crate) use upright::{Shown, upright};

use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::fold::Shifts;
use crate::onnx::graph::{Graph, label, output, value_info};
use crate::onnx::settled;
use crate::scores::Scores;

/// The user's settings of the Grad-CAM output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CamOptions {
    /// The requested target; `None` for the last convolution if that is correct and cheap, otherwise the
    /// activation.
    pub(crate) target: Option<Target>,
    pub(crate) basis: Basis,
    /// Whether the last convolution's bias belongs to the layer itself and not to a folded batch norm, if
    /// known.
    pub(crate) own_bias: Option<bool>,
    /// Whether only the last convolution may be shown, because what follows it lies elsewhere.
    pub(crate) only_conv: bool,
}

/// A Grad-CAM output that was added.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Added {
    pub(crate) card: GradCam,
    /// Label of the node that computes the shown map, for users.
    pub(crate) shown_layer: String,
    /// Channels of the target map.
    pub(crate) channels: usize,
    /// Notes for users about the choice.
    pub(crate) notes: Vec<String>,
    pub(crate) price: Price,
}

/// Adds the output for the last map, `last_map`, or for the map that the user named. On a refusal the graph
/// is unchanged.
///
/// # Errors
/// The inner [`Refusal`] names the operator that prevents it; the outer error is the engine's.
pub(crate) fn add(
    graph: &mut Graph,
    probe: &mut Probe,
    scores: &Scores,
    (last_map, named): (&FeatureMap, Option<&FeatureMap>),
    shifts: &Shifts,
    wanted: CamOptions,
) -> Result<Result<Added, Refusal>, EngineError> {
    if let Some(named) = named {
        let source = bias::source(graph, named, shifts, wanted.own_bias);
        let target = if named.conv.is_some() { Target::Conv } else { Target::Activation };
        let (value, axis, tokens) = (named.pooled.clone(), named.axis, named.tokens);
        let chosen = Chosen { value, axis, target, tokens, likeliest: false };
        let wanted = CamOptions { target: Some(target), ..wanted };
        return attempt(graph, probe, scores, last_map, &chosen, &source, wanted);
    }
    let source = bias::source(graph, last_map, shifts, wanted.own_bias);
    let conv = last_map.conv.and_then(|i| graph.nodes.get(i)).map(|n| output(n).to_owned());
    if let (Some(conv), None | Some(Target::Conv)) = (conv, wanted.target) {
        let unknown = matches!(source, bias::Source::Unknown(_) | bias::Source::Computed);
        if source == bias::Source::Computed && wanted.target.is_some() {
            let why = "its bias is computed, so that a folded batch norm cannot be subtracted: give \
                       --conv-bias own or --cam-target activation";
            return Ok(Err(Refusal { node: format!("\"{conv}\""), why: why.into() }));
        }
        if wanted.target.is_some() || !unknown {
            let target = Chosen {
                value: conv,
                axis: 1,
                target: Target::Conv,
                tokens: None,
                likeliest: false,
            };
            let added = attempt(graph, probe, scores, last_map, &target, &source, wanted)?;
            if added.is_ok() || wanted.target.is_some() || wanted.only_conv {
                return Ok(added);
            }
        } else if wanted.only_conv {
            let why = "it is not known whether its bias is a part of it, and the map behind it shows the \
                       photo in another place: give --conv-bias";
            return Ok(Err(Refusal { node: format!("\"{conv}\""), why: why.into() }));
        }
    } else if wanted.target == Some(Target::Conv) {
        let why = "no convolution computes a map of its size".into();
        return Ok(Err(Refusal { node: format!("\"{}\"", last_map.pooled), why }));
    }
    let (value, axis, tokens) = (last_map.pooled.clone(), last_map.axis, last_map.tokens);
    let target = Chosen { value, axis, target: Target::Activation, tokens, likeliest: false };
    attempt(graph, probe, scores, last_map, &target, &source, wanted)
}

/// The map to be shown.
#[derive(Clone)]
struct Chosen {
    value: String,
    axis: usize,
    target: Target,
    tokens: Option<Tokens>,
    /// Whether only the likeliest classes get maps.
    likeliest: bool,
}

fn attempt(
    graph: &mut Graph,
    probe: &mut Probe,
    scores: &Scores,
    last_map: &FeatureMap,
    chosen: &Chosen,
    source: &bias::Source,
    wanted: CamOptions,
) -> Result<Result<Added, Refusal>, EngineError> {
    let shapes = shapes(graph, probe, &chosen.value, scores)?;
    let first = graph.nodes.len();
    let classes: usize = shapes.get(scores.differentiated()).map_or(0, |s| s.iter().product());
    let mut result = build(graph, shapes, scores, last_map, chosen, source, wanted);
    let too_much = |added: &Added| {
        let price = added.price;
        let is_worth_it = price.is_worth_cellnet() && cellnet_supports(graph);
        !price.is_small() && !is_worth_it
    };
    if classes > FEW && result.as_ref().is_ok_and(too_much) {
        undo(graph, first, scores);
        let chosen = Chosen { likeliest: true, ..chosen.clone() };
        result = build(graph, shapes, scores, last_map, &chosen, source, wanted);
    }
    if result.is_err() {
        undo(graph, first, scores);
    }
    Ok(result)
}

/// Whether cellnet can be given this graph with all that was added to it.
fn cellnet_supports(graph: &Graph) -> bool {
    let file = ModelFile {
        nodes: graph.nodes.clone(),
        constants: graph.constants.clone(),
        inputs: graph.inputs.clone(),
        outputs: graph.outputs.clone(),
        ir_version: Some(graph.ir_version),
        opsets: graph.opsets.clone(),
        metadata: BTreeMap::new(),
    };
    cellnet::pack::check(file).is_ok()
}

/// Removes the nodes from `first` on with their outputs. The logits are kept even if no other node reads
/// them, because another attempt needs them.
fn undo(graph: &mut Graph, first: usize, scores: &Scores) {
    let added: Vec<String> = graph.nodes.drain(first..).flat_map(|node| node.output).collect();
    graph.outputs.retain(|o| o.name.as_ref().is_none_or(|name| !added.contains(name)));
    graph.drop_unused_but(Some(scores.differentiated()));
}

/// Up to this number of classes all classes get maps, at any cost.
const FEW: usize = 16;

/// The shapes of all inputs and outputs of the nodes between the target and the scores.
fn shapes<'p>(
    graph: &Graph,
    probe: &'p mut Probe,
    target: &str,
    scores: &Scores,
) -> Result<&'p Shapes, EngineError> {
    let logits = scores.differentiated();
    let mut names = vec![target, logits, &scores.output];
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
    last_map: &FeatureMap,
    chosen: &Chosen,
    source: &bias::Source,
    wanted: CamOptions,
) -> Result<Added, Refusal> {
    let made = graph.producer_of(&chosen.value).map(|(_, node)| label(node)).unwrap_or_default();
    let refuse = |why: String| Refusal { node: made.clone(), why: why.into() };
    let (first, before) = (graph.nodes.len(), graph.constants.keys().cloned().collect());
    let shape = shapes.get(&chosen.value).cloned().unwrap_or_default();
    let map = Map::new(&shape, chosen.axis, chosen.tokens).ok_or_else(|| {
        refuse(match shape.len() {
            4 => "the operators do not show which axis of its map has the channels".to_owned(),
            _ => format!("its map has shape {shape:?}, which is not that of an image"),
        })
    })?;
    let classes = shapes.get(scores.differentiated()).map_or(0, |s| s.iter().product());
    let seeds = if chosen.likeliest {
        seeds::likeliest(graph, scores, classes, wanted.basis).map_err(&refuse)?
    } else {
        seeds::all(classes)
    };
    let rows = seeds.rows;
    let listed = seeds.classes.clone();
    let (part, all) = weights(graph, shapes, scores, last_map, chosen, (&map, seeds), wanted)?;
    let value = assemble::shown(graph, chosen, source, &part, &map, shape.len());
    let output = assemble::product(graph, &value, &part.matrix, &map, rows);
    graph.outputs.push(value_info(&output, &[1, rows, map.height, map.width]));
    types::widen(graph, first);
    settled::settle(graph, first);
    let side = |s: usize| u32::try_from(s).unwrap_or(u32::MAX);
    let card = GradCam {
        output,
        width: side(map.width),
        height: side(map.height),
        target: chosen.target,
        basis: wanted.basis,
        layer: Some(layer(graph, &chosen.value)),
        of: if scores.logits.is_some() { Form::Logits } else { scores.form },
        classes: listed,
    };
    let notes = note(all, chosen, source, wanted, &map).into_iter().collect();
    let price = price(graph, shapes, first, &before);
    Ok(Added { card, shown_layer: made, channels: map.channels, notes, price })
}

/// The weights α, one row for each row of the seeds and one column for each channel of the map. Also returns
/// the number of channels of the last map, if the chosen map is only a part of it.
fn weights(
    graph: &mut Graph,
    shapes: &Shapes,
    scores: &Scores,
    last_map: &FeatureMap,
    chosen: &Chosen,
    (map, seeds): (&Map, Seeds),
    wanted: CamOptions,
) -> Result<(assemble::Part, Option<usize>), Refusal> {
    let made = graph.producer_of(&chosen.value).map(|(_, node)| label(node)).unwrap_or_default();
    let refuse = |why: String| Refusal { node: made.clone(), why: why.into() };
    let from = scores.differentiated();
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
    // A convolution of one branch does not represent the whole last map, nor does one whose channels are
    // mixed later; then the last map itself is shown.
    let whole = region.tangents.contains_key(&last_map.pooled)
        && shapes
            .get(&last_map.pooled)
            .is_some_and(|s| s.get(last_map.axis) == Some(&map.channels));
    if automatic && !whole {
        return Err(refuse("it is only one branch of the last map".to_owned()));
    }
    let start = (from, seeds.matrix, seeds.rows);
    let vjps = walk(graph, shapes, &path, &region, &summed, start)?;
    let mut parts = Vec::new();
    let mut reached: Vec<_> = vjps.into_iter().collect();
    reached.sort_by(|a, b| a.0.cmp(&b.0));
    for (value, vjp) in reached {
        let Some(tangent) = region.tangents.get(&value) else { continue };
        let shape = shapes.get(&value).cloned().unwrap_or_default();
        if let (Vjp::Full(gradient), true) = (&vjp, chosen.tokens.is_some()) {
            parts.push(assemble::summed(graph, gradient, map.channels, map.axis));
            continue;
        }
        let spread =
            shape.iter().product::<usize>() > shape.get(tangent.axis).copied().unwrap_or(1);
        if automatic && spread {
            return Err(refuse(
                "the head has separate weights for each pixel of its map".to_owned(),
            ));
        }
        let part = assemble::part(graph, vjp, tangent, &shape, map.channels);
        parts.push(part.map_err(&refuse)?);
    }
    let all = shapes.get(&last_map.pooled).and_then(|s| s.get(last_map.axis)).copied();
    let share =
        all.filter(|all| region.tangents.contains_key(&last_map.pooled) && *all > map.channels);
    Ok((assemble::joined(graph, parts).map_err(&refuse)?, share))
}

/// The name of the node that computes a value, or the value's own name if the node has none.
fn layer(graph: &Graph, value: &str) -> String {
    let node = graph.producer_of(value).and_then(|(_, node)| node.name.clone());
    node.filter(|name| !name.is_empty()).unwrap_or_else(|| value.to_owned())
}

fn note(
    all: Option<usize>,
    chosen: &Chosen,
    source: &bias::Source,
    wanted: CamOptions,
    map: &Map,
) -> Option<String> {
    if let Some(all) = all {
        return Some(format!(
            "Grad-CAM shows one branch: {} of the {all} channels that are pooled; --cam-target activation \
             shows all of them",
            map.channels
        ));
    }
    match (chosen.target, source) {
        (Target::Conv, bias::Source::Unknown(_)) => Some(
            "the bias of the last convolution was assumed to come from a folded batch norm; if the layer \
             had a bias of its own, prepare again with --conv-bias own"
                .to_owned(),
        ),
        (Target::Activation, bias::Source::Unknown(_)) if wanted.target.is_none() => Some(
            "Grad-CAM shows the activation after the last convolution, because the file does not show \
             whether the convolution's bias comes from a folded batch norm; --cam-target conv with \
             --conv-bias own or folded shows the convolution"
                .to_owned(),
        ),
        _ => None,
    }
}
