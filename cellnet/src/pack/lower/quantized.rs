//! Quantized graphs: `QuantizeLinear`, `DequantizeLinear` and `ConvInteger`.
//!
//! `QuantizeLinear` becomes two layers: bytes, and the values that they stand for, `scale · (byte − zero)`. A
//! convolution without groups of whole weights reads the bytes and sums integers; every other operator reads
//! the values. The layer that is not read is dropped. Scales for each channel of a map, blocks of scales, and
//! operators that compute on integers themselves are refused.

use rten_onnx::onnx::NodeProto;

use super::super::constant::Constant;
use super::super::net::{Kind, SumsLayer};
use super::super::source::Attributes;
use super::super::view::View;
use super::{Lowerer, Refused, Tensor};
use crate::plan::Activation;

/// Most products of one sum: each is at most 255 · 128 in size, and 32 bits hold the sum.
const MOST_PRODUCTS: usize = 65_000;

/// A tensor of 8-bit integers.
#[derive(Debug, Clone)]
pub(super) struct Integers {
    /// The integers as bytes; signed ones are 128 more.
    bytes: View,
    /// The values they stand for.
    values: View,
    scale: f32,
    /// The integer that stands for 0.
    zero: f32,
    /// The byte that stands for 0.
    zero_byte: u8,
}

/// A convolution on integers: its input, its whole weights, and the meaning of its sums.
pub(super) type OnIntegers = (View, Constant, SumsLayer);

impl Lowerer {
    /// `QuantizeLinear`: rounds to 8-bit integers.
    pub(super) fn quantize(&mut self, node: &NodeProto) -> Result<Integers, Refused> {
        let view = self.view(node, 0)?;
        let scale = self.scale(node, 1)?;
        let zero = self.zero(node, 2)?;
        let attributes = Attributes(node);
        let (low, high) = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => {
                let range = self.ranges.get(name).copied();
                range
                    .ok_or_else(|| format!("its zero point `{name}` is no stored 8-bit integer"))?
            }
            // Without a zero point, the integers are unsigned.
            None if attributes.int("output_dtype", 0) == 0 => (0.0, 255.0),
            None => return Err("it has an output_dtype instead of a zero point".to_owned()),
        };
        let activation = Activation::Quantize { scale, low: low - zero, high: high - zero };
        let label = super::label(node);
        let values = self.affine(&label, &view, Vec::new(), Vec::new(), activation);
        // `as` saturates; the zero point is of the type whose range this is.
        let zero_byte = (zero - low) as u8;
        let kind = Kind::Quantize { scale, zero: zero_byte };
        let bytes = self.net.push(&label, kind, vec![view.value], view.shape);
        let bytes = view.with(bytes, view.shape);
        Ok(Integers { bytes, values, scale, zero, zero_byte })
    }

    /// `DequantizeLinear` of integers that are not constant.
    pub(super) fn dequantize(&self, node: &NodeProto) -> Result<Tensor, Refused> {
        let (scale, zero) = (self.scale(node, 1)?, self.zero(node, 2)?);
        let integers = self.integers(node)?;
        if (integers.scale, integers.zero) != (scale, zero) {
            return Err(format!(
                "its scale {scale} and zero point {zero} differ from those of QuantizeLinear, {} and {}",
                integers.scale, integers.zero
            ));
        }
        Ok(Tensor::View(integers.values.clone()))
    }

    /// `ConvInteger`: the sums of products of integers, zero points subtracted.
    pub(super) fn conv_integer(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let zero = self.zero(node, 2)?;
        let Integers { bytes, values, scale, zero: own, zero_byte } = self.integers(node)?.clone();
        if own != zero {
            return Err(format!("its zero point {zero} differs from QuantizeLinear's, {own}"));
        }
        let around = match Self::has(node, 3) {
            true => Some(self.constant(node, 3)?),
            false => None,
        };
        let integers = self.constant(node, 1)?;
        if let Some(weights) = whole(node, integers, around) {
            let factors = vec![1.0; weights.dims.first().copied().unwrap_or(0)];
            let sums = SumsLayer { zero: zero_byte, factors };
            return self.convolution(node, &bytes, &weights, None, Some(sums));
        }
        // The map holds values, each an integer times `scale`, and the results are sums of integers.
        let inverse = Constant::floats(vec![], vec![1.0 / scale]);
        let weights = dequantized(integers, &inverse, around, 0);
        let weights = weights.ok_or("its weights or their zero points are not integers")?;
        self.convolution(node, &values, &weights, None, None)
    }

    /// The integers behind a `Conv` of values and weights that both come from `DequantizeLinear`.
    pub(super) fn on_integers(&self, node: &NodeProto, view: &View) -> Option<OnIntegers> {
        let mut all = self.integers.values();
        let integers = all.find(|integers| integers.values.value == view.value)?;
        let source = self.dequantized.get(node.input.get(1)?)?;
        let around = match Self::has(source, 2) {
            true => Some(self.constant(source, 2).ok()?),
            false => None,
        };
        let scale = self.constant(source, 1).ok()?;
        let weights = whole(node, self.constant(source, 0).ok()?, around)?;
        let outputs = *weights.dims.first()?;
        let axis = Attributes(source).int("axis", 1);
        let by_output = matches!(axis, 0 | -4) && scale.len() == outputs;
        let is_single = scale.len() == 1;
        if !(by_output || is_single) {
            return None;
        }
        let scales = scale.to_floats().into_iter().cycle().take(outputs);
        let factors: Vec<f32> = scales.map(|scale| scale * integers.scale).collect();
        let is_sound = factors.iter().all(|factor| factor.is_finite() && *factor > 0.0);
        let sums = SumsLayer { zero: integers.zero_byte, factors };
        let bytes = View { value: integers.bytes.value, ..view.clone() };
        is_sound.then_some((bytes, weights, sums))
    }

    fn integers(&self, node: &NodeProto) -> Result<&Integers, Refused> {
        let name = node.input.first().map(String::as_str).unwrap_or_default();
        let integers = self.integers.get(name);
        integers.ok_or_else(|| format!("its input `{name}` is not from QuantizeLinear"))
    }

    /// A single positive scale.
    fn scale(&self, node: &NodeProto, index: usize) -> Result<f32, Refused> {
        let scale = self.constant(node, index)?.single();
        let scale = scale.ok_or("it has several scales for one map")?;
        if scale.is_normal() && scale > 0.0 {
            return Ok(scale);
        }
        Err(format!("its scale is {scale}"))
    }

    /// A single zero point; 0 if it is left out.
    fn zero(&self, node: &NodeProto, index: usize) -> Result<f32, Refused> {
        match self.maybe_floats(node, index)?.as_deref() {
            None => Ok(0.0),
            Some([zero]) => Ok(*zero),
            Some(_) => Err("it has several zero points for one map".to_owned()),
        }
    }
}

/// The weights of a convolution minus their zero points, if it has no groups, all are of eight bits, and the
/// sums are of 32.
fn whole(node: &NodeProto, integers: &Constant, around: Option<&Constant>) -> Option<Constant> {
    let products: usize = integers.dims.iter().skip(1).product();
    if Attributes(node).int("group", 1) != 1 || products > MOST_PRODUCTS {
        return None;
    }
    let weights = dequantized(integers, &Constant::floats(vec![], vec![1.0]), around, 0)?;
    let fits = |weight: &f32| (-128.0..=127.0).contains(weight);
    weights.to_floats().iter().all(fits).then_some(weights)
}

/// `scale · (integer − zero)`, with one scale and zero point, or one for each index of `axis`. `None` if the
/// shapes do not fit or the integers are none.
pub(super) fn dequantized(
    integers: &Constant,
    scale: &Constant,
    zero: Option<&Constant>,
    axis: usize,
) -> Option<Constant> {
    let channels = integers.dims.get(axis).copied().unwrap_or(1);
    let inner: usize = integers.dims.iter().skip(axis + 1).product();
    let fits = |constant: &Constant| constant.len() == 1 || constant.dims == [channels];
    if !fits(scale) || !zero.is_none_or(fits) {
        return None;
    }
    let scales = scale.to_floats();
    let zeros = match zero {
        Some(zero) => zero.as_ints()?.to_vec(),
        None => vec![0],
    };
    let mut is_half = true;
    let value = |(index, integer): (usize, &i64)| {
        let channel = index / inner % channels;
        let (scale, zero) = (scales[channel % scales.len()], zeros[channel % zeros.len()]);
        let whole = integer - zero;
        is_half &= whole.unsigned_abs() <= Constant::MOST_HALVED;
        whole as f32 * scale
    };
    let values = integers.as_ints()?.iter().enumerate().map(value).collect();
    Some(Constant { is_half, ..Constant::floats(integers.dims.clone(), values) })
}
