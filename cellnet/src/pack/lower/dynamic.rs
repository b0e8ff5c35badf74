//! Dynamically quantized graphs: `DynamicQuantizeLinear`, products of its integers, and the scales after.
//!
//! The scale is known only when the network runs. A layer rounds the values to those that the bytes stand
//! for, `(byte − zero) · scale`, and everything up to the multiplication by the scale is computed on these: a
//! product of whole weights and `byte − zero` is the product of the values over the scale. Other operators on
//! such tensors are refused.

use rten_onnx::onnx::{DataType, NodeProto};

use super::super::constant::Constant;
use super::super::net::{Kind, ValueId};
use super::super::source::Attributes;
use super::super::view::View;
use super::quantized::dequantized;
use super::{Lowerer, Refused, Tensor};
use crate::plan::BinaryOp;

/// What a tensor is to a dynamic quantization.
#[derive(Debug, Clone)]
pub(super) struct Dynamic {
    /// The values that the quantization left, which names it.
    of: ValueId,
    part: Part,
}

#[derive(Debug, Clone)]
enum Part {
    /// The bytes of the quantized values.
    Bytes(View),
    /// Values over the scale: the bytes less the zero point, or products of these with constants.
    OverScale(View),
    Zero,
    /// The scale, times constants.
    Scale(Constant),
}

impl Lowerer {
    /// `DynamicQuantizeLinear`: its bytes, scale and zero point.
    pub(super) fn dynamic_quantize(&mut self, node: &NodeProto) -> Result<[Tensor; 3], Refused> {
        // Padding with zeros is left where it is: the bytes have one that stands for 0.
        let view = self.padded_view(node, 0)?;
        let kind = Kind::DynamicQuantize;
        let of = self.net.push(&super::label(node), kind, vec![view.value], view.shape);
        let values = View { value: of, ..view };
        let one = Constant::floats(vec![], vec![1.0]);
        let parts = [Part::Bytes(values), Part::Scale(one), Part::Zero];
        Ok(parts.map(|part| Tensor::Dynamic(Dynamic { of, part })))
    }

    /// The result of a node that reads such a tensor; `None` if this one does not.
    pub(super) fn on_dynamic(&mut self, node: &NodeProto) -> Result<Option<Tensor>, Refused> {
        let read = |name: &String| matches!(self.tensors.get(name), Some(Tensor::Dynamic(_)));
        if !node.input.iter().any(read) {
            return Ok(None);
        }
        let given = |i: usize| match self.tensor(node, i) {
            Ok(Tensor::Dynamic(dynamic)) => Some(dynamic.clone()),
            _ => None,
        };
        let of = [given(0), given(1), given(2)].into_iter().flatten().map(|d| d.of).next();
        let of = of.unwrap_or_default();
        let part = |i| given(i).filter(|dynamic| dynamic.of == of).map(|dynamic| dynamic.part);
        let op = node.op_type.as_deref().unwrap_or_default();
        let part = match (op, part(0), part(1), part(2)) {
            ("Cast", Some(part), ..) if to_float(node) => part,
            ("Sub", Some(Part::Bytes(values)), Some(Part::Zero), _) => Part::OverScale(values),
            ("DequantizeLinear", Some(Part::Bytes(values)), Some(Part::Scale(one)), zero)
                if one.single() == Some(1.0) && matches!(zero, Some(Part::Zero)) =>
            {
                return Ok(Some(Tensor::View(values)));
            }
            ("Conv" | "MatMul", Some(Part::OverScale(values)), None, None)
                if !Self::has(node, 2) =>
            {
                Part::OverScale(self.product_of(node, values, None)?)
            }
            (
                "ConvInteger" | "MatMulInteger",
                Some(Part::Bytes(values)),
                None,
                Some(Part::Zero),
            ) => {
                let weights = self.whole_weights(node)?;
                Part::OverScale(self.product_of(node, values, Some(weights))?)
            }
            ("Mul", Some(Part::Scale(scale)), None, _) => self.more(node, 1, &scale)?,
            ("Mul", None, Some(Part::Scale(scale)), _) => self.more(node, 0, &scale)?,
            ("Mul", Some(Part::OverScale(values)), Some(Part::Scale(scale)), _)
            | ("Mul", Some(Part::Scale(scale)), Some(Part::OverScale(values)), _) => {
                let sides = (Tensor::View(values), Tensor::Constant(scale));
                return self.apply(&super::label(node), BinaryOp::Mul, sides).map(Some);
            }
            _ => return Err("it reads a dynamic quantization otherwise than a product".to_owned()),
        };
        Ok(Some(Tensor::Dynamic(Dynamic { of, part })))
    }

    /// The scale times the constant input `index`.
    fn more(&self, node: &NodeProto, index: usize, scale: &Constant) -> Result<Part, Refused> {
        let product = self.constant(node, index)?.zip(scale, |a, b| a * b);
        product.map(Part::Scale).ok_or_else(|| "its constant does not fit the scale's".to_owned())
    }

    /// The weights of an integer product less their zero points.
    fn whole_weights(&self, node: &NodeProto) -> Result<Constant, Refused> {
        let around = match Self::has(node, 3) {
            true => Some(self.constant(node, 3)?),
            false => None,
        };
        let axis = if node.op_type.as_deref() == Some("ConvInteger") { 0 } else { 1 };
        let one = Constant::floats(vec![], vec![1.0]);
        let weights = dequantized(self.constant(node, 1)?, &one, around, axis);
        weights.ok_or_else(|| "its weights or their zero points are not integers".to_owned())
    }

    /// The product of `values` and the node's constant weights, or those given.
    fn product_of(
        &mut self,
        node: &NodeProto,
        values: View,
        weights: Option<Constant>,
    ) -> Result<View, Refused> {
        let mut node = node.clone();
        let weights = match weights {
            Some(weights) => weights,
            None => self.constant(&node, 1)?.clone().halved_if_whole(),
        };
        // Names of our own: no exporter writes a zero byte.
        let names = ["", "weights"].map(|which| format!("{}\0{which}", super::label(&node)));
        self.tensors.insert(names[0].clone(), Tensor::View(values));
        self.tensors.insert(names[1].clone(), Tensor::Constant(weights));
        node.input = names.to_vec();
        let product = match node.op_type.as_deref() {
            Some("Conv" | "ConvInteger") => self.conv(&node),
            _ => self.mat_mul(&node),
        };
        match product? {
            Tensor::View(view) => Ok(view),
            _ => Err("its product is of attention's scores".to_owned()),
        }
    }
}

fn to_float(node: &NodeProto) -> bool {
    Attributes(node).int("to", 0) == i64::from(DataType::FLOAT.0)
}
