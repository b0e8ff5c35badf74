//! Measures the error of a fast algorithm for one layer, on that layer's real inputs.
//!
//! The net runs on each calibration tensor by direct convolution, with the inputs of the layers in question
//! as additional outputs. A window of each such map then goes through the layer alone, by the fast
//! algorithm, and the result is compared with the definition in double precision.

use super::exact::{Exact, convolve};
use super::net::{ConvLayer, Kind, Net, NetTensor, Shape, ValueId};
use super::{emit, format, layout};
use crate::error::PackError;
use crate::plan::{Activation, Algorithm, Dtype, Order};
use crate::{Model, Pool, TensorRef, Workspace};

/// Side of the window that is compared.
const WINDOW: usize = 16;

/// The inputs of the layers in question, from all calibration tensors.
pub(super) struct Measured {
    inputs: Vec<(usize, Vec<Exact>)>,
}

fn spec(name: String, shape: Shape, value: ValueId) -> NetTensor {
    let dims = vec![1, shape.height, shape.width, shape.channels];
    let (scale, bias) = (Vec::new(), Vec::new());
    NetTensor { name, dtype: Dtype::F32, dims, order: Order::ChannelsLast, value, scale, bias }
}

/// A model of `net` that uses `algorithms`.
fn build(net: &Net, algorithms: &[Algorithm]) -> Result<Model, PackError> {
    let layout = layout::lay_out(net, algorithms);
    let (plan, mut weights) = emit::emit(net, algorithms, layout, usize::MAX);
    weights.resize(weights.len().next_multiple_of(format::ALIGN / 4), 0.0);
    let bytes = format::write(&plan, &weights).map_err(PackError::Check)?;
    Model::from_bytes(&bytes).map_err(PackError::Check)
}

impl Measured {
    /// Runs the net on the calibration tensors (in the order of its only input), and keeps a window of the
    /// input of each of `layers`.
    pub(super) fn new(net: &Net, layers: &[usize], photos: &[Vec<f32>]) -> Result<Self, PackError> {
        let mut seen = net.clone();
        seen.outputs.clear();
        for layer in layers {
            let Some(value) = net.layers[*layer].inputs.first() else { continue };
            seen.outputs.push(spec(format!("{layer}"), net.values[*value], *value));
        }
        let model = build(&seen, &vec![Algorithm::Direct; seen.layers.len()])?;
        let mut workspace = Workspace::new(&model);
        let mut inputs: Vec<(usize, Vec<Exact>)> =
            layers.iter().map(|l| (*l, Vec::new())).collect();
        for photo in photos {
            let bytes: Vec<u8> = photo.iter().map(|v| *v as u8).collect();
            let given: Vec<(&str, TensorRef<'_>)> = seen
                .inputs
                .iter()
                .map(|p| match p.dtype {
                    Dtype::U8 => (p.name.as_str(), TensorRef::U8(&bytes)),
                    Dtype::F32 => (p.name.as_str(), TensorRef::F32(photo)),
                })
                .collect();
            let outputs = model.run(&mut workspace, &Pool::new(1), &given).map_err(|e| {
                PackError::Tensor { name: "calibration".to_owned(), reason: e.to_string() }
            })?;
            for ((_, windows), (_, tensor)) in inputs.iter_mut().zip(outputs) {
                let dims: Vec<usize> = tensor.dims.iter().map(|d| *d as usize).collect();
                let [_, height, width, channels] = dims.as_slice() else { continue };
                let shape = Shape { height: *height, width: *width, channels: *channels };
                windows.push(window(shape, &tensor.values));
            }
        }
        Ok(Self { inputs })
    }

    /// The largest error of `algorithm` for a layer over all calibration tensors, relative to the layer's
    /// largest output.
    pub(super) fn error(
        &self,
        layer: usize,
        conv: &ConvLayer,
        algorithm: Algorithm,
    ) -> Result<f64, PackError> {
        let mut alone = conv.clone();
        (alone.residual, alone.activation, alone.means) = (None, Activation::None, None);
        let windows = self.inputs.iter().find(|(l, _)| *l == layer).map(|(_, w)| w.as_slice());
        let mut worst = 0.0f64;
        for input in windows.unwrap_or_default() {
            let moving = &conv.moving;
            let size = |size: usize, axis: usize| {
                size + moving.pads[axis] + moving.pads[axis + 2] + 1 - moving.kernel[axis]
            };
            let (height, width) = (size(input.shape.height, 0), size(input.shape.width, 1));
            let shape = Shape { height, width, channels: conv.outputs };
            let got = run_alone(&alone, input, shape, algorithm)?;
            let want = convolve(input, &alone, shape);
            let errors = got.iter().zip(&want.values).map(|(g, w)| (f64::from(*g) - w).abs());
            let largest = want.values.iter().fold(f64::MIN_POSITIVE, |m, v| v.abs().max(m));
            worst = worst.max(errors.fold(0.0, f64::max) / largest);
        }
        Ok(worst)
    }
}

/// The central window of a map.
fn window(shape: Shape, values: &[f32]) -> Exact {
    let (height, width) = (shape.height.min(WINDOW), shape.width.min(WINDOW));
    let (top, left) = ((shape.height - height) / 2, (shape.width - width) / 2);
    let mut cut = Vec::with_capacity(height * width * shape.channels);
    for y in top..top + height {
        let first = (y * shape.width + left) * shape.channels;
        let row = values.get(first..first + width * shape.channels).unwrap_or_default();
        cut.extend(row.iter().map(|v| f64::from(*v)));
    }
    Exact::new(Shape { height, width, ..shape }, cut)
}

/// Runs one layer alone, after a copy that gives its input whole blocks of channels.
fn run_alone(
    conv: &ConvLayer,
    input: &Exact,
    shape: Shape,
    algorithm: Algorithm,
) -> Result<Vec<f32>, PackError> {
    let mut net = Net::default();
    let value = net.value(input.shape);
    net.inputs.push(spec("in".to_owned(), input.shape, value));
    let (scale, bias) = (Vec::new(), Vec::new());
    let copy = Kind::Affine { scale, bias, activation: Activation::None };
    let copied = net.push("copy", copy, vec![value], input.shape);
    let output = net.push("conv", Kind::Conv(conv.clone()), vec![copied], shape);
    net.outputs.push(spec("out".to_owned(), shape, output));
    let model = build(&net, &[Algorithm::Direct, algorithm])?;
    let values: Vec<f32> = input.values.iter().map(|v| *v as f32).collect();
    let mut workspace = Workspace::new(&model);
    let given = [("in", TensorRef::F32(values.as_slice()))];
    let outputs = model
        .run(&mut workspace, &Pool::new(1), &given)
        .map_err(|e| PackError::Tensor { name: "calibration".to_owned(), reason: e.to_string() })?;
    Ok(outputs.into_iter().next().map(|(_, t)| t.values).unwrap_or_default())
}
