//! Reverse-mode differentiation of a classifier's head, from the scores back to its maps.
//!
//! The nodes that depend on the target are visited in reverse order. The rule of each operator takes the
//! gradient with respect to the node's output (its vjp) and returns the gradients with respect to its
//! inputs. The rules emit ordinary forward operators that read the values of the same run, so the result is
//! valid for any photo.
//!
//! An operator that keeps the closed form of `closed` uses a rule of `rules`, all others use `general`. An
//! operator without a rule ends the pass with an error that names it.

use std::collections::{HashMap, HashSet};

use rten_onnx::onnx::NodeProto;

use super::axes::{flows, taken};
use super::closed::{Closed, Diagonal, Matrix, channel_shape, name};
use super::general::{self, Context, sum_of};
use super::refusal::{Reason, Refusal};
use super::sheet::{Sheet, Val};
use super::tangent::Region;
use super::tokens::Span;
use crate::onnx::graph::{Graph, broadcast, input, int, op, output};
use skincell_onnx::Constant;

/// Shapes of the values between the target and the logits, for one photo.
pub(crate) type Shapes = HashMap<String, Vec<usize>>;

/// ∂scores/∂t for a tensor t: one vector-Jacobian product for each seed.
#[derive(Debug, Clone)]
pub(super) enum Vjp {
    /// In closed form: a matrix and a diagonal.
    Closed(Closed),
    /// As a tensor `[S, axes of t]`, see `sheet`.
    Full(Val),
}

/// The nodes that depend on `target` and on which `logits` depend, in the graph's order.
pub(crate) fn between(graph: &Graph, target: &str, logits: &str) -> Vec<usize> {
    let mut depends: HashSet<&str> = HashSet::from([target]);
    let mut after = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        if flows(node).into_iter().any(|value| depends.contains(value)) {
            after[index] = true;
            depends.extend(node.output.iter().map(String::as_str));
        }
    }
    let mut needed: HashSet<&str> = HashSet::from([logits]);
    let mut indices = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        if after[index] && node.output.iter().any(|o| needed.contains(o.as_str())) {
            needed.extend(flows(node));
            indices.push(index);
        }
    }
    indices.reverse();
    indices
}

/// Runs the reverse pass over `path`, the nodes of [`between`], and returns the vjps of the values of
/// `region` and of `summed` that later nodes read.
///
/// The pass starts at the value `from` with the matrix `start`, one row for each of the `seeds`. `summed` has
/// the values whose gradient is needed only as a sum, as in [`Step`].
///
/// # Errors
/// [`Refusal`] with the operator nearest to the scores that has no rule.
pub(super) fn walk(
    graph: &mut Graph,
    shapes: &Shapes,
    path: &[NodeProto],
    region: &Region,
    summed: &HashMap<String, Span>,
    (from, start, seeds): (&str, Matrix, usize),
) -> Result<HashMap<String, Vjp>, Refusal> {
    let mut relevant: HashSet<String> = region.tangents.keys().cloned().collect();
    relevant.extend(path.iter().flat_map(|n| n.output.iter().cloned()));
    let start = Closed { matrix: start, diagonal: Diagonal::One, axis: 1 };
    let mut vjps = HashMap::from([(from.to_owned(), Vjp::Closed(start))]);
    let mut step =
        Step { graph, shapes, relevant: &relevant, region, summed, inside: false, seeds };
    for node in path.iter().rev().filter(|n| !region.nodes.contains(output(n))) {
        let several = node.output.iter().skip(1).any(|o| vjps.contains_key(o));
        step.inside = node.output.iter().any(|o| summed.contains_key(o));
        let found = if let Some(passed) = step.places_taken(node, &mut vjps) {
            vec![passed]
        } else if several || op(node) == "Split" {
            let parts: Vec<_> = node.output.iter().map(|o| vjps.remove(o)).collect();
            step.split(node, parts).map_err(|why| Refusal::at(node, why))?
        } else {
            let Some(vjp) = vjps.remove(output(node)) else { continue };
            step.apply(node, vjp).map_err(|why| Refusal::at(node, why))?
        };
        for (value, found) in found {
            let joined = match vjps.remove(&value) {
                None => found,
                Some(other) => {
                    step.join(&value, other, found).map_err(|why| Refusal::at(node, why))?
                }
            };
            vjps.insert(value, joined);
        }
    }
    vjps.retain(|value, _| region.tangents.contains_key(value) || summed.contains_key(value));
    Ok(vjps)
}

/// The state of the pass, used by the rules.
pub(super) struct Step<'a> {
    pub(super) graph: &'a mut Graph,
    pub(super) shapes: &'a Shapes,
    pub(super) relevant: &'a HashSet<String>,
    pub(super) region: &'a Region,
    /// Values whose gradient is needed only as a sum over the places along an axis.
    summed: &'a HashMap<String, Span>,
    /// Whether an output of the current node is such a value.
    inside: bool,
    /// Length of the axis of the seeds.
    seeds: usize,
}

impl<'a> Step<'a> {
    /// Applies the closed rule if possible, otherwise the general one.
    fn apply(&mut self, node: &NodeProto, y: Vjp) -> Result<Vec<(String, Vjp)>, Reason> {
        let (why, y) = match y {
            Vjp::Closed(y) => {
                let before = self.graph.nodes.len();
                let known = node.input.iter().all(|i| !self.summed.contains_key(i));
                match self.closed_rule(node, &y) {
                    Ok(found) if known => {
                        return Ok(found.into_iter().map(|(x, c)| (x, Vjp::Closed(c))).collect());
                    }
                    other => {
                        self.graph.nodes.truncate(before);
                        (other.err(), self.in_full(&y, output(node))?)
                    }
                }
            }
            Vjp::Full(y) => (None, y),
        };
        let view = self.view(node);
        let found = general::rule(self.graph, &view, node, &y)
            .map_err(|general| why.filter(|_| general != Reason::NoRule).unwrap_or(general))?;
        let summing = matches!(op(node), "MatMul" | "Gemm");
        found.into_iter().map(|(x, v)| Ok(self.settle(x, v, summing)?)).collect()
    }

    /// A selection of tokens: input and output need the same sum of the gradient over the tokens, so it is
    /// passed on.
    fn places_taken(
        &self,
        node: &NodeProto,
        vjps: &mut HashMap<String, Vjp>,
    ) -> Option<(String, Vjp)> {
        let x = input(node, 0).filter(|_| matches!(op(node), "Slice" | "Gather"))?;
        let span = self.summed.get(x).filter(|_| self.summed.contains_key(output(node)))?;
        let (along, _, drops) = taken(self.graph, node, self.shapes.get(x)?)?;
        (along == span.axis && !drops).then_some(())?;
        Some((x.to_owned(), vjps.remove(output(node))?))
    }

    fn view(&self, node: &NodeProto) -> View<'a> {
        let constants = &self.graph.constants;
        let held =
            node.input.iter().filter_map(|i| Some((i.clone(), constants.get(i)?.dims.clone())));
        View {
            shapes: self.shapes,
            relevant: self.relevant,
            summed: self.summed,
            inside: self.inside,
            constants: held.collect(),
        }
    }

    /// The shape of a value, with length 1 for an axis that is already summed.
    fn seen_shape(&self, value: &str) -> Result<Vec<usize>, String> {
        let mut shape = self.shape(value)?.to_vec();
        if let (true, Some(span)) = (self.inside, self.summed.get(value)) {
            shape[span.axis] = 1;
        }
        Ok(shape)
    }

    /// Sums the gradient if only the sum is needed, and returns to the closed form if only one axis is left.
    fn settle(&mut self, x: String, mut v: Val, summing: bool) -> Result<(String, Vjp), String> {
        if let (false, Some(span)) = (self.inside, self.summed.get(&x)) {
            // Products and joined gradients are already summed.
            if !summing {
                v = sum_of(&mut Sheet { graph: self.graph }, &v, span.axis + 1, *span);
            }
        }
        let long: Vec<usize> = (1..v.dims.len()).filter(|a| v.dims[*a] != 1).collect();
        let alone = !self.summed.contains_key(&x);
        if let (true, [axis]) = (alone, &long[..]) {
            let flat = Sheet { graph: self.graph }.reshape(&v, &[v.dims[0], v.dims[*axis]]);
            let matrix = Matrix::Held { name: flat.name, transposed: false };
            let closed = Closed { matrix, diagonal: Diagonal::One, axis: axis - 1 };
            return Ok((x, Vjp::Closed(closed)));
        }
        Ok((x, Vjp::Full(v)))
    }

    /// The closed form as a tensor.
    fn in_full(&mut self, y: &Closed, value: &str) -> Result<Val, String> {
        let shape = self.seen_shape(value)?;
        let side = shape.get(y.axis).copied().unwrap_or(1);
        let held = match y.matrix.rows(self.graph) {
            Some(held) => held,
            None => {
                let mut eye = vec![0.0; side * side];
                (0..side).for_each(|i| eye[i * side + i] = 1.0);
                self.graph.add_constant(&name("seeds"), Constant::f32(&[side, side], &eye))
            }
        };
        let mut dims = vec![self.seeds];
        dims.extend(channel_shape(shape.len(), y.axis, side));
        let sheet = &mut Sheet { graph: self.graph };
        let matrix = sheet.reshape(&Val::new(&held, &[self.seeds, side]), &dims);
        let factor = match &y.diagonal {
            Diagonal::One => return Ok(matrix),
            Diagonal::Channels(list) => {
                Val::new("", &channel_shape(shape.len(), y.axis, list.len()))
            }
            Diagonal::Value(_) => Val::new("", &shape),
        };
        let held = y.diagonal.held(self.graph, shape.len(), y.axis).unwrap_or_default();
        let dims = broadcast(&matrix.dims, &factor.dims).ok_or("its factor does not fit")?;
        let product =
            Sheet { graph: self.graph }.binary("Mul", &matrix, &Val { name: held, ..factor })?;
        // The factor's tensor may have fewer elements than its shape, so the product is expanded.
        Ok(match &y.diagonal {
            Diagonal::Value(_) => {
                let product = Val { dims: vec![0], ..product };
                Sheet { graph: self.graph }.expand(&product, &dims)
            }
            _ => product,
        })
    }

    /// The rule of a Split: the gradients of its outputs are concatenated.
    fn split(
        &mut self,
        node: &NodeProto,
        parts: Vec<Option<Vjp>>,
    ) -> Result<Vec<(String, Vjp)>, String> {
        if op(node) != "Split" {
            return Err("only its first output is supported".to_owned());
        }
        if parts.iter().all(Option::is_none) {
            return Ok(Vec::new());
        }
        let x = self.only_input(node)?;
        let rank = i64::try_from(self.shape(&x)?.len()).unwrap_or(0);
        let axis = int(node, "axis", 0);
        let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).unwrap_or(0);
        let mut held = Vec::new();
        for (value, part) in node.output.iter().zip(parts) {
            let mut dims = vec![self.seeds];
            dims.extend(self.seen_shape(value)?);
            let full = match part {
                Some(Vjp::Full(v)) => v,
                Some(Vjp::Closed(closed)) => self.in_full(&closed, value)?,
                None => {
                    let zero = self
                        .graph
                        .add_constant(&name("zero"), Constant::f32(&vec![1; dims.len()], &[0.0]));
                    Val::new(&zero, &vec![1; dims.len()])
                }
            };
            held.push(Sheet { graph: self.graph }.expand(&full, &dims));
        }
        let whole = Sheet { graph: self.graph }.concat(&held, axis + 1);
        Ok(vec![self.settle(x, whole, false)?])
    }

    /// The sum of the gradients of two paths from one tensor to the scores.
    fn join(&mut self, value: &str, a: Vjp, b: Vjp) -> Result<Vjp, String> {
        let rank = self.shape(value)?.len();
        if let (Vjp::Closed(a), Vjp::Closed(b)) = (&a, &b) {
            if a.matrix == b.matrix && a.axis == b.axis {
                let diagonal = a.diagonal.plus(&b.diagonal, self.graph, rank, a.axis);
                return Ok(Vjp::Closed(Closed { diagonal, ..a.clone() }));
            }
            let plain = |c: &Closed| !matches!(c.diagonal, Diagonal::Value(_));
            if a.axis == b.axis && plain(a) && plain(b) {
                let scaled = a.matrix.scaled(&a.diagonal, self.graph);
                let other = b.matrix.scaled(&b.diagonal, self.graph);
                let sum = scaled.zip(other).and_then(|(a, b)| a.plus(&b, self.graph));
                if let Some(matrix) = sum {
                    let diagonal = Diagonal::One;
                    return Ok(Vjp::Closed(Closed { matrix, diagonal, axis: a.axis }));
                }
            }
        }
        self.inside = self.summed.contains_key(value);
        let mut full = |vjp| match vjp {
            Vjp::Full(v) => Ok(v),
            Vjp::Closed(closed) => self.in_full(&closed, value),
        };
        let (a, b) = (full(a)?, full(b)?);
        let sum = Sheet { graph: self.graph }.binary("Add", &a, &b)?;
        let (_, sum) = self.settle(value.to_owned(), sum, true)?;
        Ok(sum)
    }
}

/// The part of the pass's state that the general rules use.
struct View<'a> {
    shapes: &'a Shapes,
    relevant: &'a HashSet<String>,
    summed: &'a HashMap<String, Span>,
    inside: bool,
    constants: HashMap<String, Vec<usize>>,
}

impl Context for View<'_> {
    fn shape(&self, value: &str) -> Result<Vec<usize>, String> {
        if let Some(dims) = self.constants.get(value) {
            return Ok(dims.clone());
        }
        let shape = self.shapes.get(value);
        let mut shape =
            shape.cloned().ok_or_else(|| format!("the shape of \"{value}\" is not known"))?;
        if let (true, Some(span)) = (self.inside, self.summed.get(value)) {
            shape[span.axis] = 1;
        }
        Ok(shape)
    }

    fn is_relevant(&self, value: &str) -> bool {
        self.relevant.contains(value)
    }

    fn summed(&self, value: &str) -> Option<Span> {
        self.summed.get(value).copied().filter(|_| !self.inside)
    }
}
