//! Copies inputs and outputs between the caller's axis order and the maps in the arena.

use crate::plan::{Dtype, Map, Order, TensorSpec};

/// An input of a run; elements in the order of its spec's dimensions.
#[derive(Debug, Clone, Copy)]
pub enum TensorRef<'a> {
    /// Bytes 0–255.
    U8(&'a [u8]),
    /// Floats.
    F32(&'a [f32]),
}

impl TensorRef<'_> {
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Self::U8(_) => Dtype::U8,
            Self::F32(_) => Dtype::F32,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::F32(v) => v.len(),
        }
    }
}

/// Writes an input into its map as `f32`, channel last, scaled and shifted per channel, with a halo of
/// zeros. The caller has compared the lengths; elements that do not fit are left out.
pub(crate) fn load(arena: &mut [f32], maps: &[Map], spec: &TensorSpec, tensor: TensorRef<'_>) {
    let Some(map) = maps.get(spec.map as usize) else { return };
    let (first, floats) = (map.offset as usize, map.floats() as usize);
    let Some(arena) = arena.get_mut(first..first + floats) else { return };
    if map.halo != [0; 4] {
        arena.fill(0.0);
    }
    match tensor {
        TensorRef::U8(values) => fill(arena, map, spec, values),
        TensorRef::F32(values) => fill(arena, map, spec, values),
    }
}

fn fill<T: Copy + Into<f32>>(arena: &mut [f32], map: &Map, spec: &TensorSpec, values: &[T]) {
    let (height, width) = (map.height as usize, map.width as usize);
    let channels = map.channels as usize;
    let (stride, pitch) = (map.stride as usize, map.pitch() as usize);
    let start = (map.origin() - map.offset) as usize;
    let affine = |c: usize| {
        let scale = spec.scale.get(c).copied().unwrap_or(1.0);
        (scale, spec.bias.get(c).copied().unwrap_or(0.0))
    };
    let plain = spec.scale.is_empty() && spec.bias.is_empty();
    for y in 0..height {
        let Some(row) = arena.get_mut(start + y * pitch..) else { return };
        match spec.order {
            Order::ChannelsLast if plain && stride == channels => {
                let from = values.get(y * width * channels..).unwrap_or_default();
                for (out, v) in row.iter_mut().zip(from).take(width * channels) {
                    *out = (*v).into();
                }
            }
            Order::ChannelsLast if channels == 3 => {
                let from =
                    values.get(y * width * channels..).unwrap_or_default().as_chunks::<3>().0;
                let affine: [_; 3] = std::array::from_fn(affine);
                for (out, pixel) in row.chunks_mut(stride).zip(from).take(width) {
                    let [a, b, c, ..] = out else { return };
                    for ((out, v), (scale, bias)) in [a, b, c].into_iter().zip(pixel).zip(affine) {
                        *out = (*v).into() * scale + bias;
                    }
                }
            }
            Order::ChannelsLast => {
                let from = values.get(y * width * channels..).unwrap_or_default();
                for (out, pixel) in row.chunks_mut(stride).zip(from.chunks(channels)).take(width) {
                    for (c, (out, v)) in out.iter_mut().zip(pixel).enumerate() {
                        let (scale, bias) = affine(c);
                        *out = (*v).into() * scale + bias;
                    }
                }
            }
            Order::ChannelsFirst => {
                for c in 0..channels {
                    let from = values.get((c * height + y) * width..).unwrap_or_default();
                    let ((scale, bias), Some(row)) = (affine(c), row.get_mut(c..)) else { return };
                    for (out, v) in row.chunks_mut(stride).zip(from).take(width) {
                        if let Some(out) = out.first_mut() {
                            *out = (*v).into() * scale + bias;
                        }
                    }
                }
            }
        }
    }
}

/// Reads an output from its map, in the order of the spec's dimensions.
pub(crate) fn store(arena: &[f32], maps: &[Map], spec: &TensorSpec) -> Vec<f32> {
    let Some(map) = maps.get(spec.map as usize) else { return Vec::new() };
    let (height, width) = (map.height as usize, map.width as usize);
    let channels = map.channels as usize;
    let (stride, pitch) = (map.stride as usize, map.pitch() as usize);
    let row = |y: usize| {
        let first = map.origin() as usize + y * pitch;
        arena.get(first..first + (width - 1) * stride + channels).unwrap_or_default()
    };
    let mut values = Vec::with_capacity(height * width * channels);
    match spec.order {
        Order::ChannelsLast => {
            for y in 0..height {
                for pixel in row(y).chunks(stride) {
                    values.extend_from_slice(pixel.get(..channels).unwrap_or(pixel));
                }
            }
        }
        Order::ChannelsFirst => {
            for c in 0..channels {
                for y in 0..height {
                    let row = row(y);
                    let value = |x: usize| row.get(x * stride + c).copied().unwrap_or(f32::NAN);
                    values.extend((0..width).map(value));
                }
            }
        }
    }
    values
}
