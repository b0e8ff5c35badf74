//! Finds the map that a user names: by a node, by a value, or by a layer of the framework.

use std::collections::HashSet;

use rten_onnx::onnx::NodeProto;

use super::axes::flows;
use super::place::FeatureMap;
use super::refusal::{Reason, Refusal};
use super::tokens::{Tokens, Tracer};
use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::fold::Shifts;
use crate::onnx::graph::{Graph, op, output};

/// Finds the map called `name`.
///
/// # Errors
/// The inner [`Refusal`] proposes the names of the last maps; the outer error is the engine's.
pub(crate) fn named(
    graph: &Graph,
    probe: &mut Probe,
    shifts: &Shifts,
    name: &str,
) -> Result<Result<FeatureMap, Refusal>, EngineError> {
    let repeated = graph.layers.calls_again(name);
    let recorded = graph.layers.outputs.get(name).filter(|_| !repeated);
    let node_or_value = recorded.map_or(name, String::as_str);
    let shapes = probe.learn_made(&graph.nodes)?;
    let tracer = Tracer { graph, shapes };
    let map = |index: usize| {
        let node = graph.nodes.get(index)?;
        let (axis, tokens) = shape_of_map(&tracer, output(node))?;
        let normed = is_normed(node, shifts, node_or_value, recorded.is_some());
        let conv = (op(node) == "Conv" && !normed).then_some(index);
        Some(FeatureMap { pooled: output(node).to_owned(), axis, conv, tokens })
    };
    let all = || (0..graph.nodes.len()).rev();
    let label = |index: usize| graph.nodes[index].name.as_deref().unwrap_or_default();
    let exact =
        |index: &usize| [label(*index), output(&graph.nodes[*index])].contains(&node_or_value);
    let refuse = |why: Reason| Ok(Err(Refusal { node: format!("\"{name}\""), why }));
    let propose = |text: &str, names: Vec<&str>| {
        let names = names.into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect();
        refuse(Reason::Proposing { text: text.to_owned(), names })
    };
    if let Some(index) = all().find(exact) {
        let why = || refuse("does not compute a map of pixels and channels".into());
        return map(index).map_or_else(why, |last_map| Ok(Ok(last_map)));
    }
    let maps: Vec<(usize, FeatureMap)> = all().filter_map(|i| Some((i, map(i)?))).collect();
    let places = places(maps.iter().map(|(i, _)| label(*i)), name, graph.layers.exact);
    if repeated {
        let inside = |node: &&str| place_of(node, name, graph.layers.exact).is_some();
        let (nodes, others): (Vec<&str>, Vec<&str>) =
            maps.iter().map(|(i, _)| label(*i)).partition(inside);
        let nodes = if nodes.is_empty() { others } else { nodes };
        return propose("the model calls this layer more than once; name the node instead", nodes);
    }
    match &places[..] {
        [place] if place.same => Ok(Ok(maps[place.last].1.clone())),
        [] => propose(
            "no layer or node of this name computes a map; the last ones that can be shown are",
            maps.iter().map(|(i, _)| label(*i)).collect(),
        ),
        _ => {
            let nodes = places.iter().map(|place| label(maps[place.last].0)).collect();
            let why = if places.iter().any(|place| place.same) {
                "the name fits several layers"
            } else {
                "no layer has exactly this name, and exporters number layers anew"
            };
            propose(&format!("{why}; name one of these nodes"), nodes)
        }
    }
}

/// The names of the maps that no other map is computed from.
pub(crate) fn last_maps(graph: &Graph, probe: &mut Probe) -> Result<Vec<String>, EngineError> {
    let shapes = probe.learn_made(&graph.nodes)?;
    let tracer = Tracer { graph, shapes };
    let (mut before, mut found) = (HashSet::new(), Vec::new());
    for node in graph.nodes.iter().rev() {
        let earlier = node.output.iter().any(|value| before.contains(value.as_str()));
        let is_map = shape_of_map(&tracer, output(node)).is_some();
        if is_map && !earlier {
            found.extend(node.name.clone().filter(|name| !name.is_empty()));
        }
        if is_map || earlier {
            before.extend(flows(node));
        }
    }
    found.reverse();
    Ok(found)
}

/// The axis of the channels of a value that is a map, and its tokens if it is a sequence.
fn shape_of_map(tracer: &Tracer, value: &str) -> Option<(usize, Option<Tokens>)> {
    let shape = tracer.shapes.get(value)?;
    let (axis, tokens) = tracer.channels(value)?;
    let places = shape.iter().product::<usize>() / shape.get(axis)?;
    let several = places > 1 && (tokens.is_some() || shape.first() == Some(&1));
    let fits = several && (tokens.is_some() || (shape.len() == 4 && tracer.is_spatial(value)));
    fits.then_some((axis, tokens))
}

/// Whether a convolution's output has passed a batch norm that was folded into it, and that norm is named and
/// not the convolution. An exporter that recorded `name` names convolutions by their nodes.
fn is_normed(conv: &NodeProto, shifts: &Shifts, name: &str, recorded: bool) -> bool {
    let output = output(conv);
    // tf2onnx gives the convolution the name of an operator of Keras's batch norm.
    let by_keras = conv.name.as_deref().is_some_and(|node| node.contains("/batchnorm/"));
    by_keras || (output == name && (recorded || shifts.contains_key(output)))
}

/// A layer of the graph whose name fits.
struct Place {
    /// Path of the layer.
    path: String,
    /// Whether its name is the wanted one, and not only similar to it.
    same: bool,
    /// Index of the first of its nodes.
    last: usize,
}

/// The layers called `layer` that have one of `nodes`, and those of similar names unless names are `exact`.
/// The layers of the same name come first.
fn places<'n>(nodes: impl Iterator<Item = &'n str>, layer: &str, exact: bool) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for (last, node) in nodes.enumerate() {
        let Some((path, same)) = place_of(node, layer, exact) else { continue };
        if !places.iter().any(|place| place.path == path) {
            places.push(Place { path, same, last });
        }
    }
    places.sort_by_key(|place| !place.same);
    places
}

/// The path of the layer called `layer` that a node belongs to, and whether its name is the same:
/// `/blocks/blocks.11/norm1/Mul` belongs to PyTorch's `blocks.11.norm1`, and `model/block5_conv3/Relu` to
/// Keras's `block5_conv3`. Unless names are `exact`, a similar name fits too.
fn place_of(node: &str, layer: &str, exact: bool) -> Option<(String, bool)> {
    let mut scopes: Vec<&str> = node.split('/').filter(|part| !part.is_empty()).collect();
    scopes.pop();
    let mut path: Vec<&str> = Vec::new();
    for scope in scopes {
        // PyTorch names a module in a list together with its list.
        let inside = path.last().and_then(|last| scope.strip_prefix(last));
        if inside.is_some_and(|rest| rest.starts_with('.')) {
            path.pop();
        }
        path.push(scope);
    }
    let path = path.join(".");
    let path: Vec<&str> = path.split('.').collect();
    let layer = layer.trim_matches('/').replace('/', ".");
    let wanted: Vec<&str> = layer.split('.').collect();
    let (last, around) = wanted.split_last()?;
    let fits = |found: &[&str], same: bool| {
        found.split_last().is_some_and(|(found, before)| {
            let similar = !exact && !same && is_similar(found, last, node.starts_with('/'));
            before == around && (found == last || similar)
        })
    };
    let find = |same| path.windows(wanted.len()).position(|found| fits(found, same));
    let same = find(true);
    let at = same.or_else(|| find(false))?;
    Some((path[..at + wanted.len()].join("."), same.is_some()))
}

/// Whether `found` can stand for a layer called `wanted` because an exporter numbered it anew.
///
/// TensorFlow appends a number to a name that is taken, which may give it another layer's name. So does
/// PyTorch's older exporter where a module runs again: `relu_1` is a module's own name, or the second run of
/// `relu`.
fn is_similar(found: &str, wanted: &str, torch: bool) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let stem = |name: &str| {
        let mut name = name.to_owned();
        while let Some((before, _)) = name.rsplit_once('_').filter(|(_, after)| number(after)) {
            name = before.to_owned();
        }
        name
    };
    if torch {
        return stem(found) == stem(wanted);
    }
    let rest = found.strip_prefix(wanted).and_then(|rest| rest.strip_prefix('_'));
    rest.is_some_and(|rest| rest.split('_').all(number))
}

#[cfg(test)]
mod tests {
    use super::{place_of, places};

    #[test]
    fn layers_are_named_as_in_their_framework() {
        let cases = [
            ("/blocks/blocks.11/norm1/LayerNormalization", "blocks.11.norm1", true),
            ("/blocks/blocks.1/norm1/LayerNormalization", "blocks.11.norm1", false),
            ("/features/features.29/Relu", "features.29", true),
            ("/features/features.2/Relu", "features.29", false),
            ("/layer4/layer4.1/relu_1/Relu", "layer4", true),
            ("/layer4/layer4.1/relu_1/Relu", "layer4.1", true),
            ("model/block5_conv3/Relu", "block5_conv3", true),
            ("model/vgg16/block5_conv3/Relu", "vgg16/block5_conv3", true),
            ("Relu", "Relu", false),
        ];
        for (node, layer, expected) in cases {
            assert_eq!(place_of(node, layer, true).is_some(), expected, "{node} {layer}");
        }
    }

    /// Paths of the layers that a name fits, with a star behind those whose name is only similar.
    fn found(nodes: &[&str], layer: &str, exact: bool) -> String {
        let places = places(nodes.iter().copied(), layer, exact);
        let path = |place: super::Place| place.path + if place.same { "" } else { "*" };
        places.into_iter().map(path).collect::<Vec<_>>().join(" ")
    }

    /// What tf2onnx makes of the layers norm, norm_1 and norm_2.
    const TENSORFLOW: [&str; 3] = ["m/norm_2_1/add", "m/norm_1_2/add", "m/norm_1/add"];

    #[test]
    fn a_layer_numbered_anew_is_not_mistaken_for_another() {
        assert_eq!(found(&TENSORFLOW, "norm_1", false), "m.norm_1 m.norm_1_2*");
        assert_eq!(found(&TENSORFLOW, "norm_2", false), "m.norm_2_1*");
        let torch = ["/b.0/relu_1/Relu", "/b.0/relu/Relu", "/b.1/relu/Relu"];
        assert_eq!(found(&torch, "b.0.relu", false), "b.0.relu b.0.relu_1*");
        assert_eq!(found(&torch, "b.0.relu_1", false), "b.0.relu_1 b.0.relu*");
        assert_eq!(found(&torch, "b.1.relu", false), "b.1.relu");
        assert_eq!(found(&torch, "relu", false), "b.0.relu b.1.relu b.0.relu_1*");
    }

    #[test]
    fn exact_names_need_no_similar_ones() {
        assert_eq!(found(&["m/norm_1/add", "m/norm/add"], "norm", true), "m.norm");
        assert_eq!(found(&["a/conv/Relu", "b/conv/Relu"], "conv", true), "a.conv b.conv");
        assert_eq!(found(&["a/conv/Relu", "b/conv/Relu"], "b.conv", true), "b.conv");
    }
}
