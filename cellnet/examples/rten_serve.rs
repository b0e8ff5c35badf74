//! Runs rten behind the line protocol of `cell serve`, so that `bench/engine/compare.py` can alternate
//! between both: `rten_serve MODEL.onnx INPUT.bin [--threads N]` runs once and prints the milliseconds for
//! each line of input.

use std::error::Error;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use rten::{Model, RunOptions, ThreadPool};
use rten_tensor::NdTensor;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, rest @ ..] = args.as_slice() else {
        return Err("usage: rten_serve MODEL.onnx INPUT.bin [--threads N]".into());
    };
    let threads = match rest {
        [flag, count] if flag == "--threads" => count.parse()?,
        _ => 1,
    };
    let model = Model::load_file(model)?;
    let values: Vec<f32> =
        std::fs::read(input)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let id = *model.input_ids().first().ok_or("the model takes no input")?;
    let shape = model.node_info(id).and_then(|n| n.shape()).ok_or("no shape")?;
    let shape: Vec<usize> = shape
        .iter()
        .map(|d| match d {
            rten::Dimension::Fixed(n) => *n,
            rten::Dimension::Symbolic(_) => 1,
        })
        .collect();
    let shape: [usize; 4] = shape.try_into().map_err(|_| "not four dimensions")?;
    let pool = Arc::new(ThreadPool::with_num_threads(threads));
    for line in std::io::stdin().lock().lines() {
        line?;
        let begin = Instant::now();
        let tensor = NdTensor::from_data(shape, values.clone());
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&pool)));
        model.run(vec![(id, tensor.into())], model.output_ids(), Some(options))?;
        println!("{:.4}", begin.elapsed().as_secs_f64() * 1e3);
        std::io::stdout().flush()?;
    }
    Ok(())
}
