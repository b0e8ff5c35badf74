//! Warnings that a model's preprocessing may differ from that of its training. They appear in the report; a
//! model is never refused because of them.

use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use skincell_vision::card::{ChannelOrder, Input, Layout};

use crate::compare::{CHANGE, Comparison, Samples};
use crate::onnx::engine::{EngineError, GraphEngine};
use crate::onnx::graph::{Graph, input as input_of, op, output};

/// Input elements above this are not normalised pixels.
const RAW: f32 = 20.0;
/// If the outputs of the first convolution have a larger mean magnitude, it was probably trained on
/// normalised pixels.
const LOUD: f32 = 50.0;
/// If the probabilities of different photos are closer than this, the model does not distinguish the photos.
const SAME: f64 = 1e-3;

/// The warnings, as sentences.
pub(crate) fn of(
    graph: &Graph,
    input: &Input,
    samples: &Samples,
    comparison: &Comparison,
) -> Result<Vec<String>, EngineError> {
    let mut found = Vec::new();
    let largest = |tensor: &Tensor<f32>| tensor.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let raw = samples.iter().map(|(_, tensor)| largest(tensor)).fold(0.0, f32::max);
    if let (true, Some(first), Some((_, photo))) =
        (raw > RAW, first_convolution(graph, &input.name), samples.first())
    {
        let values = GraphEngine::load(graph)?.run(photo.view().into(), &[&first])?;
        let sum: f32 = values.iter().flat_map(|t| t.iter()).map(|v| v.abs()).sum();
        let count: usize = values.iter().map(|t| t.iter().count()).sum();
        let mean = sum / count.max(1) as f32;
        if mean > LOUD {
            found.push(format!(
                "the network gets pixels up to {raw:.0} and shows no normalisation of its own, and the outputs \
                 of its first convolution have a mean magnitude of {mean:.0}; if it was trained on 0..1, -1..1 \
                 or normalised pixels, name its convention with --preprocess"
            ));
        }
    }
    if samples.len() > 1 && comparison.spread < SAME {
        found.push(format!(
            "the probabilities of {} different photos differ by at most {:.1e}; check the preprocessing \
             (--preprocess) and that the weights were trained",
            samples.len(),
            comparison.spread
        ));
    }
    if let Some(own) = comparison.rounding {
        found.push(format!(
            "the network rounds to integers while it runs: a photo changed by {CHANGE:.0e} of its largest element \
             changes a probability by up to {own:.1e}, and the probabilities of two engines differ as much"
        ));
    }
    Ok(found)
}

/// The output of the convolution that reads the photo without arithmetic before it.
fn first_convolution(graph: &Graph, photo: &str) -> Option<String> {
    let mut value = photo.to_owned();
    for _ in 0..8 {
        let readers = graph.consumers_of(&value);
        let node = readers.first().and_then(|i| graph.nodes.get(*i))?;
        match op(node) {
            "Conv" if input_of(node, 0) == Some(value.as_str()) => {
                return Some(output(node).into());
            }
            "Transpose" | "Pad" | "Cast" | "Identity" | "Reshape" => {
                output(node).clone_into(&mut value);
            }
            _ => return None,
        }
    }
    None
}

/// Least, mean and largest element of the first photo's tensor, each by channel in the order R, G, B.
pub(crate) fn seen(input: &Input, samples: &Samples) -> [[f32; 3]; 3] {
    let mut found = [[f32::INFINITY; 3], [0.0; 3], [f32::NEG_INFINITY; 3]];
    let Some((_, tensor)) = samples.first() else { return [[0.0; 3]; 3] };
    let places = (input.width as usize * input.height as usize).max(1);
    for (at, value) in tensor.iter().enumerate() {
        let channel = match input.layout {
            Layout::Nchw => at / places,
            Layout::Nhwc => at % 3,
        };
        let channel = match input.order {
            ChannelOrder::Rgb => channel.min(2),
            ChannelOrder::Bgr => 2 - channel.min(2),
        };
        found[0][channel] = found[0][channel].min(*value);
        found[1][channel] += value / places as f32;
        found[2][channel] = found[2][channel].max(*value);
    }
    found
}
