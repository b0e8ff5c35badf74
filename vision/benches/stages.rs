//! Measures the stages of an answer: decode, resize, tensor, heatmap, overlay, PNG.
//!
//! Run with `cargo bench -p skincell-vision`. It prints times and has no pass or fail. All pictures are made
//! from one committed JPEG.

#![allow(clippy::expect_used, reason = "a bench stops where it cannot go on")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use skincell_vision::card::{
    Activation, Basis, ChannelOrder, Dtype, GradCam, Input, Layout, Resize, Target,
};
use skincell_vision::photo::{Limits, Photo, decode};
use skincell_vision::{gradcam, overlay, resize, tensor};
use std::hint::black_box;

/// Input size of EfficientNetV2-S in the origin app.
const MODEL: (u32, u32) = (300, 300);
/// A target so large that every decode is at full size.
const WHOLE: (u32, u32) = (8192, 8192);

fn photo() -> (Vec<u8>, Photo) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/large.jpg");
    let file = std::fs::read(path).expect("the committed photo");
    let photo = decode(&file, WHOLE, &Limits::default()).expect("a JPEG");
    (file, photo)
}

fn decoding(criterion: &mut Criterion) {
    let (jpeg, photo) = photo();
    let of_size = |width, height| {
        let sized = resize::resize(&photo, width, height).expect("a size");
        overlay::encode_png(&sized).expect("a PNG")
    };
    let (small, large) = (of_size(400, 500), of_size(6000, 4000));
    for (name, file, target) in [
        ("decode/jpeg 1341x1003, scaled", &jpeg, MODEL),
        ("decode/jpeg 1341x1003, whole", &jpeg, WHOLE),
        ("decode/png 400x500, whole", &small, MODEL),
        ("decode/png 6000x4000, averaged to 1000x667", &large, MODEL),
    ] {
        let limits = Limits::default();
        criterion.bench_function(name, |b| b.iter(|| decode(black_box(file), target, &limits)));
    }
}

fn resizing(criterion: &mut Criterion) {
    let (_, photo) = photo();
    for (width, height) in [(400, 500), (671, 502), (1000, 750), (1341, 1003)] {
        let sized = resize::resize(&photo, width, height).expect("a size");
        criterion.bench_function(&format!("resize/{width}x{height} to 300x300"), |b| {
            b.iter(|| resize::resize(black_box(&sized), MODEL.0, MODEL.1));
        });
    }
}

fn tensors(criterion: &mut Criterion) {
    let sized = resize::resize(&photo().1, MODEL.0, MODEL.1).expect("a size");
    for (name, layout, dtype) in [
        ("tensor/f32 nhwc", Layout::Nhwc, Dtype::F32),
        ("tensor/f32 nchw", Layout::Nchw, Dtype::F32),
        ("tensor/u8 nhwc", Layout::Nhwc, Dtype::U8),
        ("tensor/u8 nchw", Layout::Nchw, Dtype::U8),
    ] {
        let input = Input {
            name: "image".to_owned(),
            layout,
            dtype,
            width: MODEL.0,
            height: MODEL.1,
            mean: [123.675, 116.28, 103.53],
            std: [58.395, 57.12, 57.375],
            order: ChannelOrder::Rgb,
            resize: Resize::default(),
        };
        criterion.bench_function(name, |b| {
            b.iter(|| tensor::from_photo(black_box(&sized), &input));
        });
    }
}

fn drawing(criterion: &mut Criterion) {
    let sized = resize::resize(&photo().1, MODEL.0, MODEL.1).expect("a size");
    let map = GradCam {
        output: "cam".to_owned(),
        width: 10,
        height: 10,
        target: Target::Conv,
        basis: Basis::Probability,
        layer: None,
        of: skincell_vision::card::Form::Logits,
        classes: skincell_vision::card::MapClasses::All,
    };
    let cam: Vec<f32> = (0..700_u16).map(|i| f32::from(i % 97) - 40.0).collect();
    let even = [1.0 / 7.0; 7];
    let make = || gradcam::heatmap(black_box(&cam), &map, &even, Activation::Softmax, 3);
    criterion.bench_function("heatmap/7 classes of 10x10", |b| b.iter(make));
    let heatmap = make().expect("a heatmap");
    criterion.bench_function("overlay/300x300", |b| {
        b.iter(|| {
            overlay::overlay(black_box(&sized), &heatmap, overlay::ALPHA, overlay::Colormap::Jet)
        });
    });
    let drawn = overlay::overlay(&sized, &heatmap, overlay::ALPHA, overlay::Colormap::Jet);
    let size = overlay::encode_png(&drawn).expect("a PNG").len();
    criterion.bench_function(&format!("png/300x300, {size} bytes"), |b| {
        b.iter_batched(|| &drawn, overlay::encode_png, BatchSize::SmallInput);
    });
}

criterion_group!(benches, decoding, resizing, tensors, drawing);
criterion_main!(benches);
