//! Forward-mode differentiation from the target map: the change of each later map if all places of a channel
//! of the target rise by 1.
//!
//! Grad-CAM weights a channel by its gradient summed over all places. Through operators that keep channels
//! apart (activations, batch norm, sums, pooling of any kind) this sum is the gradient after them times the
//! derivative computed here, summed over places. That derivative is one number for each place and needs no
//! axis of classes. The head after the pooling is differentiated by `reverse`. Pooling over windows and
//! borders are in `windows`.

use std::collections::{HashMap, HashSet};

use rten_onnx::onnx::NodeProto;

use super::axes::reduced_axes;
use super::closed::{Diagonal, channel_shape, mean_of_map, name, reshape, slice_value};
use super::derivative::{Derivative, derivative};
use super::general::winners;
use super::sheet::{Sheet, Val};
use crate::onnx::graph::{Graph, float, input, int, ints, ints_attribute, op, output};

/// How one value changes, element by element, if all places of a channel of the target rise by 1. Of the
/// value's axis `axis`, the channels `from..from + Step::channels` are the target's; the others do not
/// change.
#[derive(Debug, Clone)]
pub(super) struct Tangent {
    /// One factor for each place of the target's channels: 1, a number for each channel, or a tensor of the
    /// graph.
    pub(super) factor: Diagonal,
    /// The axis of the channels.
    pub(super) axis: usize,
    /// Index of the first channel that belongs to the target; channels of other inputs do not depend on it.
    pub(super) from: usize,
}

/// The part of the graph after the target that forward mode covers.
#[derive(Debug, Default)]
pub(super) struct Region {
    pub(super) tangents: HashMap<String, Tangent>,
    /// The covered nodes, by their first output.
    pub(super) nodes: HashSet<String>,
}

/// A region of the target alone.
pub(super) fn only(target: &str, axis: usize) -> Region {
    let start = Tangent { factor: Diagonal::One, axis, from: 0 };
    Region { tangents: HashMap::from([(target.to_owned(), start)]), ..Region::default() }
}

/// Follows the nodes of `path`, all of which come after the target, in order. A node that mixes channels, or
/// has no rule here, ends its branch: it gets no tangent, nor does anything behind it.
pub(super) fn spread(
    graph: &mut Graph,
    shapes: &HashMap<String, Vec<usize>>,
    path: &[NodeProto],
    target: &str,
    axis: usize,
) -> Region {
    let channels = shapes.get(target).and_then(|s| s.get(axis)).copied().unwrap_or(1);
    let mut region = only(target, axis);
    let mut depends: HashSet<&str> = HashSet::from([target]);
    for node in path {
        let relevant: Vec<&str> =
            node.input.iter().map(String::as_str).filter(|i| depends.contains(i)).collect();
        depends.extend(node.output.iter().map(String::as_str));
        // Has a tangent, and more than one place for each channel: behind the pooling `reverse` takes over.
        let is_map = |value: &&str| {
            let places = shapes.get(*value).map_or(0, |s| s.iter().product::<usize>());
            let all = shapes.get(*value).and_then(|s| s.get(region.tangents.get(*value)?.axis));
            all.is_some_and(|all| places > *all)
        };
        if !relevant.iter().all(is_map) || node.output.len() != 1 {
            continue;
        }
        let mut step = Step { graph, shapes, region: &region, channels };
        if let Some(tangent) = step.rule(node, &relevant) {
            region.tangents.insert(output(node).to_owned(), tangent);
            region.nodes.insert(output(node).to_owned());
        }
    }
    region
}

/// One node's turn: what its rule needs to know, and the graph to which it adds nodes.
pub(super) struct Step<'a> {
    pub(super) graph: &'a mut Graph,
    shapes: &'a HashMap<String, Vec<usize>>,
    region: &'a Region,
    /// Channels of the target.
    pub(super) channels: usize,
}

impl Step<'_> {
    /// The tangent of the node's output from those of its `relevant` inputs, which depend on the target;
    /// `None` if there is no rule for it.
    fn rule(&mut self, node: &NodeProto, relevant: &[&str]) -> Option<Tangent> {
        let x = *relevant.first()?;
        match op(node) {
            "Add" | "Sum" | "Sub" => self.add(node),
            "Mul" => self.mul(node),
            "Div" if input(node, 0) == Some(x) && relevant.len() == 1 => self.div(node, x),
            "BatchNormalization" => self.batch_norm(node, x),
            "Concat" => self.concat(node, relevant),
            "Transpose" => self.transpose(node, x),
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => self.reshaped(node, x),
            "GlobalAveragePool" | "ReduceMean" | "ReduceSum" => self.mean(node, x),
            "GlobalMaxPool" | "ReduceMax" => self.max(node, x),
            "AveragePool" => self.average_pool(node, x),
            "MaxPool" => self.max_pool(node, x),
            "Pad" if relevant.len() == 1 => self.pad(node, x),
            _ if relevant.len() == 1 && input(node, 0) == Some(x) => {
                let local = match derivative(self.graph, node)? {
                    Derivative::One => Diagonal::One,
                    Derivative::Value(value) => self.local(&value, x)?,
                };
                self.scaled(x, &local)
            }
            _ => None,
        }
    }

    pub(super) fn shape(&self, value: &str) -> Option<&Vec<usize>> {
        self.shapes.get(value)
    }

    pub(super) fn tangent(&self, value: &str) -> Option<&Tangent> {
        self.region.tangents.get(value)
    }

    /// The part of a factor for the whole value x that belongs to the target's channels.
    fn part(&mut self, factor: Diagonal, x: &str) -> Option<Diagonal> {
        let tangent = self.tangent(x)?.clone();
        let all = *self.shape(x)?.get(tangent.axis)?;
        let (from, to) = (tangent.from, tangent.from + self.channels);
        Some(match factor {
            Diagonal::Channels(list) if list.len() > 1 => {
                Diagonal::Channels(list.get(from..to)?.to_vec())
            }
            Diagonal::Value(value) if all != self.channels => {
                Diagonal::Value(slice_value(self.graph, &value, tangent.axis, from, to))
            }
            other => other,
        })
    }

    /// A value as a factor for x, to which it broadcasts.
    fn local(&mut self, value: &str, x: &str) -> Option<Diagonal> {
        let Some(tensor) = self.graph.constants.get(value) else {
            // An added value has the shape of x; a value of the original graph may broadcast.
            let whole = self.shapes.get(value).is_none_or(|s| Some(s) == self.shapes.get(x));
            return whole.then(|| Diagonal::Value(value.to_owned()));
        };
        let (shape, axis) = (self.shape(x)?, self.tangent(x)?.axis);
        let values = tensor.to_f32()?;
        let lacking = shape.len().checked_sub(tensor.dims.len())?;
        let mut padded = vec![1; lacking];
        padded.extend(&tensor.dims);
        let listed = padded == channel_shape(shape.len(), axis, *shape.get(axis)?);
        if values.len() == 1 || listed {
            return Some(Diagonal::Channels(values));
        }
        (padded == *shape).then(|| Diagonal::Value(value.to_owned()))
    }

    /// The tangent of x times a factor for the whole of x.
    fn scaled(&mut self, x: &str, factor: &Diagonal) -> Option<Tangent> {
        let factor = self.part(factor.clone(), x)?;
        let (tangent, rank) = (self.tangent(x)?.clone(), self.shape(x)?.len());
        let factor = tangent.factor.times(&factor, self.graph, rank, tangent.axis);
        Some(Tangent { factor, ..tangent })
    }

    fn sum(&mut self, parts: Vec<Tangent>, rank: usize) -> Option<Tangent> {
        let mut parts = parts.into_iter();
        let mut sum = parts.next()?;
        for part in parts {
            if (part.axis, part.from) != (sum.axis, sum.from) {
                return None;
            }
            sum.factor = sum.factor.plus(&part.factor, self.graph, rank, sum.axis);
        }
        Some(sum)
    }

    fn add(&mut self, node: &NodeProto) -> Option<Tangent> {
        let shape = self.shape(output(node))?.clone();
        let mut parts = Vec::new();
        for (index, x) in node.input.iter().enumerate() {
            if self.tangent(x).is_some() {
                if *self.shape(x)? != shape {
                    return None;
                }
                let sign = if op(node) == "Sub" && index == 1 {
                    Diagonal::Channels(vec![-1.0])
                } else {
                    Diagonal::One
                };
                parts.push(self.scaled(x, &sign)?);
            }
        }
        self.sum(parts, shape.len())
    }

    fn mul(&mut self, node: &NodeProto) -> Option<Tangent> {
        let [a, b] = &node.input[..] else { return None };
        let shape = self.shape(output(node))?.clone();
        let mut parts = Vec::new();
        for (x, other) in [(a, b), (b, a)] {
            if self.tangent(x).is_some() {
                if *self.shape(x)? != shape {
                    return None;
                }
                let factor = self.local(other, x)?;
                parts.push(self.scaled(x, &factor)?);
            }
        }
        self.sum(parts, shape.len())
    }

    fn div(&mut self, node: &NodeProto, x: &str) -> Option<Tangent> {
        if self.shape(x)? != self.shape(output(node))? {
            return None;
        }
        let factor = match self.local(input(node, 1)?, x)? {
            Diagonal::Value(value) => {
                Diagonal::Value(self.graph.emit(&name("factor"), "Reciprocal", &[&value], vec![]))
            }
            Diagonal::Channels(list) => Diagonal::Channels(list.iter().map(|v| 1.0 / v).collect()),
            Diagonal::One => Diagonal::One,
        };
        self.scaled(x, &factor)
    }

    fn batch_norm(&mut self, node: &NodeProto, x: &str) -> Option<Tangent> {
        let list = |index| self.graph.constants.get(input(node, index)?)?.to_f32();
        let (gamma, variance) = (list(1)?, list(4)?);
        let epsilon = float(node, "epsilon", 1e-5);
        let factors = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt());
        let factors = Diagonal::Channels(factors.collect());
        (self.tangent(x)?.axis == 1).then(|| self.scaled(x, &factors))?
    }

    /// A concatenation with channels that do not depend on the target.
    fn concat(&mut self, node: &NodeProto, relevant: &[&str]) -> Option<Tangent> {
        let [x] = relevant else { return None };
        let tangent = self.tangent(x)?.clone();
        let rank = i64::try_from(self.shape(x)?.len()).ok()?;
        let axis = int(node, "axis", 0);
        if usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()? != tangent.axis {
            return None;
        }
        let before = node.input.iter().take_while(|i| i.as_str() != *x);
        let sides = before.map(|i| {
            let constant = self.graph.constants.get(i).map(|t| t.dims.clone());
            constant.or_else(|| self.shape(i).cloned())?.get(tangent.axis).copied()
        });
        let from = sides.sum::<Option<usize>>()? + tangent.from;
        Some(Tangent { from, ..tangent })
    }

    fn transpose(&mut self, node: &NodeProto, x: &str) -> Option<Tangent> {
        let (tangent, rank) = (self.tangent(x)?.clone(), self.shape(x)?.len());
        let perm: Vec<i64> = match ints(node, "perm") {
            Some(perm) => perm.to_vec(),
            None => (0..i64::try_from(rank).ok()?).rev().collect(),
        };
        let axis = perm.iter().position(|p| usize::try_from(*p).ok() == Some(tangent.axis))?;
        let factor = match tangent.factor {
            Diagonal::Value(value) => {
                let perm = vec![ints_attribute("perm", &perm)];
                Diagonal::Value(self.graph.emit(&name("derivative"), "Transpose", &[&value], perm))
            }
            other => other,
        };
        Some(Tangent { factor, axis, ..tangent })
    }

    /// A reshape in which the channels keep an axis of their own.
    fn reshaped(&mut self, node: &NodeProto, x: &str) -> Option<Tangent> {
        let tangent = self.tangent(x)?.clone();
        let (from, to) = (self.shape(x)?.clone(), self.shape(output(node))?.clone());
        let before: usize = from.get(..tangent.axis)?.iter().product();
        let all = *from.get(tangent.axis)?;
        let fits = |a: &usize| to[*a] == all && to[..*a].iter().product::<usize>() == before;
        let axis = (0..to.len()).find(fits)?;
        let factor = match tangent.factor {
            Diagonal::Value(value) => {
                let mut shape = to.clone();
                shape[axis] = self.channels;
                let shape: Option<Vec<i64>> =
                    shape.iter().map(|d| i64::try_from(*d).ok()).collect();
                Diagonal::Value(reshape(self.graph, "derivative", &value, &shape?))
            }
            other => other,
        };
        Some(Tangent { factor, axis, ..tangent })
    }

    /// The number of places, if a reduction goes over all of them.
    fn over_all(&self, node: &NodeProto, x: &str) -> Option<usize> {
        let (shape, tangent) = (self.shape(x)?, self.tangent(x)?);
        let rank = shape.len();
        let axes = if op(node).starts_with("Global") {
            (2..rank).collect()
        } else {
            reduced_axes(self.graph, node, rank)?
        };
        let kept = |a: &usize| !axes.contains(a) && shape[*a] != 1;
        let only = (0..rank).filter(kept).all(|a| a == tangent.axis);
        let places = shape.iter().product::<usize>() / shape.get(tangent.axis)?;
        (only && !axes.contains(&tangent.axis)).then_some(places)
    }

    /// The tangent of a pooled value with one element for each channel: the mean of the map's factor.
    fn pooled(&mut self, node: &NodeProto, x: &str, factor: Diagonal) -> Option<Tangent> {
        let (tangent, all) =
            (self.tangent(x)?.clone(), *self.shape(x)?.get(self.tangent(x)?.axis)?);
        let shape = self.shape(output(node))?.clone();
        // All other axes have one place left; with a single channel they are alike.
        let axis = shape.iter().position(|s| *s == all)?;
        let factor = match factor {
            Diagonal::Value(value) => {
                let mean = mean_of_map(self.graph, &value, self.shape(x)?.len(), tangent.axis);
                if shape.len() == self.shape(x)?.len() {
                    Diagonal::Value(mean)
                } else {
                    let row = channel_shape(shape.len(), axis, self.channels);
                    let row: Vec<i64> = row.iter().filter_map(|d| i64::try_from(*d).ok()).collect();
                    Diagonal::Value(reshape(self.graph, "derivative", &mean, &row))
                }
            }
            other => other,
        };
        Some(Tangent { factor, axis, ..tangent })
    }

    fn mean(&mut self, node: &NodeProto, x: &str) -> Option<Tangent> {
        let places = self.over_all(node, x)?;
        let factor = self.tangent(x)?.factor.clone();
        let mut mean = self.pooled(node, x, factor)?;
        if op(node) == "ReduceSum" {
            let rank = self.shape(output(node))?.len();
            let places = Diagonal::Channels(vec![places as f32]);
            mean.factor = mean.factor.times(&places, self.graph, rank, mean.axis);
        }
        Some(mean)
    }

    /// The factor at the place of the maximum, or the mean of the factors if several places are maximal.
    fn max(&mut self, node: &NodeProto, x: &str) -> Option<Tangent> {
        self.over_all(node, x)?;
        let tangent = self.tangent(x)?.clone();
        let Diagonal::Value(value) = &tangent.factor else {
            let factor = tangent.factor.clone();
            return self.pooled(node, x, factor);
        };
        let (all, part) = (self.whole(x)?, self.target_part(x)?);
        let mut row = all.dims.clone();
        (0..row.len()).filter(|a| *a != tangent.axis).for_each(|a| row[a] = 1);
        let most = self.whole(output(node))?;
        let most = Sheet { graph: self.graph }.reshape(&most, &row);
        let most = self.cut(&most, &tangent)?;
        let sheet = &mut Sheet { graph: self.graph };
        let at = winners(sheet, &part, &most).ok()?;
        let there = sheet.binary("Mul", &at, &Val::new(value, &part.dims)).ok()?;
        let rank = part.dims.len();
        let count = mean_of_map(self.graph, &at.name, rank, tangent.axis);
        let sum = mean_of_map(self.graph, &there.name, rank, tangent.axis);
        let share = self.graph.emit(&name("share"), "Div", &[&sum, &count], vec![]);
        let shape = self.shape(output(node))?.clone();
        let axis = shape.iter().position(|s| *s == all.dims[tangent.axis])?;
        let row = channel_shape(shape.len(), axis, self.channels);
        let row: Vec<i64> = row.iter().filter_map(|d| i64::try_from(*d).ok()).collect();
        let share = reshape(self.graph, "derivative", &share, &row);
        Some(Tangent { factor: Diagonal::Value(share), axis, ..tangent })
    }

    pub(super) fn whole(&self, x: &str) -> Option<Val> {
        Some(Val::new(x, self.shape(x)?))
    }

    pub(super) fn cut(&mut self, x: &Val, tangent: &Tangent) -> Option<Val> {
        let part = (tangent.from, 1, self.channels);
        Some(Sheet { graph: self.graph }.slice(x, tangent.axis, part))
    }

    /// The target's channels of x.
    pub(super) fn target_part(&mut self, x: &str) -> Option<Val> {
        let (whole, tangent) = (self.whole(x)?, self.tangent(x)?.clone());
        self.cut(&whole, &tangent)
    }
}

/// The sum of a factor over all `places` of a tensor: one number for each channel.
pub(super) fn summed(
    graph: &mut Graph,
    factor: &Diagonal,
    shape: &[usize],
    axis: usize,
    places: usize,
) -> Diagonal {
    match factor {
        Diagonal::One if places == 1 => Diagonal::One,
        Diagonal::One => Diagonal::Channels(vec![places as f32]),
        Diagonal::Channels(list) => {
            Diagonal::Channels(list.iter().map(|v| v * places as f32).collect())
        }
        Diagonal::Value(value) if places == 1 => Diagonal::Value(value.clone()),
        Diagonal::Value(value) => {
            let axes: Vec<usize> = (0..shape.len()).filter(|a| *a != axis).collect();
            let value = Val::new(value, shape);
            Diagonal::Value(Sheet { graph }.sum(&value, &axes).name)
        }
    }
}
