//! Assembles the Grad-CAM output: the gradients found by `reverse`, times the forward derivatives of
//! `tangent`, summed over the places, give the weights α; their product with the target map is the output.

use super::closed::{self, Diagonal, Matrix, channel_shape, name, reshape};
use super::reverse::Vjp;
use super::sheet::{Sheet, Val};
use super::tangent::{self, Tangent};
use super::tokens::Tokens;
use super::{Chosen, bias};
use crate::onnx::graph::{Graph, int_attribute, ints_attribute};
use skincell_onnx::Constant;
use skincell_vision::card::Target;

/// A summand of α: `matrix[c, k] · factor[k]`.
pub(super) struct Part {
    pub(super) matrix: Matrix,
    factor: Diagonal,
    /// Number of axes of the factor and index of its channels' axis; the other axes have length 1.
    axes: (usize, usize),
}

/// The summand from a gradient at the target that is already summed over the places.
pub(super) fn summed(graph: &mut Graph, gradient: &Val, channels: usize, axis: usize) -> Part {
    let seeds = gradient.side(0);
    let sheet = &mut Sheet { graph };
    let mut dims = vec![seeds];
    dims.extend(channel_shape(gradient.dims.len() - 1, axis, channels));
    let flat = sheet.expand(gradient, &dims);
    let flat = sheet.reshape(&flat, &[seeds, channels]);
    let matrix = Matrix::Held { name: flat.name, transposed: false };
    Part { matrix, factor: Diagonal::One, axes: (gradient.dims.len() - 1, axis) }
}

/// The summand from one value at the end of the region: its gradient times its derivative with respect to the
/// target, summed over the places.
pub(super) fn part(
    graph: &mut Graph,
    vjp: Vjp,
    tangent: &Tangent,
    shape: &[usize],
    channels: usize,
) -> Result<Part, String> {
    let (axis, from, rank) = (tangent.axis, tangent.from, shape.len());
    let all = shape.get(axis).copied().unwrap_or(1);
    let places = shape.iter().product::<usize>() / all.max(1);
    let mut own = shape.to_vec();
    own[axis] = channels;
    match vjp {
        Vjp::Closed(closed) if closed.axis == axis => {
            let cut = all != channels;
            let matrix = if cut {
                closed.matrix.columns(from, from + channels, graph)
            } else {
                Some(closed.matrix)
            };
            let matrix =
                matrix.ok_or("its channels are classes, and only a part of them is shown")?;
            let diagonal = match closed.diagonal {
                Diagonal::Channels(list) if cut && list.len() > 1 => {
                    Diagonal::Channels(list.get(from..from + channels).unwrap_or_default().to_vec())
                }
                Diagonal::Value(value) if cut => {
                    Diagonal::Value(closed::slice_value(graph, &value, axis, from, from + channels))
                }
                other => other,
            };
            let factor = diagonal.times(&tangent.factor, graph, rank, axis);
            let factor = tangent::summed(graph, &factor, &own, axis, places);
            Ok(Part { matrix, factor, axes: (rank, axis) })
        }
        Vjp::Closed(_) => Err("its channels lie along another axis".to_owned()),
        Vjp::Full(gradient) => {
            let sheet = &mut Sheet { graph };
            let gradient = of_channels(sheet, gradient, axis + 1, (from, channels));
            let gradient = match &tangent.factor {
                Diagonal::One => gradient,
                factor => {
                    let dims = match factor {
                        Diagonal::Channels(list) => channel_shape(rank, axis, list.len()),
                        _ => own.clone(),
                    };
                    let name = factor.held(sheet.graph, rank, axis).unwrap_or_default();
                    sheet.binary("Mul", &gradient, &Val { name, dims })?
                }
            };
            let others: Vec<usize> = (0..rank).filter(|a| *a != axis).collect();
            let alike: usize =
                others.iter().filter(|a| gradient.side(**a + 1) == 1).map(|a| own[*a]).product();
            let axes: Vec<usize> = others.iter().map(|a| a + 1).collect();
            let sum = sheet.sum(&gradient, &axes);
            let sum = sheet.times(&sum, alike as f32);
            let seeds = sum.side(0);
            let mut dims = vec![seeds];
            dims.extend(channel_shape(rank, axis, channels));
            let sum = sheet.expand(&sum, &dims);
            let flat = sheet.reshape(&sum, &[seeds, channels]);
            let matrix = Matrix::Held { name: flat.name, transposed: false };
            Ok(Part { matrix, factor: Diagonal::One, axes: (rank, axis) })
        }
    }
}

/// The part of a gradient that belongs to the channels shown. One that is the same for all has only one.
fn of_channels(sheet: &mut Sheet, all: Val, axis: usize, (from, count): (usize, usize)) -> Val {
    if all.side(axis) == 1 { all } else { sheet.slice(&all, axis, (from, 1, count)) }
}

/// The sum of all summands.
pub(super) fn joined(graph: &mut Graph, parts: Vec<Part>) -> Result<Part, String> {
    let mut parts = parts.into_iter();
    let mut sum = parts.next().ok_or("it does not reach the scores")?;
    for other in parts {
        if sum.matrix == other.matrix {
            let rank = 2;
            if let (Diagonal::One | Diagonal::Channels(_), Diagonal::One | Diagonal::Channels(_)) =
                (&sum.factor, &other.factor)
            {
                sum.factor = sum.factor.plus(&other.factor, graph, rank, 1);
                continue;
            }
        }
        let scaled = sum.matrix.scaled(&sum.factor, graph);
        let more = other.matrix.scaled(&other.factor, graph);
        let both = scaled.zip(more).and_then(|(a, b)| a.plus(&b, graph));
        let matrix = both.ok_or("two paths lead from it to each class")?;
        sum = Part { matrix, factor: Diagonal::One, axes: sum.axes };
    }
    Ok(sum)
}

/// The dimensions of the map of one photo.
pub(super) struct Map {
    pub(super) axis: usize,
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// The tokens, if the map is a sequence.
    tokens: Option<Tokens>,
}

impl Map {
    pub(super) fn new(shape: &[usize], axis: usize, tokens: Option<Tokens>) -> Option<Self> {
        let (channels, height, width) = match (shape, tokens) {
            (&[1, channels, height, width], None) if axis == 1 => (channels, height, width),
            (&[1, height, width, channels], None) if axis == 3 => (channels, height, width),
            (&[_, _, _], Some(Tokens { height, width, .. })) => (shape[axis], height, width),
            _ => return None,
        };
        Some(Self { axis, channels, height, width, tokens })
    }
}

/// Emits `Σ_k matrix[c, k] · value_k` as `[1, classes, h, w]`.
pub(super) fn product(
    graph: &mut Graph,
    value: &str,
    matrix: &Matrix,
    map: &Map,
    classes: usize,
) -> String {
    let int = |side: usize| i64::try_from(side).unwrap_or(i64::MAX);
    let last = map.tokens.map_or(map.axis == 3, |tokens| map.axis > tokens.axis);
    let value = &match map.tokens {
        None => value.to_owned(),
        Some(Tokens { axis, from, height, width }) => {
            let (from, to) = (from, from + height * width);
            closed::slice_value(graph, value, axis, from, to)
        }
    };
    let maps = match matrix {
        Matrix::Identity if last => {
            let perm: &[i64] = match map.tokens {
                None => &[0, 3, 1, 2],
                Some(Tokens { axis: 0, .. }) => &[1, 2, 0],
                Some(_) => &[0, 2, 1],
            };
            let perm = vec![ints_attribute("perm", perm)];
            graph.emit(&name("maps"), "Transpose", &[value], perm)
        }
        Matrix::Identity => value.to_owned(),
        Matrix::Held { name: held, transposed } => {
            let places = int(map.height * map.width);
            let channels = int(map.channels);
            let shape = if last { [places, channels] } else { [channels, places] };
            let flat = reshape(graph, "flat", value, &shape);
            let flips = vec![
                int_attribute("transA", i64::from(*transposed)),
                int_attribute("transB", i64::from(last)),
            ];
            graph.emit(&name("maps"), "Gemm", &[held, &flat], flips)
        }
    };
    let shape = [1, int(classes), int(map.height), int(map.width)];
    let shape = graph.add_constant(&name("shape"), Constant::i64_list(&shape));
    graph.emit("cam", "Reshape", &[&maps, &shape], vec![])
}

/// Emits the target map, minus the bias of a folded batch norm, times the factor of each channel.
pub(super) fn shown(
    graph: &mut Graph,
    chosen: &Chosen,
    source: &bias::Source,
    part: &Part,
    map: &Map,
    rank: usize,
) -> String {
    let mut value = chosen.value.clone();
    let bias = (chosen.target == Target::Conv).then(|| source.bias()).flatten();
    if let Some(bias) = bias.filter(|b| b.iter().any(|v| *v != 0.0)) {
        let shape = channel_shape(rank, map.axis, bias.len());
        let bias = graph.add_constant(&name("bias"), Constant::f32(&shape, &bias));
        value = graph.emit(&name("raw"), "Sub", &[&value, &bias], vec![]);
    }
    let factor = match part.factor.clone() {
        Diagonal::Value(factor) if part.axes != (rank, map.axis) => {
            let row = channel_shape(rank, map.axis, map.channels);
            let row: Vec<i64> = row.iter().filter_map(|s| i64::try_from(*s).ok()).collect();
            Diagonal::Value(reshape(graph, "factor", &factor, &row))
        }
        factor => factor,
    };
    if let Some(factor) = factor.held(graph, rank, map.axis) {
        value = graph.emit(&name("weighted"), "Mul", &[&value, &factor], vec![]);
    }
    value
}
