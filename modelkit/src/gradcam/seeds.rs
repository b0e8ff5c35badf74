//! The seeds of the reverse pass: for each map the row of factors of the scores at which the pass begins.
//! There is one row for each class, or for each of the photo's likeliest classes.

use rten_onnx::onnx::{AttributeProto, DataType, NodeProto};
use skincell_vision::card::{Activation, Basis, Form, MapClasses, NOT_ASKED};

use super::closed::{Matrix, name};
use super::sheet::{Sheet, Val};
use crate::onnx::graph::{Graph, int_attribute, value_info};
use crate::scores::Scores;
use skincell_onnx::Constant;

/// Number of classes that get maps if maps of all classes cost too much.
pub(super) const LIKELIEST: usize = 10;

/// The seeds, `[rows, scores]`.
pub(super) struct Seeds {
    pub(super) matrix: Matrix,
    pub(super) rows: usize,
    pub(super) classes: MapClasses,
}

/// One row for each class.
pub(super) fn all(classes: usize) -> Seeds {
    Seeds { matrix: Matrix::Identity, rows: classes, classes: MapClasses::All }
}

/// One row for each of the likeliest classes. For the gradient of probabilities their rows of the
/// activation's Jacobian come first: for softmax `p_c·(Σ_{j≠c} p_j)` at the class and `−p_c·p_j` elsewhere.
///
/// # Errors
/// The reason why a step is impossible, as the end of a sentence.
pub(super) fn likeliest(
    graph: &mut Graph,
    scores: &Scores,
    classes: usize,
    basis: Basis,
) -> Result<Seeds, String> {
    let count = LIKELIEST.min(classes);
    let indices = top(graph, &scores.output, count);
    let sheet = &mut Sheet { graph };
    let (chosen, asked) = with_asked(sheet, &indices, count)?;
    let whole = sheet.call("Cast", &[&chosen], to(DataType::INT64), &[1, count]);
    let column = sheet.reshape(&whole, &[count, 1]);
    let row: Vec<i64> = (0..).take(classes).collect();
    let row = sheet.constant(Constant { dims: vec![1, classes], ..Constant::i64_list(&row) });
    let hit = sheet.call("Equal", &[&column, &row], vec![], &[count, classes]);
    let own = sheet.call("Cast", &[&hit], to(DataType::FLOAT), &[count, classes]);
    let mut parts = Vec::new();
    if let (Some(logits), Basis::Probability) = (&scores.logits, basis) {
        let p = if scores.form == Form::Probabilities {
            Val::new(&scores.output, &[1, classes])
        } else {
            let logits = Val::new(logits, &[1, classes]);
            let (operator, attributes) = match scores.activation {
                Activation::Softmax => ("Softmax", vec![int_attribute("axis", 1)]),
                Activation::Sigmoid => ("Sigmoid", vec![]),
            };
            sheet.call(operator, &[&logits], attributes, &[1, classes])
        };
        parts.push(jacobian(sheet, &own, &p, scores.activation)?);
    }
    parts.push(own);
    let rows = sheet.concat(&parts, 0);
    let output = sheet.graph.emit("cam_classes", "Identity", &[&chosen.name], vec![]);
    sheet.graph.outputs.push(value_info(&output, &[1, count]));
    let number = u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Seeds {
        rows: rows.side(0),
        matrix: Matrix::Held { name: rows.name, transposed: false },
        classes: MapClasses::Likeliest { count: number, output, asked: Some(asked) },
    })
}

fn to(dtype: DataType) -> Vec<AttributeProto> {
    vec![int_attribute("to", i64::from(dtype.0))]
}

/// The likeliest classes as float32, `[1, count]`. The last of them is replaced by the class a request asks
/// for, if that is not among them.
///
/// Also returns the name of the constant `[1, 1]` with the index asked for. It is [`NOT_ASKED`] until
/// `prepare` makes it an input.
fn with_asked(sheet: &mut Sheet, indices: &Val, count: usize) -> Result<(Val, String), String> {
    let top = sheet.call("Cast", &[indices], to(DataType::FLOAT), &[1, count]);
    let name = sheet.graph.add_constant("cam_class", Constant::f32(&[1, 1], &[NOT_ASKED]));
    let asked = Val::new(&name, &[1, 1]);
    let whole = sheet.call("Cast", &[&asked], to(DataType::INT64), &[1, 1]);
    let same = sheet.call("Equal", &[indices, &whole], vec![], &[1, count]);
    let same = sheet.call("Cast", &[&same], to(DataType::FLOAT), &[1, count]);
    let listed = sheet.sum(&same, &[1]);
    let none = sheet.constant(Constant::f32(&[1, 1], &[NOT_ASKED / 2.0]));
    let said = sheet.call("Greater", &[&asked, &none], vec![], &[1, 1]);
    let said = sheet.call("Cast", &[&said], to(DataType::FLOAT), &[1, 1]);
    let known = sheet.binary("Mul", &said, &listed)?;
    let new = sheet.binary("Sub", &said, &known)?;
    let mut last = vec![0.0; count];
    last.iter_mut().skip(count - 1).for_each(|place| *place = 1.0);
    let last = sheet.constant(Constant::f32(&[1, count], &last));
    let place = sheet.binary("Mul", &last, &new)?;
    let apart = sheet.binary("Sub", &asked, &top)?;
    let moved = sheet.binary("Mul", &apart, &place)?;
    Ok((sheet.binary("Add", &top, &moved)?, name))
}

/// `∂p_c/∂logit_j` for the classes c of `own`, `[count, classes]` with a 1 at each class. For softmax `1 −
/// p_c` is computed as a sum, because the difference loses its digits if p_c is nearly 1.
fn jacobian(sheet: &mut Sheet, own: &Val, p: &Val, activation: Activation) -> Result<Val, String> {
    let negative = sheet.times(own, -1.0);
    let rest = sheet.plus(&negative, 1.0);
    let mine = sheet.binary("Mul", own, p)?;
    if activation == Activation::Sigmoid {
        let below = sheet.times(p, -1.0);
        let below = sheet.plus(&below, 1.0);
        return sheet.binary("Mul", &mine, &below);
    }
    let others = sheet.binary("Mul", &rest, p)?;
    let (mine, sum) = (sheet.sum(&mine, &[1]), sheet.sum(&others, &[1]));
    let diagonal = sheet.binary("Mul", own, &sum)?;
    let row = sheet.binary("Sub", &diagonal, &others)?;
    sheet.binary("Mul", &row, &mine)
}

/// Indices of the largest scores, `[1, count]`, largest first.
fn top(graph: &mut Graph, scores: &str, count: usize) -> Val {
    let number = Constant::i64_list(&[i64::try_from(count).unwrap_or(i64::MAX)]);
    let number = graph.add_constant(&name("count"), number);
    let (values, indices) = (graph.fresh(&name("top")), graph.fresh(&name("top_indices")));
    graph.nodes.push(NodeProto {
        name: Some(values.clone()),
        op_type: Some("TopK".to_owned()),
        input: vec![scores.to_owned(), number],
        output: vec![values, indices],
        attribute: vec![int_attribute("axis", 1)],
        domain: None,
    });
    let indices = graph.nodes.last().and_then(|n| n.output.get(1)).cloned().unwrap_or_default();
    Val::new(&indices, &[1, count])
}
