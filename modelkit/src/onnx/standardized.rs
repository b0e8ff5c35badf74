//! Computes weights that a model standardizes each time it runs (Qiao et al., "Micro-Batch Training with
//! Batch-Channel Normalization and Weight Standardization", 2019, as in Big Transfer's ResNets and in
//! NFNets).  PyTorch writes them as a batch norm in training, whose statistics are those of the weights.
//! Every other batch norm in training is refused, because its statistics would be those of the photo.

use rten_onnx::onnx::NodeProto;
use skincell_onnx::Constant;

use super::graph::{Graph, float, input, int, op, output, reads};

/// Replaces batch norms in training of constants by constants.
pub(crate) fn settle(graph: &mut Graph) {
    let mut index = 0;
    while index < graph.nodes.len() {
        let node = &graph.nodes[index];
        match standardized(graph, node) {
            Some(weights) => {
                let name = output(node).to_owned();
                graph.nodes.remove(index);
                graph.constants.insert(name, weights);
            }
            None => index += 1,
        }
    }
}

/// `γ · (x − μ) / √(σ² + ε) + β`, by the mean and variance of each channel, the second axis of constants `x`.
/// Computed in double precision.
fn standardized(graph: &Graph, node: &NodeProto) -> Option<Constant> {
    // Before operator set 14 the number of outputs said so.
    let trains =
        int(node, "training_mode", 0) != 0 || (graph.opset() < 14 && node.output.len() > 1);
    let trains = trains && op(node) == "BatchNormalization";
    let is_read = |name: &String| {
        let mut nodes = graph.nodes.iter();
        graph.is_output(name) || nodes.any(|node| reads(node).contains(&name.as_str()))
    };
    if !trains || node.output.iter().skip(1).any(is_read) {
        return None;
    }
    let x = graph.constants.get(input(node, 0)?)?;
    let &[count, channels, ref rest @ ..] = x.dims.as_slice() else { return None };
    let [gamma, beta] = [1, 2].map(|at| graph.constants.get(input(node, at)?)?.float_values());
    let (values, gamma, beta) = (x.float_values()?, gamma?, beta?);
    let each: usize = rest.iter().product();
    if [gamma.len(), beta.len()] != [channels; 2] || count * each == 0 {
        return None;
    }
    let epsilon = f64::from(float(node, "epsilon", 1e-5));
    let mut made = vec![0.0; values.len()];
    for channel in 0..channels {
        let own = (0..count * each).map(|at| (at / each * channels + channel) * each + at % each);
        let of = |at: usize| f64::from(values[at]);
        let number = (count * each) as f64;
        let mean = own.clone().map(of).sum::<f64>() / number;
        let squares = own.clone().map(|at| (of(at) - mean).powi(2));
        let factor = f64::from(gamma[channel]) / (squares.sum::<f64>() / number + epsilon).sqrt();
        for at in own {
            made[at] = ((of(at) - mean) * factor + f64::from(beta[channel])) as f32;
        }
    }
    Some(Constant::f32(&x.dims, &made))
}
