//! Makes the model's input tensor from pixels, as the card describes it. It does not resize: the photo
//! must already have the input's size.

use crate::card::{ChannelOrder, Dtype, Input, Layout};
use crate::photo::Photo;
use thiserror::Error;

/// A dense tensor in the form that wasi-nn and the engines take.
#[derive(Debug, Clone, PartialEq)]
pub struct PhotoTensor {
    /// Length of each axis, outermost first.
    pub dimensions: Vec<u32>,
    /// Element type.
    pub dtype: Dtype,
    /// The elements, last axis fastest; f32 in little-endian.
    pub data: Vec<u8>,
}

/// Why a photo cannot become the model's input.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PhotoTensorError {
    /// The photo's size differs from the input's.
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

/// The input tensor of `photo`: batch size 1, rows from the top, channels and axes in the card's order.
///
/// For [`Dtype::F32`] each element is `(pixel - mean[channel]) / std[channel]` with `pixel` 0 to
/// 255; for [`Dtype::U8`] it is the pixel.
///
/// # Errors
/// [`PhotoTensorError::Size`] if the photo does not have the input's size.
pub fn from_photo(photo: &Photo, input: &Input) -> Result<PhotoTensor, PhotoTensorError> {
    let (width, height) = (photo.width(), photo.height());
    if (width, height) != (input.width, input.height) {
        let (input_width, input_height) = (input.width, input.height);
        return Err(PhotoTensorError::Size { width, height, input_width, input_height });
    }
    let dimensions = match input.layout {
        Layout::Nchw => vec![1, 3, height, width],
        Layout::Nhwc => vec![1, height, width, 3],
    };
    let data = match input.order {
        ChannelOrder::Rgb => elements(photo.pixels(), input),
        ChannelOrder::Bgr => reversed(photo, input),
    };
    Ok(PhotoTensor { dimensions, dtype: input.dtype, data })
}

/// The elements with blue first.
fn reversed(photo: &Photo, input: &Input) -> Vec<u8> {
    let mut pixels = photo.pixels().to_vec();
    pixels.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.reverse());
    let turned = |[r, g, b]: [f32; 3]| [b, g, r];
    let input = Input { mean: turned(input.mean), std: turned(input.std), ..input.clone() };
    elements(&pixels, &input)
}

/// The elements of `pixels`. Their channels and `input`'s mean and std are in the tensor's order.
fn elements(pixels: &[u8], input: &Input) -> Vec<u8> {
    match (input.dtype, input.layout) {
        (Dtype::U8, Layout::Nhwc) => pixels.to_vec(),
        (Dtype::U8, Layout::Nchw) => planes(pixels, |_, sample| [sample]),
        (Dtype::F32, Layout::Nhwc) => interleaved(pixels, input),
        (Dtype::F32, Layout::Nchw) => planes(pixels, |channel, sample| {
            scaled(sample, input.mean[channel], input.std[channel])
        }),
    }
}

fn scaled(sample: u8, mean: f32, std: f32) -> [u8; 4] {
    ((f32::from(sample) - mean) / std).to_le_bytes()
}

/// One plane per channel; `element` converts each sample to `BYTES` bytes.
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

/// Normalised samples in the order of the pixels. Four pixels (12 floats) at a time fill whole SIMD
/// vectors.
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
    use crate::card::Resize;
    use crate::common::Random;

    /// ImageNet's mean and standard deviation as in torchvision's models, times 255.
    const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
    const STD: [f32; 3] = [58.395, 57.12, 57.375];

    fn input(layout: Layout, dtype: Dtype) -> Input {
        Input {
            name: "x".to_owned(),
            layout,
            dtype,
            width: 5,
            height: 3,
            mean: MEAN,
            std: STD,
            order: ChannelOrder::Rgb,
            resize: Resize::default(),
        }
    }

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

    /// With blue first, red and blue change places, each normalised with its own mean and std.
    #[test]
    fn blue_first_swaps_what_red_first_gives() {
        let photo = Photo::from_rgb(5, 3, Random(9).bytes(45)).unwrap();
        for (layout, dtype) in [
            (Layout::Nchw, Dtype::F32),
            (Layout::Nhwc, Dtype::F32),
            (Layout::Nchw, Dtype::U8),
            (Layout::Nhwc, Dtype::U8),
        ] {
            let rgb = input(layout, dtype);
            let bgr = Input { order: ChannelOrder::Bgr, ..rgb.clone() };
            let (rgb, bgr) = (from_photo(&photo, &rgb).unwrap(), from_photo(&photo, &bgr).unwrap());
            let size = if dtype == Dtype::U8 { 1 } else { 4 };
            let element = |data: &[u8], at: usize| data[at * size..][..size].to_vec();
            for (pixel, channel) in (0..15).flat_map(|p| (0..3).map(move |c| (p, c))) {
                let place = |channel: usize| match layout {
                    Layout::Nchw => channel * 15 + pixel,
                    Layout::Nhwc => pixel * 3 + channel,
                };
                let (red_first, blue_first) = (place(channel), place(2 - channel));
                assert_eq!(element(&rgb.data, red_first), element(&bgr.data, blue_first));
            }
        }
    }

    #[test]
    fn another_size_is_refused() {
        let photo = Photo::from_rgb(3, 5, vec![0; 45]).unwrap();
        let error = from_photo(&photo, &input(Layout::Nhwc, Dtype::U8)).unwrap_err();
        let expected =
            PhotoTensorError::Size { width: 3, height: 5, input_width: 5, input_height: 3 };
        assert_eq!(error, expected);
    }
}
