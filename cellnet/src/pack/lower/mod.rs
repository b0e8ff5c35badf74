//! Turns ONNX nodes into layers: one function per operator, which refuses unsupported cases with a reason.
//!
//! Operators that only move axes become views, operators on constants are computed here, and all others
//! become layers of [`Net`]. [`super::fuse`] fuses them.

mod attention;
mod by_head;
mod channels;
mod constants;
mod dynamic;
mod elementwise;
mod linear;
mod norms;
mod quantized;
mod rolls;
mod shapes;
mod single;
mod tokens;
mod windows;

use std::collections::HashMap;

use rten_onnx::onnx::NodeProto;

use super::constant::Constant;
use super::net::{Kind, Net, NetTensor, Shape, ValueId};
use super::source::{Attributes, Source};
use super::view::{Axis, View};
use crate::error::PackError;
use crate::plan::{Activation, Order};

/// The reason of a refusal, without the node's name.
type Refused = String;

/// The reason that a few operators refuse pending padding for.
const PADDED: &str = "a side is padded, or its padding is moved around the edge";

/// The reason that most operators refuse moved rows and columns for.
const MOVED: &str = "its rows or columns are moved around the edge, which only attention follows";

/// A tensor of the graph. Besides views and constants there are forms that become a layer only when a later
/// node shows which.
#[derive(Debug, Clone)]
enum Tensor {
    View(View),
    Constant(Constant),
    /// Products of queries and keys, until their product with the values.
    Scores(Box<attention::Scores>),
    /// See [`rolls::Cut`].
    Cut(rolls::Cut),
    /// See [`dynamic`].
    Dynamic(dynamic::Dynamic),
    /// See [`norms::Grouped`].
    Grouped(norms::Grouped),
}

struct Lowerer {
    net: Net,
    tensors: HashMap<String, Tensor>,
    /// Tensors of 8-bit integers, which few operators accept.
    integers: HashMap<String, quantized::Integers>,
    /// The nodes `DequantizeLinear` with constant inputs, by their outputs.
    dequantized: HashMap<String, NodeProto>,
    /// See [`Source::ranges`].
    ranges: HashMap<String, (f32, f32)>,
    opset: i64,
}

/// Lowers a whole graph.
pub(super) fn lower(source: Source) -> Result<Net, PackError> {
    let mut lowerer = Lowerer {
        net: Net::default(),
        tensors: HashMap::new(),
        integers: HashMap::new(),
        dequantized: HashMap::new(),
        ranges: source.ranges,
        opset: source.opset,
    };
    for (name, constant) in source.constants {
        lowerer.tensors.insert(name, Tensor::Constant(constant));
    }
    let first_conv = first_conv_is_channels_first(&source.nodes);
    for input in source.inputs {
        let refuse = |reason: String| PackError::Tensor { name: input.name.clone(), reason };
        let (shape, axes) = input_layout(&input.dims, first_conv).ok_or_else(|| {
            refuse(format!(
                "its dimensions {:?} are not those of one photo, [1, channels, height, width], \
                 [1, height, width, channels] or [1, n]",
                input.dims
            ))
        })?;
        let value = lowerer.net.value(shape);
        let view = View::new(value, shape, axes);
        let order = view.order().unwrap_or(Order::ChannelsLast);
        lowerer.tensors.insert(input.name.clone(), Tensor::View(view));
        let (name, dtype, dims) = (input.name, input.dtype, input.dims);
        let (scale, bias) = (Vec::new(), Vec::new());
        lowerer.net.inputs.push(NetTensor { name, dtype, dims, order, value, scale, bias });
    }
    for node in &source.nodes {
        let before = lowerer.net.values.len();
        let added = lowerer.add(node).and_then(|()| lowerer.net.refuse_large(before));
        added.map_err(|reason| PackError::Operator {
            op: node.op_type.clone().unwrap_or_default(),
            node: label(node),
            reason,
        })?;
    }
    for name in source.outputs {
        lowerer.output(name)?;
    }
    Ok(lowerer.net)
}

/// Height, width, channels and axes of an input. The dimension of 1, 3 or 4 is taken for the channels; if
/// both or neither could be, they come first unless a transpose precedes the first convolution.
fn input_layout(dims: &[usize], channels_first: bool) -> Option<(Shape, Vec<Axis>)> {
    use Axis::{Channel, Height, One, Width};
    match *dims {
        [1, a, b, c] => {
            let first = match (matches!(a, 1 | 3 | 4), matches!(c, 1 | 3 | 4)) {
                (true, false) => true,
                (false, true) => false,
                _ => channels_first,
            };
            Some(if first {
                (Shape { channels: a, height: b, width: c }, vec![One, Channel, Height, Width])
            } else {
                (Shape { height: a, width: b, channels: c }, vec![One, Height, Width, Channel])
            })
        }
        [1, a] => Some((Shape::vector(a), vec![One, Channel])),
        _ => None,
    }
}

/// Whether the graph has no transpose before its first convolution.
fn first_conv_is_channels_first(nodes: &[NodeProto]) -> bool {
    let is = |node: &&NodeProto, op: &str| node.op_type.as_deref() == Some(op);
    nodes.iter().find(|n| is(n, "Conv") || is(n, "Transpose")).is_none_or(|n| is(&n, "Conv"))
}

/// A node's name, or that of its first output.
fn label(node: &NodeProto) -> String {
    let name = node.name.clone().filter(|n| !n.is_empty());
    name.or_else(|| node.output.first().cloned()).unwrap_or_default()
}

impl Lowerer {
    /// Lowers a node and records its output.
    fn add(&mut self, node: &NodeProto) -> Result<(), Refused> {
        let output = node.output.first().cloned().unwrap_or_default();
        if node.op_type.as_deref() == Some("QuantizeLinear") {
            let integers = self.quantize(node)?;
            self.integers.insert(output, integers);
        } else if node.op_type.as_deref() == Some("Split") {
            for (name, part) in node.output.iter().zip(self.split(node)?) {
                self.tensors.insert(name.clone(), part);
            }
        } else if node.op_type.as_deref() == Some("DynamicQuantizeLinear") {
            for (name, part) in node.output.iter().zip(self.dynamic_quantize(node)?) {
                self.tensors.insert(name.clone(), part);
            }
        } else {
            let tensor = self.node(node)?;
            if node.op_type.as_deref() == Some("DequantizeLinear")
                && matches!(tensor, Tensor::Constant(_))
            {
                self.dequantized.insert(output.clone(), node.clone());
            }
            self.tensors.insert(output, tensor);
        }
        Ok(())
    }

    fn node(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        if let Some(constant) = self.fold(node)? {
            return Ok(Tensor::Constant(constant));
        }
        if let Some(tensor) = self.on_dynamic(node)? {
            return Ok(tensor);
        }
        let op = node.op_type.as_deref().unwrap_or_default();
        let domain = node.domain.as_deref().unwrap_or_default();
        // ONNX Runtime had a Gelu before the standard, and the same one.
        let is_gelu = domain == "com.microsoft" && node.op_type.as_deref() == Some("Gelu");
        if !matches!(domain, "" | "ai.onnx") && !is_gelu {
            return Err(format!("its domain {domain} is not supported"));
        }
        match op {
            "Conv" => self.conv(node),
            "ConvInteger" => self.conv_integer(node),
            "DequantizeLinear" => self.dequantize(node),
            "Gemm" => self.gemm(node),
            "MatMul" => self.mat_mul(node),
            "BatchNormalization" => self.batch_norm(node),
            "MaxPool" | "AveragePool" => self.pool(node),
            "GlobalAveragePool" | "GlobalMaxPool" => self.global_pool(node),
            "ReduceMean" => match self.mean_within_groups(node)? {
                Some(means) => Ok(means),
                None => self.reduce(node),
            },
            "ReduceSum" | "ReduceMax" | "ReduceL2" | "ReduceSumSquare" => self.reduce(node),
            "Concat" => match self.rolled(node)? {
                Some(tensor) => Ok(tensor),
                None => match self.prepend(node)? {
                    Some(tensor) => Ok(tensor),
                    None => self.concat(node),
                },
            },
            "LayerNormalization" => self.layer_norm(node),
            "Slice" => self.slice(node),
            "Gather" => self.gather(node),
            "Pad" => self.pad(node),
            "Softmax" => self.softmax(node),
            "Identity" | "Dropout" => Ok(self.tensor(node, 0)?.clone()),
            "Cast" => self.cast(node),
            "Transpose" | "Reshape" | "Expand" | "Flatten" | "Squeeze" | "Unsqueeze" => {
                self.moved(node)
            }
            "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "Sum" | "Greater"
            | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" | "Pow" => self.binary(node),
            "InstanceNormalization" | "GroupNormalization" => self.group_norm(node),
            "Where" => self.choice(node),
            "PRelu" => self.prelu(node),
            _ => self.unary(node, op),
        }
    }

    /// Adds a declared output to the net.
    fn output(&mut self, name: String) -> Result<(), PackError> {
        let refuse =
            |reason: &str| PackError::Tensor { name: name.clone(), reason: reason.to_owned() };
        let view = match self.tensors.get(&name) {
            Some(Tensor::View(view)) => view.clone(),
            Some(Tensor::Constant(_)) => return Err(refuse("this output is a constant")),
            Some(Tensor::Scores(_)) => return Err(refuse("this output is of attention's scores")),
            Some(Tensor::Dynamic(_)) => {
                return Err(refuse("this output is part of a dynamic quantization"));
            }
            Some(Tensor::Grouped(_)) => return Err(refuse("this output is of groups of channels")),
            Some(Tensor::Cut(_)) => {
                return Err(refuse("this output is some rows or columns of a map"));
            }
            None if self.integers.contains_key(&name) => {
                return Err(refuse("this output is of 8-bit integers"));
            }
            None => return Err(refuse("no node produces this output")),
        };
        let view = self.whole(&NodeProto::default(), view);
        let order = view.order().ok_or_else(|| refuse("its axes are in an unsupported order"))?;
        if view.pads != [0; 4] || view.roll != [0; 2] {
            return Err(refuse("it is padded, or moved around its edge"));
        }
        // An input returned as output, or a value shared by two outputs, needs its own map.
        let taken = |p: &NetTensor| p.value == view.value;
        let value = if self.net.inputs.iter().any(taken) {
            self.affine("copy", &view, Vec::new(), Vec::new(), Activation::None).value
        } else {
            view.value
        };
        let (scale, bias) = (Vec::new(), Vec::new());
        let dtype = crate::plan::Dtype::F32;
        self.net.outputs.push(NetTensor {
            name,
            dtype,
            dims: view.dims(),
            order,
            value,
            scale,
            bias,
        });
        Ok(())
    }

    fn tensor(&self, node: &NodeProto, index: usize) -> Result<&Tensor, Refused> {
        let name = node.input.get(index).filter(|n| !n.is_empty());
        let name = name.ok_or_else(|| format!("input {index} is missing"))?;
        self.tensors.get(name).ok_or_else(|| match self.integers.get(name) {
            Some(_) => format!("input {index}, `{name}`, is of 8-bit integers"),
            None => format!("input {index}, `{name}`, is unknown"),
        })
    }

    /// An input that is not a constant; zeros that pend around it are written.
    fn view(&mut self, node: &NodeProto, index: usize) -> Result<View, Refused> {
        let view = self.padded_view(node, index)?;
        self.settled_border(node, index, view)
    }

    /// An input that is not a constant.
    fn padded_view(&mut self, node: &NodeProto, index: usize) -> Result<View, Refused> {
        let view = self.part_view(node, index)?;
        Ok(self.whole(node, view))
    }

    /// An input with the zeros around it that pend, for it and all its readers.
    fn settled_border(
        &mut self,
        node: &NodeProto,
        index: usize,
        view: View,
    ) -> Result<View, Refused> {
        let pends = view.pads != [0; 4];
        let view = self.with_zeros(node, view)?;
        if pends && let Some(name) = node.input.get(index) {
            self.tensors.insert(name.clone(), Tensor::View(view.clone()));
        }
        Ok(view)
    }

    /// As [`Lowerer::view`], for an operator that computes each pixel alone: rows and columns may be moved.
    fn rolled_view(&mut self, node: &NodeProto, index: usize) -> Result<View, Refused> {
        let view = self.rolled_part(node, index)?;
        Ok(self.whole(node, view))
    }

    /// As [`Lowerer::rolled_view`], perhaps some channels of a value.
    fn rolled_part(&mut self, node: &NodeProto, index: usize) -> Result<View, Refused> {
        let view = self.any_view(node, index)?;
        self.settled_border(node, index, view)
    }

    /// An input that is not a constant, perhaps some channels of a value and padded.
    fn part_view(&mut self, node: &NodeProto, index: usize) -> Result<View, Refused> {
        let view = self.any_view(node, index)?;
        if view.roll == [0; 2] { Ok(view) } else { Err(MOVED.to_owned()) }
    }

    /// An input that is not a constant, with whatever is pending.
    fn any_view(&mut self, node: &NodeProto, index: usize) -> Result<View, Refused> {
        let view = match self.tensor(node, index)?.clone() {
            Tensor::View(view) => return Ok(view),
            Tensor::Constant(_) => return Err(format!("input {index} is a constant")),
            Tensor::Dynamic(_) => {
                return Err(format!("input {index} is part of a dynamic quantization"));
            }
            Tensor::Grouped(_) => return Err(format!("input {index} is of groups of channels")),
            Tensor::Scores(scores) => self.shares_of_one(node, &scores)?,
            Tensor::Cut(cut) => self.cut_out(node, &cut)?,
        };
        let name = node.input.get(index).cloned().unwrap_or_default();
        self.tensors.insert(name, Tensor::View(view.clone()));
        Ok(view)
    }

    fn has(node: &NodeProto, index: usize) -> bool {
        node.input.get(index).is_some_and(|n| !n.is_empty())
    }

    /// An input that is a constant.
    fn constant(&self, node: &NodeProto, index: usize) -> Result<&Constant, Refused> {
        match self.tensor(node, index)? {
            Tensor::Constant(constant) => Ok(constant),
            _ => Err(format!("input {index} is not a constant")),
        }
    }

    /// The elements of an optional constant input.
    fn maybe_floats(&self, node: &NodeProto, index: usize) -> Result<Option<Vec<f32>>, Refused> {
        if !Self::has(node, index) {
            return Ok(None);
        }
        Ok(Some(self.constant(node, index)?.to_floats()))
    }

    /// Integers from an attribute (older operator sets) or from a constant input.
    fn ints(
        &self,
        node: &NodeProto,
        attribute: &str,
        index: usize,
    ) -> Result<Option<Vec<i64>>, Refused> {
        if let Some(ints) = Attributes(node).ints(attribute) {
            return Ok(Some(ints.to_vec()));
        }
        if !Self::has(node, index) {
            return Ok(None);
        }
        let ints = self.constant(node, index)?.as_ints().map(<[i64]>::to_vec);
        ints.map(Some).ok_or_else(|| format!("input {index} is not a list of integers"))
    }

    /// Adds a layer that joins the channels of values into one of `shape`.
    fn joined_channels(&mut self, label: &str, parts: Vec<ValueId>, shape: Shape) -> ValueId {
        let (scale, bias, activation) = (Vec::new(), Vec::new(), Activation::None);
        self.net.push(label, Kind::Concat { scale, bias, activation }, parts, shape)
    }

    /// Adds a layer of the same shape.
    fn affine(
        &mut self,
        name: &str,
        view: &View,
        scale: Vec<f32>,
        bias: Vec<f32>,
        activation: Activation,
    ) -> View {
        let kind = Kind::Affine { scale, bias, activation };
        let value: ValueId = self.net.push(name, kind, vec![view.value], view.shape);
        view.with(value, view.shape)
    }
}
