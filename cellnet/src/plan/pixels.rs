//! Steps that treat pixels as tokens or each pixel alone: softmax, layer norm, attention, products of
//! computed maps, copies of a part, rounding to bytes.

use serde::{Deserialize, Serialize};

use super::Blob;

/// Softmax over the channels of each pixel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// Map read.
    pub input: u32,
    /// Map written.
    pub output: u32,
}

/// `out[pixel of b][i] = Σ_c a[pixel i][c] · b[pixel][c]`: a matrix product of two computed maps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// The matrix; its pixels become the output's channels.
    pub a: u32,
    /// The map it is applied to, with as many channels.
    pub b: u32,
    /// Map written, as high and wide as `b`.
    pub output: u32,
}

/// `out = min(max(round(in / scale) + zero, 0), 255)`, halves rounded to even: the bytes that stand for a
/// map's values, with the output's [`super::Map::zero`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quantize {
    /// Map read.
    pub input: u32,
    /// Map of bytes written.
    pub output: u32,
    /// Difference of the values of two neighbouring bytes; positive.
    pub scale: f32,
}

/// Layer norm: each pixel's channels, minus their mean, over the square root of their variance plus
/// `epsilon`; then a factor and a summand for each channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// Map read.
    pub input: u32,
    /// Map written, of the same shape.
    pub output: u32,
    /// Added to the variance; positive.
    pub epsilon: f32,
    /// Factors, one for each channel of the output's stride.
    pub scale: Blob,
    /// Summands, likewise.
    pub bias: Blob,
}

/// Attention: `out[p] = Σ_q softmax_q(scale · query[p] · key[q] + bias + mask) · value[q]`, for each head
/// over its own channels, which follow those of the head before.
///
/// The pixels of a map are divided into groups, `groups` of them along its rows and along its columns, and a
/// query attends to the keys of its own group: to all if there is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// The map of queries.
    pub query: u32,
    /// The map of keys, of the same height and width if there are several groups.
    pub key: u32,
    /// The map of values, as high and wide as that of keys. It may be the same map, or that of queries.
    pub value: u32,
    /// The channels at which queries, keys and values begin in their maps.
    pub first: [u32; 3],
    /// Map written, as high and wide as that of queries.
    pub output: u32,
    /// Number of heads.
    pub heads: u32,
    /// Channels of one head of queries and keys.
    pub head: u32,
    /// Channels of one head of values; the output has `heads` times as many.
    pub value_head: u32,
    /// Factor of the products of queries and keys.
    pub scale: f32,
    /// Numbers of groups along the height and the width; they divide them.
    pub groups: [u32; 2],
    /// Whether the pixels of a group are neighbours. If not, those whose row and column leave the same
    /// remainders by `groups` are a group.
    pub is_near: bool,
    /// Rows and columns by which the groups are moved, around the edge.
    pub shift: [u32; 2],
    /// Summands of the scores, `[head][query][key]`; each row of keys fills whole blocks of
    /// [`super::CHANNEL_BLOCK`].
    pub bias: Option<Blob>,
    /// Further summands, `[group][query][key]`, likewise.
    pub mask: Option<Blob>,
}

impl Attention {
    /// Pixels of a group in a map of this height and width.
    pub(crate) fn group(&self, height: u32, width: u32) -> usize {
        let [rows, columns] = self.groups.map(|n| n.max(1));
        (height / rows) as usize * (width / columns) as usize
    }
}

/// `out[.., c] = in[.., first + c]`: some of a map's channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Map read.
    pub input: u32,
    /// Map written, as high and wide, with at most as many channels as there are from `first` on.
    pub output: u32,
    /// The first channel that is copied.
    pub first: u32,
}

/// `out[.., c] = in[.., (i mod groups) · each + ⌊i / groups⌋]`, where `i = first + c`, and `each` is the
/// channels of a group of the input: some of a map's channels, one of each group in turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shuffle {
    /// Map read.
    pub input: u32,
    /// Map written, as high and wide, with at most as many channels as there are from `first` on.
    pub output: u32,
    /// The first channel that is copied, counted in the order of the output.
    pub first: u32,
    /// Groups of as many channels each, next to each other in the input.
    pub groups: u32,
}

/// `out = (q − zero) · scale`, where `q = min(max(round(in / scale) + zero, 0), 255)`, halves rounded to
/// even: what is left of a map's values if bytes stand for them. The bytes reach from the least to the
/// greatest of the values and 0, for which `zero` stands (ONNX's `DynamicQuantizeLinear`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DynamicQuantize {
    /// Map read.
    pub input: u32,
    /// Map written, of the same shape.
    pub output: u32,
}

/// Constant pixels, then those of a map, all in one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepend {
    /// Map read, with as many channels as the output.
    pub input: u32,
    /// Map written, one row.
    pub output: u32,
    /// Values of the first pixels, each of the output's stride.
    pub head: Blob,
}
