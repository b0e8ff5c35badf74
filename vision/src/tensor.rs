//! From pixels to the model's input tensor, as its card describes it. Leaves out resizing: the
//! photo must have the input's size already.

use crate::card::{Dtype, Input, Layout};
use crate::photo::Photo;
use thiserror::Error;

/// A dense tensor as wasi-nn and the engines take it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Length of each axis, outermost first.
    pub dimensions: Vec<u32>,
    /// Element type.
    pub dtype: Dtype,
    /// The elements, last axis fastest; f32 in little-endian.
    pub data: Vec<u8>,
}

/// Why a photo cannot become the model's input.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TensorError {
    /// The photo has another size than the input.
    #[error(
        "the photo is {width}x{height}, the model takes {input_width}x{input_height}: resize first"
    )]
    Size {
        /// The photo's width in pixels.
        width: u32,
        /// The photo's height in pixels.
        height: u32,
        /// The input's width in pixels.
        input_width: u32,
        /// The input's height in pixels.
        input_height: u32,
    },
}

/// The input tensor of `photo`: batch 1, channels R, G, B, rows from the top, in the card's layout.
///
/// For [`Dtype::F32`] each element is `(pixel - mean[channel]) / std[channel]` with `pixel` 0 to
/// 255; for [`Dtype::U8`] it is the pixel.
///
/// # Errors
/// [`TensorError::Size`] where the photo has not the input's size.
pub fn from_photo(photo: &Photo, input: &Input) -> Result<Tensor, TensorError> {
    let (width, height) = (photo.width(), photo.height());
    if (width, height) != (input.width, input.height) {
        let (input_width, input_height) = (input.width, input.height);
        return Err(TensorError::Size { width, height, input_width, input_height });
    }
    let dimensions = match input.layout {
        Layout::Nchw => vec![1, 3, height, width],
        Layout::Nhwc => vec![1, height, width, 3],
    };
    let data = match (input.dtype, input.layout) {
        (Dtype::U8, Layout::Nhwc) => photo.pixels().to_vec(),
        (Dtype::U8, Layout::Nchw) => planes(photo.pixels(), |_, sample| [sample]),
        (Dtype::F32, Layout::Nhwc) => interleaved(photo.pixels(), input),
        (Dtype::F32, Layout::Nchw) => planes(photo.pixels(), |channel, sample| {
            scaled(sample, input.mean[channel], input.std[channel])
        }),
    };
    Ok(Tensor { dimensions, dtype: input.dtype, data })
}

fn scaled(sample: u8, mean: f32, std: f32) -> [u8; 4] {
    ((f32::from(sample) - mean) / std).to_le_bytes()
}

/// One plane a channel, each sample turned to `BYTES` bytes.
fn planes<const BYTES: usize>(
    pixels: &[u8],
    element: impl Fn(usize, u8) -> [u8; BYTES],
) -> Vec<u8> {
    let mut data = vec![[0; BYTES]; pixels.len()];
    let (reds, others) = data.split_at_mut(pixels.len() / 3);
    let (greens, blues) = others.split_at_mut(pixels.len() / 3);
    let places = reds.iter_mut().zip(greens).zip(blues);
    for (((red, green), blue), pixel) in places.zip(pixels.as_chunks::<3>().0) {
        *red = element(0, pixel[0]);
        *green = element(1, pixel[1]);
        *blue = element(2, pixel[2]);
    }
    data.into_flattened()
}

/// Samples as they lie, as f32, four pixels at a time: whole vectors of every width there is.
fn interleaved(pixels: &[u8], input: &Input) -> Vec<u8> {
    let mean: [f32; 12] = std::array::from_fn(|i| input.mean[i % 3]);
    let std: [f32; 12] = std::array::from_fn(|i| input.std[i % 3]);
    let mut data = vec![[0; 4]; pixels.len()];
    let (fours, rest) = data.as_chunks_mut::<12>();
    let (four_pixels, other_pixels) = pixels.as_chunks::<12>();
    for (elements, samples) in fours.iter_mut().zip(four_pixels) {
        *elements = std::array::from_fn(|i| scaled(samples[i], mean[i], std[i]));
    }
    for (i, (element, &sample)) in rest.iter_mut().zip(other_pixels).enumerate() {
        *element = scaled(sample, mean[i], std[i]);
    }
    data.into_flattened()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::Random;

    /// ImageNet's mean and standard deviation of torchvision's models, times 255.
    const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
    const STD: [f32; 3] = [58.395, 57.12, 57.375];

    fn input(layout: Layout, dtype: Dtype) -> Input {
        Input { name: "x".to_owned(), layout, dtype, width: 5, height: 3, mean: MEAN, std: STD }
    }

    /// Each element at the place and with the value that the definition gives it.
    #[test]
    fn every_element_is_where_the_card_says() {
        let photo = Photo::from_rgb(5, 3, Random(9).bytes(45)).unwrap();
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let bytes = from_photo(&photo, &input(layout, Dtype::U8)).unwrap();
            let floats = from_photo(&photo, &input(layout, Dtype::F32)).unwrap();
            let dimensions = match layout {
                Layout::Nchw => [1, 3, 3, 5],
                Layout::Nhwc => [1, 3, 5, 3],
            };
            assert_eq!(bytes.dimensions, dimensions);
            assert_eq!(floats.dimensions, dimensions);
            assert_eq!((bytes.dtype, floats.dtype), (Dtype::U8, Dtype::F32));
            assert_eq!((bytes.data.len(), floats.data.len()), (45, 180));
            for (at, sample) in photo.pixels().iter().enumerate() {
                let (pixel, channel) = (at / 3, at % 3);
                let place = match layout {
                    Layout::Nchw => channel * 15 + pixel,
                    Layout::Nhwc => at,
                };
                assert_eq!(bytes.data[place], *sample);
                let found = f32::from_le_bytes(floats.data.as_chunks().0[place]);
                assert_eq!(found, (f32::from(*sample) - MEAN[channel]) / STD[channel]);
            }
        }
    }

    #[test]
    fn another_size_is_refused() {
        let photo = Photo::from_rgb(3, 5, vec![0; 45]).unwrap();
        let error = from_photo(&photo, &input(Layout::Nhwc, Dtype::U8)).unwrap_err();
        let expected = TensorError::Size { width: 3, height: 5, input_width: 5, input_height: 3 };
        assert_eq!(error, expected);
    }
}
