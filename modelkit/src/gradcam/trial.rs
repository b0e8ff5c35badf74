//! Whether the added maps can be computed: a graph that an engine refuses, or maps that are not numbers, are
//! found here and not by the first request. Whether the maps are right is left to the tests.

use rten_tensor::AsView as _;
use skincell_vision::card::{GradCam, MapClasses};

use crate::compare::Samples;
use crate::onnx::engine::GraphEngine;
use crate::onnx::graph::Graph;

/// Photos on which the maps are computed to see whether they can be.
const TRIED: usize = 3;

/// Whether an engine computes the added maps, and finite numbers in them.
///
/// # Errors
/// The reason why not, for a card.
pub(crate) fn computable(graph: &Graph, card: &GradCam, samples: &Samples) -> Result<(), String> {
    let engine = GraphEngine::load_as_served(graph);
    let engine = engine.map_err(|error| format!("its heatmap cannot be computed: {error}"))?;
    for (photo, tensor) in samples.iter().take(TRIED) {
        let maps = engine.run(tensor.view().into(), &[&card.output]);
        let maps = maps.map_err(|error| format!("its heatmap cannot be computed: {error}"))?;
        if maps.iter().flat_map(|map| map.iter()).any(|value| !value.is_finite()) {
            return Err(format!(
                "its heatmap is not a number on {photo}: a derivative of the model is infinite there"
            ));
        }
    }
    Ok(())
}

/// Takes the added maps out again, with all that only they need.
pub(crate) fn without_maps(graph: &mut Graph, card: &GradCam) {
    let indices = match &card.classes {
        MapClasses::Likeliest { output, .. } => Some(output),
        MapClasses::All => None,
    };
    let of_maps = |name: &String| *name == card.output || Some(name) == indices;
    graph.outputs.retain(|output| !output.name.as_ref().is_some_and(of_maps));
    graph.drop_unused();
}
