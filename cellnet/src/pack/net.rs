//! The graph as layers over maps, before the arena is laid out and weights are packed.

use crate::plan::{Activation, BinaryOp, Dtype, Order, Pooling};

/// Most elements of a value: 1 GiB as float32.
const MOST: u64 = 1 << 28;

/// Index of a value in [`Net::values`].
pub(super) type ValueId = usize;

/// Shape of a value: height, width, channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl Shape {
    pub(super) fn vector(channels: usize) -> Self {
        Self { height: 1, width: 1, channels }
    }

    pub(super) fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// A moving window with its padding above, left, below, right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moving {
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) pads: [usize; 4],
}

impl Moving {
    /// A window of one pixel.
    pub(super) const POINT: Self = Self { kernel: [1, 1], stride: [1, 1], pads: [0; 4] };
}

/// An operand of a binary layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arg {
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
pub(super) struct SumsLayer {
    /// The byte of the input that stands for 0.
    pub(super) zero: u8,
    /// One for each output.
    pub(super) factors: Vec<f32>,
}

/// A convolution's weights `[output][input of the group][kernel y][kernel x]` and bias.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ConvLayer {
    pub(super) moving: Moving,
    pub(super) groups: usize,
    pub(super) group_inputs: usize,
    pub(super) outputs: usize,
    pub(super) weights: Vec<f32>,
    /// Whether the file has the weights in half precision.
    pub(super) is_half: bool,
    pub(super) bias: Vec<f32>,
    /// If present, the input is of bytes, and the weights are whole numbers from -128 to 127.
    pub(super) sums: Option<SumsLayer>,
    pub(super) residual: Option<ValueId>,
    pub(super) activation: Activation,
    pub(super) activate_last: bool,
    /// Receives the means of the outputs (depthwise only).
    pub(super) means: Option<ValueId>,
}

impl ConvLayer {
    /// One kernel per channel.
    pub(super) fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.outputs && self.group_inputs == 1
    }
}

/// The operation of a layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
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
    /// Constant pixels before those of the input, in one row.
    Prepend {
        head: Vec<f32>,
    },
}

/// See [`crate::plan::Attention`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AttentionLayer {
    pub(super) first: [usize; 3],
    pub(super) heads: usize,
    pub(super) head: usize,
    pub(super) scale: f32,
    pub(super) window: [usize; 2],
}

/// Bytes that a layer writes beside its results, or in their place if `value` is its output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rounded {
    pub(super) value: ValueId,
    pub(super) scale: f32,
    pub(super) zero: u8,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    pub(super) kind: Kind,
    pub(super) inputs: Vec<ValueId>,
    pub(super) output: ValueId,
    /// The ONNX node it came from, for messages.
    pub(super) name: String,
    /// Set by [`super::bytes`] for convolutions on integers and for binary layers.
    pub(super) rounded: Option<Rounded>,
}

impl Layer {
    /// Every value read, residuals and operands included.
    pub(super) fn reads(&self) -> Vec<ValueId> {
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
    pub(super) fn last_activation(&mut self) -> Option<&mut Activation> {
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
    pub(super) fn claim_activation(&mut self) -> Option<&mut Activation> {
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
pub(super) struct NetTensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) dims: Vec<usize>,
    pub(super) order: Order,
    pub(super) value: ValueId,
    pub(super) scale: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// A whole graph; layers are in a valid order of execution.
#[derive(Debug, Clone, Default)]
pub(super) struct Net {
    pub(super) values: Vec<Shape>,
    pub(super) layers: Vec<Layer>,
    pub(super) inputs: Vec<NetTensor>,
    pub(super) outputs: Vec<NetTensor>,
}

impl Net {
    /// Adds a value.
    pub(super) fn value(&mut self, shape: Shape) -> ValueId {
        self.values.push(shape);
        self.values.len() - 1
    }

    /// Refuses values from number `first` on that have more than [`MOST`] elements, which a damaged number in
    /// the graph asks for.
    pub(super) fn refuse_large(&self, first: ValueId) -> Result<(), String> {
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
    pub(super) fn push(
        &mut self,
        name: &str,
        kind: Kind,
        inputs: Vec<ValueId>,
        shape: Shape,
    ) -> ValueId {
        let output = self.value(shape);
        self.layers.push(Layer { kind, inputs, output, name: name.to_owned(), rounded: None });
        output
    }

    /// How many layers and outputs read each value.
    pub(super) fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.values.len()];
        let outputs = self.outputs.iter().map(|o| o.value);
        for value in self.layers.iter().flat_map(Layer::reads).chain(outputs) {
            uses[value] += 1;
        }
        uses
    }

    /// The layer that produces `value`.
    pub(super) fn producer(&self, value: ValueId) -> Option<usize> {
        self.layers.iter().position(|l| l.output == value)
    }
}
