//! Computes nodes whose inputs are all constants (or shapes) while packing.

use rten_onnx::onnx::NodeProto;

use super::super::constant::{Constant, Data, resolve};
use super::super::source::{Attributes, attribute_tensor};
use super::{Lowerer, Refused, Tensor};

impl Lowerer {
    /// The node's value, or `None` if it depends on the model's input.
    pub(super) fn fold(&self, node: &NodeProto) -> Result<Option<Constant>, Refused> {
        let attributes = Attributes(node);
        match node.op_type.as_deref().unwrap_or_default() {
            "Constant" => return literal(node).map(Some),
            "Shape" => {
                let dims = match self.tensor(node, 0)? {
                    // The border that pends belongs to the dimensions.
                    Tensor::View(view) if view.pads != [0; 4] => return Ok(None),
                    Tensor::View(view) => view.dims(),
                    Tensor::Scores(scores) => scores.dims(),
                    Tensor::Dynamic(_) => return Ok(None),
                    Tensor::Grouped(grouped) => grouped.dims(),
                    Tensor::Cut(cut) => cut.dims(),
                    Tensor::Constant(constant) => constant.dims.clone(),
                };
                let dims: Vec<i64> = dims.into_iter().map(|d| d as i64).collect();
                let whole = Constant::ints(vec![dims.len()], dims);
                let (start, end) = (attributes.int("start", 0), attributes.int("end", i64::MAX));
                return Ok(whole.slice(start, end));
            }
            _ => {}
        }
        let inputs: Option<Vec<&Constant>> = node
            .input
            .iter()
            .filter(|name| !name.is_empty())
            .map(|name| match self.tensors.get(name) {
                Some(Tensor::Constant(constant)) => Some(constant),
                _ => None,
            })
            .collect();
        match inputs {
            Some(inputs) if !inputs.is_empty() => {
                let value = compute(node, &inputs);
                value.map(Some).ok_or_else(|| "it cannot be computed from constants".to_owned())
            }
            _ => Ok(None),
        }
    }
}

fn literal(node: &NodeProto) -> Result<Constant, Refused> {
    let attributes = Attributes(node);
    if let Some(tensor) = attributes.attribute("value") {
        return attribute_tensor(tensor, "value").map_err(|e| e.to_string());
    }
    if let Some(value) = attributes.maybe_float("value_float") {
        return Ok(Constant::floats(vec![], vec![value]));
    }
    if let Some(ints) = attributes.ints("value_ints") {
        return Ok(Constant::ints(vec![ints.len()], ints.to_vec()));
    }
    if let Some(attribute) = attributes.attribute("value_floats") {
        return Ok(Constant::floats(vec![attribute.floats.len()], attribute.floats.clone()));
    }
    match attributes.attribute("value_int").and_then(|a| a.i) {
        Some(value) => Ok(Constant::ints(vec![], vec![value])),
        None => Err("its value has an unsupported kind".to_owned()),
    }
}

fn compute(node: &NodeProto, inputs: &[&Constant]) -> Option<Constant> {
    let attributes = Attributes(node);
    let (a, b) = (*inputs.first()?, inputs.get(1).copied());
    let axis = |default: i64, rank: usize| {
        let axis = attributes.int("axis", default);
        usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()
    };
    match node.op_type.as_deref()? {
        "Identity" | "Dropout" => Some(a.clone()),
        "Cast" => Some(cast(a, attributes.int("to", 1))),
        "Add" => a.zip(b?, |x, y| x + y),
        "Sub" => a.zip(b?, |x, y| x - y),
        "Mul" => a.zip(b?, |x, y| x * y),
        "Div" if a.as_ints().is_some() => {
            a.zip(b?, |x, y| if y == 0.0 { 0.0 } else { (x / y).trunc() })
        }
        "Div" => a.zip(b?, |x, y| x / y),
        "Max" => a.zip(b?, f64::max),
        "Min" => a.zip(b?, f64::min),
        "Pow" => a.zip(b?, f64::powf),
        "Neg" => Some(a.map(|x| -x)),
        "Sqrt" => Some(a.map(f64::sqrt)),
        "Reciprocal" => Some(a.map(|x| 1.0 / x)),
        "Exp" => Some(a.map(f64::exp)),
        "MatMul" => a.product(b?),
        "Gemm" => gemm(&attributes, a, b?, inputs.get(2).copied()),
        "DequantizeLinear" if attributes.int("block_size", 0) == 0 => {
            super::quantized::dequantized(a, b?, inputs.get(2).copied(), axis(1, a.dims.len())?)
        }
        "Expand" => expanded(a, b?.as_ints()?),
        "Gather" => a.gather(b?, axis(0, a.dims.len())?),
        "Concat" => Constant::concat(inputs),
        "Reshape" => a.reshape(b?.as_ints()?),
        "Flatten" => {
            a.reshape(&[a.dims[..axis(1, a.dims.len())?].iter().product::<usize>() as i64, -1])
        }
        "Transpose" => {
            let perm = match attributes.ints("perm") {
                Some(perm) => {
                    perm.iter().map(|p| usize::try_from(*p).ok()).collect::<Option<Vec<_>>>()?
                }
                None => (0..a.dims.len()).rev().collect(),
            };
            a.transpose(&perm)
        }
        "Squeeze" | "Unsqueeze" => squeeze(node, a, b),
        "Slice" => slice(a, inputs),
        "ConstantOfShape" => {
            let dims = resolve(&[], a.as_ints()?)
                .or_else(|| a.as_ints()?.iter().map(|d| usize::try_from(*d).ok()).collect())?;
            let value = attributes.attribute("value");
            let value =
                value.and_then(|v| attribute_tensor(v, "value").ok()).and_then(|v| v.single());
            let count = dims.iter().product();
            Some(Constant::floats(dims, vec![value.unwrap_or(0.0); count]))
        }
        _ => None,
    }
}

/// Some elements of a list, each next one.
fn slice(a: &Constant, inputs: &[&Constant]) -> Option<Constant> {
    let bound = |index: usize| inputs.get(index)?.as_ints()?.first().copied();
    let steps = inputs.get(4).map_or(Some(&[1][..]), |steps| steps.as_ints())?;
    if steps == [1] { a.slice(bound(1)?, bound(2)?) } else { None }
}

/// `alpha · a · b + beta · c` of matrices, of which the first two may be transposed.
fn gemm(
    attributes: &Attributes<'_>,
    a: &Constant,
    b: &Constant,
    c: Option<&Constant>,
) -> Option<Constant> {
    let turned = |name: &str, x: &Constant| match attributes.int(name, 0) {
        0 => Some(x.clone()),
        _ => x.transpose(&[1, 0]),
    };
    let (alpha, beta) = (attributes.float("alpha", 1.0), attributes.float("beta", 1.0));
    let product = turned("transA", a)?.product(&turned("transB", b)?)?;
    let product = product.map(|x| x * f64::from(alpha));
    match c {
        Some(c) => product.zip(c, |x, y| x + f64::from(beta) * y),
        None => Some(product),
    }
}

/// A constant repeated to dimensions.
fn expanded(a: &Constant, dims: &[i64]) -> Option<Constant> {
    let dims = dims.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>()?;
    let count = dims.iter().product();
    a.zip(&Constant::floats(dims, vec![1.0; count]), |x, _| x)
}

fn cast(a: &Constant, to: i64) -> Constant {
    let data = match to {
        1 | 10 | 11 => Data::Float(a.to_floats()),
        _ => match &a.data {
            Data::Int(v) => Data::Int(v.clone()),
            Data::Float(v) => Data::Int(v.iter().map(|x| *x as i64).collect()),
        },
    };
    Constant { dims: a.dims.clone(), data, is_half: a.is_half }
}

/// Removes or adds axes of length one.
fn squeeze(node: &NodeProto, a: &Constant, axes: Option<&Constant>) -> Option<Constant> {
    let attribute = Attributes(node).ints("axes").map(<[i64]>::to_vec);
    let axes = attribute.or_else(|| axes.and_then(Constant::as_ints).map(<[i64]>::to_vec));
    let adds = node.op_type.as_deref() == Some("Unsqueeze");
    let dims = super::shapes::squeezed(&a.dims, axes.as_deref(), adds)?;
    Some(Constant { dims, data: a.data.clone(), is_half: a.is_half })
}
