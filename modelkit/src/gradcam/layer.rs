//! Finds the map that a user names: by a node, by a value, or by a layer of the framework.

use super::place::Tail;
use super::refusal::Refusal;
use super::tokens::Tracer;
use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::graph::{Graph, op, output};

/// Most names that an error lists.
const LISTED: usize = 8;

/// Finds the map called `name`.
///
/// # Errors
/// The inner [`Refusal`] lists the names of the last maps; the outer error is the engine's.
pub(crate) fn named(
    graph: &Graph,
    probe: &mut Probe,
    name: &str,
) -> Result<Result<Tail, Refusal>, EngineError> {
    let shapes = probe.learn_made(&graph.nodes)?;
    let tracer = Tracer { graph, shapes };
    let map = |index: usize| {
        let value = output(graph.nodes.get(index)?);
        let shape = shapes.get(value)?;
        let (axis, tokens) = tracer.channels(value)?;
        let places = shape.iter().product::<usize>() / shape.get(axis)?;
        let several = places > 1 && (tokens.is_some() || shape.first() == Some(&1));
        let fits = several && (tokens.is_some() || (shape.len() == 4 && tracer.is_spatial(value)));
        let conv = (op(&graph.nodes[index]) == "Conv").then_some(index);
        fits.then(|| Tail { pooled: value.to_owned(), axis, conv, tokens })
    };
    let all = || (0..graph.nodes.len()).rev();
    let label = |index: usize| graph.nodes[index].name.as_deref().unwrap_or_default();
    let exact = |index: &usize| label(*index) == name || output(&graph.nodes[*index]) == name;
    let found = all()
        .find(exact)
        .map(|index| map(index).ok_or("does not compute a map of pixels and channels"))
        .or_else(|| all().filter(|i| is_of_layer(label(*i), name)).find_map(map).map(Ok));
    let why = match found {
        Some(Ok(tail)) => return Ok(Ok(tail)),
        Some(Err(why)) => why.to_owned(),
        None => {
            let maps = all().filter(|i| !label(*i).is_empty() && map(*i).is_some());
            let names: Vec<&str> = maps.map(label).take(LISTED).collect();
            format!(
                "no layer or node of this name computes a map; the last ones that do are {}",
                names.join(", ")
            )
        }
    };
    Ok(Err(Refusal { node: format!("\"{name}\""), why }))
}

/// Whether a node belongs to a layer: `/blocks/blocks.11/norm1/Mul` to PyTorch's `blocks.11.norm1`, and
/// `model/block5_conv3/Relu` to Keras's `block5_conv3`.
fn is_of_layer(node: &str, layer: &str) -> bool {
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
    let (around, wanted) = (format!(".{path}."), format!(".{layer}."));
    around.contains(&wanted)
}

#[cfg(test)]
mod tests {
    use super::is_of_layer;

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
            ("Relu", "Relu", false),
        ];
        for (node, layer, expected) in cases {
            assert_eq!(is_of_layer(node, layer), expected, "{node} {layer}");
        }
    }
}
