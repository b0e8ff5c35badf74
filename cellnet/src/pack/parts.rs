//! The axes of a tensor, and their division into parts, as attention divides channels into heads, and
//! MobileViT an image into patches.
//!
//! A part is a number of steps along the channels or along the pixels, row after row. Two parts that follow
//! each other and can be one are one.

use super::net::Shape;

/// Most parts of one axis.
const MOST: usize = 4;

/// The meaning of a tensor's axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// Length one: the batch, or a reduced axis.
    One,
    Channel,
    Height,
    Width,
    /// Height and width merged, width running faster.
    Pixels,
    /// Parts of these, such as heads and the channels of a head.
    Split(Parts),
}

/// Axes as errors name them, such as `[1, channels, 8 of the pixels × 4 of the channels]`.
pub(super) fn in_words(axes: &[Axis]) -> String {
    let along = |along| match along {
        Along::Channels => "channels",
        Along::Pixels => "pixels",
    };
    let part = |part: Part| format!("{} of the {}", part.size, along(part.along));
    let words = axes.iter().map(|axis| match axis {
        Axis::One => "1".to_owned(),
        Axis::Channel => "channels".to_owned(),
        Axis::Height => "height".to_owned(),
        Axis::Width => "width".to_owned(),
        Axis::Pixels => "pixels".to_owned(),
        Axis::Split(parts) => parts.iter().map(part).collect::<Vec<_>>().join(" × "),
    });
    format!("[{}]", words.collect::<Vec<_>>().join(", "))
}

/// What a part's steps go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Along {
    Channels,
    Pixels,
}

/// `size` elements, `step` channels or pixels apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) along: Along,
    pub(super) size: usize,
    pub(super) step: usize,
}

/// The parts of one axis, the slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    parts: [Option<Part>; MOST],
}

impl Parts {
    fn new(parts: &[Part]) -> Option<Self> {
        let mut own = [None; MOST];
        for (i, part) in parts.iter().enumerate() {
            *own.get_mut(i)? = Some(*part);
        }
        Some(Self { parts: own })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Part> {
        self.parts.into_iter().flatten()
    }

    /// Number of elements.
    pub(super) fn size(&self) -> usize {
        self.iter().map(|part| part.size).product()
    }

    /// The only part.
    fn single(&self) -> Option<Part> {
        let mut parts = self.iter();
        parts.next().filter(|_| parts.next().is_none())
    }

    /// Groups of all `channels`, if this axis has one of each in turn.
    pub(super) fn in_turn(&self, channels: usize) -> Option<usize> {
        let parts: Vec<Part> = self.iter().collect();
        let &[each, groups] = parts.as_slice() else { return None };
        let is_all = each.size * groups.size == channels;
        let are_channels = (each.along, groups.along) == (Along::Channels, Along::Channels);
        (is_all && are_channels && (each.step, groups.step) == (1, each.size))
            .then_some(groups.size)
    }

    /// Number and channels of equal runs of channels, if this axis says which one of all `channels`.
    pub(super) fn of_channels(&self, channels: usize) -> Option<(usize, usize)> {
        let part = self.single()?;
        let all = part.along == Along::Channels && part.size * part.step == channels;
        all.then_some((part.size, part.step))
    }
}

/// The parts of any axis of a map of this shape.
pub(super) fn parts_of(axis: Axis, shape: &Shape) -> Vec<Part> {
    let part = |along, size, step| if size > 1 { vec![Part { along, size, step }] } else { vec![] };
    match axis {
        Axis::One => Vec::new(),
        Axis::Channel => part(Along::Channels, shape.channels, 1),
        Axis::Height => part(Along::Pixels, shape.height, shape.width),
        Axis::Width => part(Along::Pixels, shape.width, 1),
        Axis::Pixels => part(Along::Pixels, shape.pixels(), 1),
        Axis::Split(parts) => parts.iter().collect(),
    }
}

/// The axis of these parts, by its usual name if it has one.
pub(super) fn axis_of(parts: &[Part], shape: &Shape) -> Option<Axis> {
    let part = match parts {
        [] => return Some(Axis::One),
        [part] => *part,
        _ => return Parts::new(parts).map(Axis::Split),
    };
    let named = match (part.along, part.size, part.step) {
        (Along::Channels, size, 1) if size == shape.channels => Axis::Channel,
        (Along::Pixels, size, step) if size == shape.height && step == shape.width => Axis::Height,
        (Along::Pixels, size, 1) if size == shape.width => Axis::Width,
        (Along::Pixels, size, 1) if size == shape.pixels() => Axis::Pixels,
        _ => Axis::Split(Parts::new(parts)?),
    };
    Some(named)
}

/// The axis of these parts, without its usual name.
pub(super) fn split(parts: &[Part]) -> Option<Axis> {
    Parts::new(parts).map(Axis::Split)
}

/// The axis by its usual name, if it now has one.
pub(super) fn renamed(axis: Axis, shape: &Shape) -> Axis {
    match axis {
        Axis::Split(_) => axis_of(&parts_of(axis, shape), shape).unwrap_or(axis),
        axis => axis,
    }
}

/// The parts, with those that follow each other and can be one as one.
pub(super) fn merged(parts: impl IntoIterator<Item = Part>) -> Vec<Part> {
    let mut merged: Vec<Part> = Vec::new();
    for part in parts {
        match merged.last_mut() {
            Some(last) if last.along == part.along && last.step == part.step * part.size => {
                *last = Part { size: last.size * part.size, ..part };
            }
            _ => merged.push(part),
        }
    }
    merged
}

/// The axes of dimensions `dims` over the elements of `axes` in their order.
pub(super) fn reshaped(axes: &[Axis], shape: &Shape, dims: &[usize]) -> Option<Vec<Axis>> {
    let mut have = merged(axes.iter().flat_map(|axis| parts_of(*axis, shape)));
    have.reverse();
    let mut reshaped = Vec::with_capacity(dims.len());
    for dim in dims {
        let (mut left, mut parts) = (*dim, Vec::new());
        while left > 1 {
            let part = have.pop()?;
            if left.is_multiple_of(part.size) {
                parts.push(part);
                left /= part.size;
            } else if part.size.is_multiple_of(left) {
                let inner = part.size / left;
                parts.push(Part { size: left, step: part.step * inner, ..part });
                have.push(Part { size: inner, ..part });
                left = 1;
            } else {
                return None;
            }
        }
        reshaped.push(axis_of(&parts, shape)?);
    }
    have.is_empty().then_some(reshaped)
}

/// Elements along an axis.
pub(super) fn size(shape: &Shape, axis: Axis) -> usize {
    match axis {
        Axis::One => 1,
        Axis::Channel => shape.channels,
        Axis::Height => shape.height,
        Axis::Width => shape.width,
        Axis::Pixels => shape.pixels(),
        Axis::Split(parts) => parts.size(),
    }
}
