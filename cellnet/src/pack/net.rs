//! The graph as layers over maps, before the arena is laid out and weights are packed.

use crate::plan::{Activation, BinaryOp, Dtype, Order, Pooling};

/// Most elements of a value: 1 GiB as float32.
const MOST: u64 = 1 << 28;

/// Index of a value in [`Net::values`].
pub type ValueId = usize;

/// Shape of a value: height, width, channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Shape {
    pub fn vector(channels: usize) -> Self {
        Self { height: 1, width: 1, channels }
    }

    pub fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// A moving window with its padding above, left, below, right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moving {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub pads: [usize; 4],
}

impl Moving {
    /// A window of one pixel.
    pub const POINT: Self = Self { kernel: [1, 1], stride: [1, 1], pads: [0; 4] };
}

/// An operand of a binary layer.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    Value(ValueId),
    /// `[height, width, channels]`, each 1 or that of the result.
    Constant {
        shape: Shape,
        values: Vec<f32>,
    },
}

/// The integers that a convolution computes on: `x · weights` is, for each output, a factor times the sum of
/// products of whole weights and `byte − zero`.
#[derive(Debug, Clone, PartialEq)]
pub struct SumsLayer {
    /// The byte of the input that stands for 0.
    pub zero: u8,
    /// One for each output.
    pub factors: Vec<f32>,
}

/// A convolution's weights `[output][input of the group][kernel y][kernel x]` and bias.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvLayer {
    pub moving: Moving,
    pub groups: usize,
    pub group_inputs: usize,
    pub outputs: usize,
    pub weights: Vec<f32>,
    /// Whether 16 bits hold the weights as the file has them: in half precision, or 8-bit integers and
    /// scales.
    pub is_half: bool,
    pub bias: Vec<f32>,
    /// If present, the input is of bytes, and the weights are whole numbers from -128 to 127.
    pub sums: Option<SumsLayer>,
    pub residual: Option<ValueId>,
    pub activation: Activation,
    pub activate_last: bool,
    /// Receives the means of the outputs (depthwise only).
    pub means: Option<ValueId>,
}

impl ConvLayer {
    /// One kernel per channel.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.outputs && self.group_inputs == 1
    }
}

/// The operation of a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Conv(ConvLayer),
    Pool {
        moving: Moving,
        pooling: Pooling,
    },
    Reduce {
        pooling: Pooling,
        activation: Activation,
    },
    /// `activate(x · scale + bias)`, one number for each channel; empty for 1 and 0.
    Affine {
        scale: Vec<f32>,
        bias: Vec<f32>,
        activation: Activation,
    },
    /// The inputs concatenated along the channels, each `activate(x · scale + bias)`.
    Concat {
        scale: Vec<f32>,
        bias: Vec<f32>,
        activation: Activation,
    },
    Binary {
        op: BinaryOp,
        a: Arg,
        b: Arg,
        activation: Activation,
    },
    Softmax,
    /// The bytes `min(max(round(x / scale) + zero, 0), 255)`.
    Quantize {
        scale: f32,
        zero: u8,
    },
    /// `out[pixel of a][pixel of b] = Σ a · b` over their channels.
    Product,
    /// Layer norm of each pixel, a factor and a summand for each channel.
    Norm {
        epsilon: f32,
        scale: Vec<f32>,
        bias: Vec<f32>,
    },
    /// Attention of queries, keys and values, the inputs.
    Attention(AttentionLayer),
    /// The channels from `first` on.
    Slice {
        first: usize,
    },
    /// The channels from `first` on, one of each group in turn.
    Shuffle {
        first: usize,
        groups: usize,
    },
    /// What is left of the values if bytes between the least and the greatest stand for them.
    DynamicQuantize,
    /// Constant pixels before those of the input, in one row.
    Prepend {
        head: Vec<f32>,
    },
}

/// See [`crate::plan::Attention`].
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionLayer {
    pub first: [usize; 3],
    pub heads: usize,
    pub head: usize,
    pub value_head: usize,
    pub scale: f32,
    pub groups: [usize; 2],
    pub is_near: bool,
    pub shift: [usize; 2],
    /// `[head][query][key]`, or empty.
    pub bias: Vec<f32>,
    /// `[group][query][key]`, or empty.
    pub mask: Vec<f32>,
}

/// Bytes that a layer writes beside its results, or in their place if `value` is its output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounded {
    pub value: ValueId,
    pub scale: f32,
    pub zero: u8,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    pub kind: Kind,
    pub inputs: Vec<ValueId>,
    pub output: ValueId,
    /// The ONNX node it came from, for messages.
    pub name: String,
    /// Set by `bytes.rs` for convolutions on integers and for binary layers.
    pub rounded: Option<Rounded>,
}

impl Layer {
    /// Every value read, residuals and operands included.
    pub fn reads(&self) -> Vec<ValueId> {
        let mut reads = self.inputs.clone();
        match &self.kind {
            Kind::Conv(conv) => reads.extend(conv.residual),
            Kind::Binary { a, b, .. } => {
                for arg in [a, b] {
                    if let Arg::Value(v) = arg {
                        reads.push(*v);
                    }
                }
            }
            _ => {}
        }
        reads
    }

    /// The activation that gives the layer's results, with nothing added after it.
    pub fn last_activation(&mut self) -> Option<&mut Activation> {
        match &mut self.kind {
            Kind::Conv(conv) if conv.residual.is_some() && !conv.activate_last => None,
            Kind::Conv(conv) => Some(&mut conv.activation),
            Kind::Reduce { activation, .. }
            | Kind::Affine { activation, .. }
            | Kind::Concat { activation, .. }
            | Kind::Binary { activation, .. } => Some(activation),
            _ => None,
        }
    }

    /// The layer's activation slot, if it is free. For a convolution with a residual this also moves the
    /// activation behind the addition.
    pub fn claim_activation(&mut self) -> Option<&mut Activation> {
        let slot = match &mut self.kind {
            Kind::Conv(conv) => {
                if conv.activation == Activation::None {
                    conv.activate_last = conv.residual.is_some();
                }
                &mut conv.activation
            }
            Kind::Reduce { activation, .. }
            | Kind::Affine { activation, .. }
            | Kind::Concat { activation, .. }
            | Kind::Binary { activation, .. } => activation,
            _ => return None,
        };
        (*slot == Activation::None).then_some(slot)
    }
}

/// A named input or output.
#[derive(Debug, Clone, PartialEq)]
pub struct NetTensor {
    pub name: String,
    pub dtype: Dtype,
    pub dims: Vec<usize>,
    pub order: Order,
    pub value: ValueId,
    pub scale: Vec<f32>,
    pub bias: Vec<f32>,
}

/// A whole graph; layers are in a valid order of execution.
#[derive(Debug, Clone, Default)]
pub struct Net {
    pub values: Vec<Shape>,
    pub layers: Vec<Layer>,
    pub inputs: Vec<NetTensor>,
    pub outputs: Vec<NetTensor>,
}

impl Net {
    /// Adds a value.
    pub fn value(&mut self, shape: Shape) -> ValueId {
        self.values.push(shape);
        self.values.len() - 1
    }

    /// Refuses values from number `first` on that have more than [`MOST`] elements, which a damaged number in
    /// the graph asks for.
    pub fn refuse_large(&self, first: ValueId) -> Result<(), String> {
        for shape in self.values.iter().skip(first) {
            let sides = [shape.height, shape.width, shape.channels].map(|side| side as u64);
            let elements = sides.into_iter().fold(1, u64::saturating_mul);
            if elements > MOST {
                return Err(format!(
                    "it would make a value of {elements} elements, and at most {MOST} are packed; one of \
                     its sizes is probably damaged"
                ));
            }
        }
        Ok(())
    }

    /// Adds a layer that produces a value of `shape`.
    pub fn push(&mut self, name: &str, kind: Kind, inputs: Vec<ValueId>, shape: Shape) -> ValueId {
        let output = self.value(shape);
        self.layers.push(Layer { kind, inputs, output, name: name.to_owned(), rounded: None });
        output
    }

    /// How many layers and outputs read each value.
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.values.len()];
        let outputs = self.outputs.iter().map(|o| o.value);
        for value in self.layers.iter().flat_map(Layer::reads).chain(outputs) {
            uses[value] += 1;
        }
        uses
    }

    /// The layer that produces `value`.
    pub fn producer(&self, value: ValueId) -> Option<usize> {
        self.layers.iter().position(|l| l.output == value)
    }
}
