//! Opening any bytes gives an error, or a model that runs inside its arena.
//!
//! The input is used twice: as a whole file, and as a plan with a correct header and checksums, so that
//! plans that pass the checks are executed on every instruction set. The script `run` in the folder above
//! makes seeds, builds with AddressSanitizer and runs.
#![no_main]

use std::sync::OnceLock;

use cellnet::plan::{Blob, Dtype, Operand, Plan, Step};
use cellnet::{Isa, Model, Pool, TensorRef, Workspace, format};
use libfuzzer_sys::fuzz_target;

/// Largest arena and weights that are tried, in floats.
const FLOATS: u64 = 1 << 18;
/// Most multiply-adds that are tried.
const WORK: u64 = 1 << 24;

fuzz_target!(|data: &[u8]| {
    let _ = Model::from_bytes(data);
    let Ok(plan) = postcard::from_bytes::<Plan>(data) else { return };
    if plan.arena > FLOATS || work(&plan) > WORK {
        return;
    }
    let weights: Vec<f32> = (0..weights_of(&plan)).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
    let Ok(file) = format::write(&plan, &weights) else { return };
    let Ok(model) = Model::from_bytes(&file) else { return };
    static POOLS: OnceLock<[Pool; 2]> = OnceLock::new();
    let pools = POOLS.get_or_init(|| [Pool::new(1), Pool::new(2)]);
    for (i, isa) in Isa::available().into_iter().enumerate() {
        run(&model, isa, &pools[i % 2]);
    }
});

fn run(model: &Model, isa: Isa, pool: &Pool) {
    let bytes: Vec<Vec<u8>> = model.inputs().iter().map(|p| vec![7; p.elements()]).collect();
    let floats: Vec<Vec<f32>> = model.inputs().iter().map(|p| vec![0.5; p.elements()]).collect();
    let inputs: Vec<(&str, TensorRef<'_>)> = model
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, p)| match p.dtype {
            Dtype::U8 => (p.name.as_str(), TensorRef::U8(&bytes[i])),
            Dtype::F32 => (p.name.as_str(), TensorRef::F32(&floats[i])),
        })
        .collect();
    let _ = model.run(&mut Workspace::with_isa(model, isa), pool, &inputs);
}

/// The number of weights that the plan's blobs need, limited to a sane size.
fn weights_of(plan: &Plan) -> u64 {
    let blobs = plan.steps.iter().flat_map(|step| match step {
        Step::Conv(s) => {
            let sums = s.sums.map(|sums| [sums.start, sums.factors]);
            [s.weights, s.bias].into_iter().chain(s.scales).chain(sums.into_iter().flatten()).collect()
        }
        Step::Depthwise(s) => vec![s.weights, s.bias],
        Step::Affine(s) => [s.scale, s.bias].into_iter().flatten().collect(),
        Step::Norm(s) => vec![s.scale, s.bias],
        Step::Prepend(s) => vec![s.head],
        Step::Attention(s) => [s.bias, s.mask].into_iter().flatten().collect(),
        Step::Binary(s) => [s.a, s.b].into_iter().filter_map(constant).collect(),
        _ => Vec::new(),
    });
    let end = blobs.map(|b| b.offset.saturating_add(b.len)).max().unwrap_or(0);
    end.saturating_add(64).min(FLOATS).next_multiple_of(16)
}

fn constant(operand: Operand) -> Option<Blob> {
    match operand {
        Operand::Constant { values, .. } => Some(values),
        Operand::Map(_) => None,
    }
}

/// A bound of the multiply-adds of a plan.
fn work(plan: &Plan) -> u64 {
    let pixels = |map: u32| {
        let map = plan.maps.get(map as usize);
        map.map_or(0, |m| u64::from(m.height).saturating_mul(m.width.into()))
    };
    let step = |s: &Step| match s {
        Step::Conv(c) => pixels(c.output).saturating_add(64).saturating_mul(c.weights.len),
        Step::Depthwise(c) => pixels(c.output).saturating_mul(c.weights.len),
        Step::Pool(c) => {
            let kernel = u64::from(c.window.kernel[0]).saturating_mul(c.window.kernel[1].into());
            pixels(c.output).saturating_mul(kernel).saturating_mul(64)
        }
        Step::Product(c) => {
            let channels = plan.maps.get(c.a as usize).map_or(0, |m| u64::from(m.channels));
            pixels(c.a).saturating_mul(pixels(c.b)).saturating_mul(channels)
        }
        Step::Attention(s) => {
            let (queries, keys) = (pixels(s.output).saturating_add(64), pixels(s.key).saturating_add(64));
            let channels = u64::from(s.head).saturating_add(s.value_head.into()).saturating_add(32);
            queries.saturating_mul(keys).saturating_mul(channels.saturating_mul(64))
        }
        _ => FLOATS,
    };
    plan.steps.iter().map(step).fold(0, u64::saturating_add)
}
