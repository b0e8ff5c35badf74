//! Maps an ONNX tensor's axes to a map's height, width and channels.
//!
//! Transposes and reshapes that only move, merge or divide axes change the view and need no computation.

use super::net::{Shape, ValueId};
use super::parts::{self, Along};
pub(super) use super::parts::{Axis, in_words, size};
use crate::plan::Order;

/// A tensor: a value and the meaning of each axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub(super) value: ValueId,
    pub(super) shape: Shape,
    pub(super) axes: Vec<Axis>,
    /// Pending zeros above, left, below and right, from a padding node, for the next convolution.
    pub(super) pads: [usize; 4],
    /// The value's row and column that are the view's first; those before them follow its last.
    pub(super) roll: [usize; 2],
    /// The value's channel that is the view's first; the view's shape says how many follow.
    pub(super) first: usize,
    /// A pending factor of all elements.
    pub(super) factor: f32,
}

impl View {
    pub(super) fn new(value: ValueId, shape: Shape, axes: Vec<Axis>) -> Self {
        Self { value, shape, axes, pads: [0; 4], roll: [0; 2], first: 0, factor: 1.0 }
    }

    /// Whether an axis is a part of others.
    pub(super) fn is_split(&self) -> bool {
        self.axes.iter().any(|axis| matches!(axis, Axis::Split(_)))
    }

    /// The axis that has one of each group of channels in turn, and the number of groups.
    pub(super) fn shuffled(&self) -> Option<(usize, usize)> {
        self.axes.iter().enumerate().find_map(|(index, axis)| match axis {
            Axis::Split(parts) => Some((index, parts.in_turn(self.shape.channels)?)),
            _ => None,
        })
    }

    /// One element of an axis, which is dropped: one of the parts that the channels are divided into.
    pub(super) fn element(&self, axis: usize, index: usize) -> Option<Self> {
        let Axis::Split(parts) = *self.axes.get(axis)? else { return None };
        let (count, step) = parts.of_channels(self.shape.channels)?;
        if index >= count {
            return None;
        }
        let mut view = self.clone();
        view.first += index * step;
        view.shape.channels = step;
        view.axes.remove(axis);
        view.axes = view.axes.into_iter().map(|axis| parts::renamed(axis, &view.shape)).collect();
        Some(view)
    }

    /// Channels `from..to`, if `axis` is that of all channels.
    pub(super) fn channels(&self, axis: usize, from: usize, to: usize) -> Option<Self> {
        let fits = self.axes.get(axis) == Some(&Axis::Channel) && from < to;
        let mut view = self.clone();
        view.first += from;
        view.shape.channels = to.checked_sub(from)?;
        (fits && to <= self.shape.channels).then_some(view)
    }

    /// The same axes over another value, whose rows and columns are moved as this one's are. Some axes may
    /// now have length one.
    pub(super) fn with(&self, value: ValueId, shape: Shape) -> Self {
        let roll = if shape.pixels() == 1 { [0; 2] } else { self.roll };
        Self { roll, ..Self::new(value, shape, self.axes.clone()) }
    }

    fn size(&self, axis: Axis) -> usize {
        size(&self.shape, axis)
    }

    /// Dimensions of the tensor.
    pub(super) fn dims(&self) -> Vec<usize> {
        self.axes.iter().map(|a| self.size(*a)).collect()
    }

    /// Whether the axes are `wanted`; axes of length one match any.
    pub(super) fn is(&self, wanted: &[Axis]) -> bool {
        self.axes.len() == wanted.len()
            && self.axes.iter().zip(wanted).all(|(have, want)| {
                have == want || (self.size(*have) == 1 && self.size(*want) == 1)
            })
    }

    /// Batch, channels, height, width.
    pub(super) fn is_channels_first(&self) -> bool {
        self.is(&[Axis::One, Axis::Channel, Axis::Height, Axis::Width])
    }

    /// Index of an axis; negative numbers count from the end.
    pub(super) fn index(&self, axis: i64) -> Option<usize> {
        let rank = self.axes.len() as i64;
        usize::try_from(if axis < 0 { axis + rank } else { axis })
            .ok()
            .filter(|a| *a < rank as usize)
    }

    pub(super) fn transpose(&self, perm: &[usize]) -> Option<Self> {
        let axes = perm.iter().map(|p| self.axes.get(*p).copied()).collect::<Option<Vec<_>>>()?;
        (axes.len() == self.axes.len()).then(|| Self { axes, ..self.clone() })
    }

    /// The view with dimensions `dims`, if axes are only merged, split, or moved past axes of length one.
    pub(super) fn reshape(&self, dims: &[usize]) -> Option<Self> {
        if let Some(view) = self.merged(dims) {
            return Some(view);
        }
        let axes = parts::reshaped(&self.axes, &self.shape, dims)?;
        Some(Self { axes, ..self.clone() })
    }

    /// The view with dimensions `dims`, without parts of axes.
    fn merged(&self, dims: &[usize]) -> Option<Self> {
        let mut have = self.axes.iter().copied().filter(|a| self.size(*a) > 1).peekable();
        let mut axes = Vec::new();
        let mut dims = dims.iter().copied().peekable();
        while let Some(dim) = dims.next() {
            if dim == 1 {
                axes.push(Axis::One);
                continue;
            }
            let axis = have.next()?;
            if self.size(axis) == dim {
                axes.push(axis);
            } else if axis == Axis::Height
                && have.peek() == Some(&Axis::Width)
                && self.shape.pixels() == dim
            {
                have.next();
                axes.push(Axis::Pixels);
            } else if axis == Axis::Pixels && dim == self.shape.height {
                axes.push(Axis::Height);
                while dims.peek() == Some(&1) {
                    dims.next();
                    axes.push(Axis::One);
                }
                if dims.next() != Some(self.shape.width) {
                    return None;
                }
                axes.push(Axis::Width);
            } else {
                return None;
            }
        }
        have.next().is_none().then(|| Self { axes, ..self.clone() })
    }

    /// The axis order for the caller, if the tensor's axes follow the map's.
    pub(super) fn order(&self) -> Option<Order> {
        let parts = self.axes.iter().flat_map(|axis| parts::parts_of(*axis, &self.shape));
        let (mut left, mut pixels, mut channels) = (Vec::new(), self.shape.pixels(), 1);
        for part in parts {
            // Pixels row by row, one axis or part after the other; the channels in one.
            match part.along {
                Along::Pixels if part.size * part.step == pixels => pixels = part.step,
                Along::Channels if part.size == self.shape.channels => channels = part.size,
                _ => return None,
            }
            if left.last() != Some(&part.along) {
                left.push(part.along);
            }
        }
        match left.as_slice() {
            _ if (pixels, channels) != (1, self.shape.channels) => None,
            [] | [_] | [Along::Pixels, Along::Channels] => Some(Order::ChannelsLast),
            [Along::Channels, Along::Pixels] => Some(Order::ChannelsFirst),
            _ => None,
        }
    }
}
