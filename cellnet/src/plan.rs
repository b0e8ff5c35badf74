//! The plan in a `model.cell`: steps in execution order, and the place of every tensor.
//!
//! Activations are *maps*: `f32` or bytes, axis order height, width, channel (NHWC with N = 1), surrounded by
//! a halo of zeros that serves as the convolution's padding. All maps lie in one arena whose layout is fixed
//! when the plan is made. This file defines the data only; `check` decides whether a plan read from a file is
//! sound, and `kernels` executes it.

use serde::{Deserialize, Serialize};

pub(crate) mod fixed;
mod map;
mod pixels;
mod spec;
pub use map::{Blob, CHANNEL_BLOCK, LINE, Map};
pub use pixels::*;
pub use spec::{Dtype, Order, TensorSpec};

/// An elementwise function applied where a step stores its result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Activation {
    /// The value as it is.
    None,
    /// `min(max(x, low), high)`: ReLU is `0, ∞`, ReLU6 `0, 6`.
    Clip {
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    },
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x · sigmoid(x)`.
    Silu,
    /// The same with a relative error of at most 1/4000, in fewer instructions where the machine has them:
    /// for results that are rounded to bytes or computed from bytes.
    ShortSilu,
    /// The same in fixed point, with the same bits on every back end: x is rounded to an `i16` with `bits`
    /// fractional bits, saturated, and the result is at most 1/200 and one unit of the last bit from the SiLU
    /// of that. Only for convolutions on integers that write nothing but bytes.
    FixedSilu {
        /// Bits after the point, from 6 to 12.
        bits: u8,
    },
    /// `min(max(alpha · x + beta, 0), 1)`.
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// `x · min(max(x / 6 + 1/2, 0), 1)`.
    HardSwish,
    /// `x / 2 · (1 + erf(x / √2))`, `erf` after Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
    Gelu,
    /// The error function, as above.
    Erf,
    /// Hyperbolic tangent.
    Tanh,
    /// `e^x`.
    Exp,
    /// `|x|`.
    Abs,
    /// Square root.
    Sqrt,
    /// `1 / x`.
    Reciprocal,
    /// `1` where `x > 0`, else `0`: a comparison against zero, cast to a number.
    Step,
    /// `scale · min(max(round(x / scale), low), high)`, halves rounded to even: the value that the nearest
    /// integer of a quantized graph stands for.
    Quantize {
        /// Difference of two neighbouring values.
        scale: f32,
        /// Smallest integer, its zero point subtracted.
        low: f32,
        /// Largest integer, its zero point subtracted.
        high: f32,
    },
    /// `x` where `x > 0`, else `slope · x`.
    LeakyRelu {
        /// Slope below 0.
        slope: f32,
    },
    /// `scale · x` where `x > 0`, else `scale · alpha · (e^x - 1)`: ELU with a scale of 1, and SELU.
    Elu {
        /// What the curve below 0 tends to, with the sign turned and before the scale.
        alpha: f32,
        /// Factor of both halves.
        scale: f32,
    },
}

impl Activation {
    /// `max(x, 0)`.
    pub const RELU: Self = Self::Clip { low: 0.0, high: f32::INFINITY };
}

/// How a dense convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Multiplications and additions by the definition.
    Direct,
    /// Winograd's F(2×2, 3×3): 16 products for 4 outputs instead of 36.
    Winograd2,
    /// Winograd's F(4×4, 3×3): 36 products for 16 outputs instead of 144.
    Winograd4,
}

impl Algorithm {
    /// Side of the square of outputs of one transform; 0 for [`Algorithm::Direct`].
    pub fn tile(self) -> u32 {
        match self {
            Self::Direct => 0,
            Self::Winograd2 => 2,
            Self::Winograd4 => 4,
        }
    }
}

/// Kernel, stride and padding of a window moving over a map, each `[vertical, horizontal]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Height and width of the kernel.
    pub kernel: [u32; 2],
    /// Step between outputs.
    pub stride: [u32; 2],
    /// Padding above and left. Padding below and right follows from the shapes.
    pub pad: [u32; 2],
}

impl Window {
    /// Rows (`axis` 0) or columns (1) read past the end of an input of `size` for this many `outputs`.
    pub fn pad_after(&self, axis: usize, size: u32, outputs: u32) -> u64 {
        let last = u64::from(outputs.saturating_sub(1)) * u64::from(self.stride[axis])
            + u64::from(self.kernel[axis]);
        last.saturating_sub(u64::from(size) + u64::from(self.pad[axis]))
    }
}

/// Dense or grouped convolution, or a dense layer (a 1×1 convolution of a 1×1 map).
///
/// `out = activate(in * weights + bias) + residual`, or `activate(in * weights + bias + residual)` with
/// `activate_last`. Weights: `[group][output / panel][kernel y][kernel x][input][panel]`, outputs padded
/// with zeros to whole panels; for Winograd `[output / panel][transform][input][panel]`. Bias:
/// `[group][output / panel][panel]`. A weight takes 32 bits, 16 with `scales`, or 8 with `sums`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// Map read.
    pub input: u32,
    /// Map written.
    pub output: u32,
    /// Map that is added, of the output's shape.
    pub residual: Option<u32>,
    /// Kernel, stride, padding.
    pub window: Window,
    /// Number of groups.
    pub groups: u32,
    /// Input channels of one group.
    pub group_inputs: u32,
    /// Output channels of one group; a multiple of [`CHANNEL_BLOCK`] where there are several groups.
    pub group_outputs: u32,
    /// Outputs per weight panel: 16, or 8 for narrow groups.
    pub panel: u32,
    /// Packed weights.
    pub weights: Blob,
    /// If present, each weight is an `i16`, two to a float of the blob, and stands for its value times the
    /// scale of its output and position: `[group][output / panel][kernel y][kernel x][panel]`, or
    /// `[output / panel][transform][panel]`.
    pub scales: Option<Blob>,
    /// If present, the input is a map of bytes, each weight an `i8`, and products are summed as integers.
    pub sums: Option<Sums>,
    /// Packed bias.
    pub bias: Blob,
    /// Applied to each output.
    pub activation: Activation,
    /// Whether the activation comes after the residual's addition.
    pub activate_last: bool,
    /// If present, and only with `sums`, the results are written as bytes too.
    pub rounding: Option<Rounding>,
    /// How it is computed.
    pub algorithm: Algorithm,
}

/// Integer arithmetic of a convolution: `in * weights` is `factor · (start + Σ byte · weight)`, where the sum
/// is exact in 32 bits, and the product is rounded once. The map stores the bytes of four input channels in
/// the place of one float, the weights hold four `i8` in the place of one: an input in the weights' layout
/// counts four channels. Weights of missing channels are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// An `i32` for each output, in place of a float: minus the input's zero times the sum of the weights.
    /// `[output / panel][panel]`, as `factors`.
    pub start: Blob,
    /// What a unit of the sum is worth, for each output.
    pub factors: Blob,
    /// Whether every weight is within ±64, so that the sum of two products fits 16 bits.
    pub is_narrow: bool,
}

/// Bytes written with a convolution's results, or in their place if `output` is the convolution's own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rounding {
    /// Map of bytes written, as [`Quantize`] would.
    pub output: u32,
    /// Difference of the values of two neighbouring bytes; positive. Results are multiplied by its inverse.
    pub scale: f32,
}

impl Conv {
    /// Panels of one group.
    pub fn group_panels(&self) -> u32 {
        self.group_outputs.div_ceil(self.panel.max(1))
    }

    /// Positions in the kernel, or entries of the transform.
    pub fn positions(&self) -> u64 {
        match self.algorithm {
            Algorithm::Direct => {
                u64::from(self.window.kernel[0]) * u64::from(self.window.kernel[1])
            }
            other => u64::from((other.tile() + 2).pow(2)),
        }
    }

    /// Weights per output channel: positions times inputs.
    pub fn depth(&self) -> u64 {
        self.positions().saturating_mul(u64::from(self.group_inputs))
    }
}

/// Depthwise convolution: each channel has its own kernel.
///
/// Weights `[kernel y][kernel x][stride of the map]`, bias `[stride]`. With `means`, the mean of each
/// output channel over all pixels is stored there too (the first step of squeeze-and-excite).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Depthwise {
    /// Map read.
    pub input: u32,
    /// Map written, with the same channel stride.
    pub output: u32,
    /// 1×1 map that receives the means.
    pub means: Option<u32>,
    /// Kernel, stride, padding.
    pub window: Window,
    /// Packed weights.
    pub weights: Blob,
    /// Packed bias.
    pub bias: Blob,
    /// Applied to each output.
    pub activation: Activation,
}

/// The result of a pooling window or a reduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pooling {
    /// The largest value.
    Max,
    /// The mean over the pixels inside the map.
    Mean,
    /// The mean over the whole window, padding counted as zeros.
    MeanWithPadding,
    /// The sum.
    Sum,
}

/// Pooling over a moving window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Map read.
    pub input: u32,
    /// Map written.
    pub output: u32,
    /// Kernel, stride, padding.
    pub window: Window,
    /// The kind of result.
    pub pooling: Pooling,
}

/// Mean, sum or maximum of each channel over all pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reduce {
    /// Map read.
    pub input: u32,
    /// 1×1 map written.
    pub output: u32,
    /// The kind of result.
    pub pooling: Pooling,
    /// Applied to each result.
    pub activation: Activation,
}

/// `out[.., first + c] = activate(in[.., c] · scale[c] + bias[c])`: also a copy, or one input of a
/// concatenation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Affine {
    /// Map read.
    pub input: u32,
    /// Map written, of the same height and width.
    pub output: u32,
    /// The output channel that receives the first input channel.
    pub first: u32,
    /// Factors, one for each channel of the input's stride.
    pub scale: Option<Blob>,
    /// Summands, one for each channel of the input's stride.
    pub bias: Option<Blob>,
    /// Applied to each result.
    pub activation: Activation,
}

/// A function of two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BinaryOp {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
    /// The larger.
    Max,
    /// The smaller.
    Min,
    /// `1` where `a > b`, else `0`.
    Greater,
    /// `1` where `a ≥ b`, else `0`.
    GreaterOrEqual,
}

/// An operand; axes of length 1 are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Operand {
    /// A map.
    Map(u32),
    /// A constant `[height, width, stride]` without halo.
    Constant {
        /// Height, 1 or the output's.
        height: u32,
        /// Width, 1 or the output's.
        width: u32,
        /// Channels, 1 or the output's; stored with stride 1, or rounded up to [`CHANNEL_BLOCK`].
        channels: u32,
        /// The values.
        values: Blob,
    },
}

/// `out = activate(op(a, b))`, elementwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Binary {
    /// The function.
    pub op: BinaryOp,
    /// First operand.
    pub a: Operand,
    /// Second operand.
    pub b: Operand,
    /// Map written; may be the map of an operand of exactly its shape.
    pub output: u32,
    /// Applied to each result.
    pub activation: Activation,
    /// If present, the output is a map of bytes, the results rounded as by [`Rounding`] of this scale.
    pub scale: Option<f32>,
}

/// One entry of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// See [`Conv`].
    Conv(Conv),
    /// See [`Depthwise`].
    Depthwise(Depthwise),
    /// See [`Pool`].
    Pool(Pool),
    /// See [`Reduce`].
    Reduce(Reduce),
    /// See [`Affine`].
    Affine(Affine),
    /// See [`Binary`].
    Binary(Binary),
    /// See [`Softmax`].
    Softmax(Softmax),
    /// See [`Product`].
    Product(Product),
    /// See [`Quantize`].
    Quantize(Quantize),
    /// See [`Norm`].
    Norm(Norm),
    /// See [`Attention`].
    Attention(Attention),
    /// See [`Slice`].
    Slice(Slice),
    /// See [`Prepend`].
    Prepend(Prepend),
    /// See [`Shuffle`].
    Shuffle(Shuffle),
    /// See [`DynamicQuantize`].
    DynamicQuantize(DynamicQuantize),
}

impl Step {
    /// The map whose halo this step clears and whose pixels it writes.
    pub fn output(&self) -> u32 {
        match self {
            Self::Conv(s) => s.output,
            Self::Depthwise(s) => s.output,
            Self::Pool(s) => s.output,
            Self::Reduce(s) => s.output,
            Self::Affine(s) => s.output,
            Self::Binary(s) => s.output,
            Self::Softmax(s) => s.output,
            Self::Product(s) => s.output,
            Self::Quantize(s) => s.output,
            Self::Norm(s) => s.output,
            Self::Attention(s) => s.output,
            Self::Slice(s) => s.output,
            Self::Prepend(s) => s.output,
            Self::Shuffle(s) => s.output,
            Self::DynamicQuantize(s) => s.output,
        }
    }

    /// A second map it writes.
    pub fn second_output(&self) -> Option<u32> {
        match self {
            Self::Depthwise(s) => s.means,
            Self::Conv(s) => s.rounding.map(|r| r.output).filter(|output| *output != s.output),
            _ => None,
        }
    }

    /// The maps it reads.
    pub fn inputs(&self) -> Vec<u32> {
        let operand = |o: &Operand| match o {
            Operand::Map(m) => Some(*m),
            Operand::Constant { .. } => None,
        };
        match self {
            Self::Conv(s) => [Some(s.input), s.residual].into_iter().flatten().collect(),
            Self::Depthwise(s) => vec![s.input],
            Self::Pool(s) => vec![s.input],
            Self::Reduce(s) => vec![s.input],
            Self::Affine(s) => vec![s.input],
            Self::Binary(s) => [operand(&s.a), operand(&s.b)].into_iter().flatten().collect(),
            Self::Softmax(s) => vec![s.input],
            Self::Product(s) => vec![s.a, s.b],
            Self::Quantize(s) => vec![s.input],
            Self::Norm(s) => vec![s.input],
            Self::Attention(s) => vec![s.query, s.key, s.value],
            Self::Slice(s) => vec![s.input],
            Self::Prepend(s) => vec![s.input],
            Self::Shuffle(s) => vec![s.input],
            Self::DynamicQuantize(s) => vec![s.input],
        }
    }
}

/// How many bits the weights of large convolutions and dense layers take that are computed in `f32`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32: IEEE 754 single.
    #[default]
    Single,
    /// 16: integers with a scale for each output and kernel position (see [`Conv::scales`]). Their error
    /// is below IEEE 754 half precision's, because a channel's weights differ little in magnitude.
    Half,
}

/// A whole model, without its weights.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The model's inputs.
    pub inputs: Vec<TensorSpec>,
    /// The model's outputs.
    pub outputs: Vec<TensorSpec>,
    /// All maps; maps that are not needed at the same time may share floats of the arena.
    pub maps: Vec<Map>,
    /// The steps in execution order.
    pub steps: Vec<Step>,
    /// Floats of the arena.
    pub arena: u64,
}

impl Plan {
    /// The precision of the weights: [`Precision::Half`] if those of any step take 16 bits.
    pub fn precision(&self) -> Precision {
        let halved = |step: &Step| matches!(step, Step::Conv(conv) if conv.scales.is_some());
        if self.steps.iter().any(halved) { Precision::Half } else { Precision::Single }
    }

    /// The number of convolutions and dense layers computed on integers, and of all.
    pub fn on_integers(&self) -> (usize, usize) {
        let convs = self.steps.iter().filter_map(|step| match step {
            Step::Conv(conv) => Some(conv.sums.is_some()),
            Step::Depthwise(_) => Some(false),
            _ => None,
        });
        convs.fold((0, 0), |(own, all), is_own| (own + usize::from(is_own), all + 1))
    }
}
