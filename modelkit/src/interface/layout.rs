//! The order of a photo input's axes, and the number of its channels.

use rten_onnx::onnx::NodeProto;
use skincell_vision::card::Layout;

use super::{InterfaceError, no_photo};
use crate::onnx::graph::{Graph, input, int, ints, label, op, output};

/// The order of the axes that the model shows, or else the `given` one. `sides` are the photo's sides, `name`
/// and `shape` its input's for users.
///
/// # Errors
/// [`InterfaceError::OtherLayout`] if the model shows another order than the given one, and an error if there
/// are not four axes, no axis can hold three channels, or the order is neither shown nor given.
pub(super) fn settle(
    graph: &Graph,
    (name, shape): (&str, &str),
    sides: &[Option<usize>],
    given: Option<Layout>,
) -> Result<Layout, InterfaceError> {
    let (name, shape) = (name.to_owned(), shape.to_owned());
    let [_, second, _, fourth] = sides[..] else { return Err(no_photo(name, shape, sides.len())) };
    if let (Some(a), Some(b)) = (second, fourth)
        && a != 3
        && b != 3
    {
        return Err(InterfaceError::Shape { name, shape, advice: other_channels(a.min(b)) });
    }
    let (held, evidence) = match shown(graph, &name, (second, fourth)) {
        Some(found) => found,
        None => return given.ok_or(InterfaceError::Layout { name, shape }),
    };
    match given {
        Some(given) if given != held => {
            let (given, held) = (called(given), called(held));
            Err(InterfaceError::OtherLayout { name, shape, given, held, evidence })
        }
        _ => Ok(held),
    }
}

fn called(layout: Layout) -> &'static str {
    match layout {
        Layout::Nchw => "nchw",
        Layout::Nhwc => "nhwc",
    }
}

/// Advice for a model that takes this number of channels, and not 3, as the end of a sentence.
pub(super) fn other_channels(channels: usize) -> &'static str {
    match channels {
        1 => {
            ": export the model behind a step that turns RGB into grey, such as \
             0.299 R + 0.587 G + 0.114 B"
        }
        4 => {
            ", whose channels are R, G and B: export the model behind a step that adds the fourth channel, such \
             as torch.cat([x, torch.ones_like(x[:, :1])], 1) for an opaque photo"
        }
        6 => {
            ", one at a time: export the model for one photo, or behind a step that makes its channels of R, G \
             and B"
        }
        _ => {
            ", whose channels are R, G and B: export the model behind a step that makes the channels it takes of \
             these three"
        }
    }
}

/// The order of the photo's axes, and what shows it: the axis of length 3, or, if that is variable or
/// ambiguous, the first operator that does.
fn shown(
    graph: &Graph,
    name: &str,
    (second, fourth): (Option<usize>, Option<usize>),
) -> Option<(Layout, String)> {
    let length = || "the axis of length 3".to_owned();
    match (second, fourth) {
        (Some(3), other) if other != Some(3) => Some((Layout::Nchw, length())),
        (other, Some(3)) if other != Some(3) => Some((Layout::Nhwc, length())),
        _ => {
            let node = first(graph, name)?;
            Some((order_read(node)?, label(node)))
        }
    }
}

/// The first operator behind the input that is not of single elements or channels.
fn first<'g>(graph: &'g Graph, name: &str) -> Option<&'g NodeProto> {
    const SAME: [&str; 9] =
        ["Identity", "Cast", "Sub", "Add", "Mul", "Div", "Clip", "BatchNormalization", "Pad"];
    let mut value = name;
    for _ in 0..16 {
        let readers = graph.consumers_of(value);
        let node = readers.first().and_then(|i| graph.nodes.get(*i))?;
        if !SAME.contains(&op(node)) {
            return Some(node);
        }
        value = output(node);
    }
    None
}

/// The order that an operator expects: a convolution takes channels first, and a transposition that moves the
/// last axis to the second place takes channels last.
fn order_read(node: &NodeProto) -> Option<Layout> {
    match op(node) {
        "Conv" | "QLinearConv" | "MaxPool" | "AveragePool" => Some(Layout::Nchw),
        "Transpose" => match ints(node, "perm")? {
            [0, 3, 1, 2] => Some(Layout::Nhwc),
            [0, 2, 3, 1] => Some(Layout::Nchw),
            _ => None,
        },
        _ => None,
    }
}

/// The number of channels that the first convolution takes, if it reads the input as it is or transposed.
pub(super) fn channels_read(graph: &Graph, name: &str) -> Option<usize> {
    let node = first(graph, name)?;
    let conv = if op(node) == "Transpose" { first(graph, output(node))? } else { node };
    let weights = graph.constants.get(input(conv, 1).filter(|_| op(conv) == "Conv")?)?;
    let groups = usize::try_from(int(conv, "group", 1)).ok()?;
    weights.dims.get(1)?.checked_mul(groups)
}
