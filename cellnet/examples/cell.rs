//! Packs, describes, runs and times models from the command line; used by `bench/engine`.
//!
//! ```text
//! cell pack MODEL.onnx MODEL.cell [direct|f2|f4|all] [half]
//! cell plan MODEL.cell
//! cell run MODEL.cell INPUT.bin OUTPUT_FOLDER [--threads N] [--isa NAME]
//! cell serve MODEL.cell INPUT.bin [--threads N] [--isa NAME] [--wait]
//! ```
//!
//! `serve` runs the model once for each line on standard input and prints the milliseconds it took, so that
//! another program can alternate runs with it. With `--wait` the first line opens the model instead, and
//! the answer is the milliseconds opening took.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use cellnet::pack::{Options, pack_file};
use cellnet::plan::{Algorithm, Dtype, Precision};
use cellnet::{Isa, Model, Pool, TensorRef, Workspace};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["pack", onnx, cell, rest @ ..] => pack(onnx, cell, rest),
        ["plan", cell] => plan(cell),
        ["run", cell, input, folder, rest @ ..] => run(cell, input, folder, rest),
        ["serve", cell, input, rest @ ..] => serve(cell, input, rest),
        _ => Err("usage: cell pack|plan|run|serve … (see the top of the source)".into()),
    }
}

fn pack(onnx: &str, cell: &str, words: &[&str]) -> Outcome {
    let all = [Algorithm::Direct, Algorithm::Winograd2, Algorithm::Winograd4];
    let algorithms = match words.first().copied() {
        Some("direct") => all[..1].to_vec(),
        Some("f2") => all[..2].to_vec(),
        _ => all.to_vec(),
    };
    let half = words.contains(&"half");
    let precision = if half { Precision::Half } else { Precision::Single };
    let begin = Instant::now();
    let options = Options { algorithms, precision, ..Options::default() };
    pack_file(Path::new(onnx), Path::new(cell), &options)?;
    let bytes = std::fs::metadata(cell)?.len();
    println!("{cell}: {bytes} bytes in {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn plan(cell: &str) -> Outcome {
    let model = Model::open(cell)?;
    let plan = model.plan();
    for (i, step) in plan.steps.iter().enumerate() {
        println!("{i:3} {:?} -> {:?}", plan.maps[step.output() as usize], step);
    }
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    println!(
        "{} steps, weights {:.2} MB, arena {:.2} MB, workspace for 1 thread {:.2} MB",
        plan.steps.len(),
        megabytes(model.weights_bytes()),
        megabytes(plan.arena as usize * 4),
        megabytes(model.workspace_bytes(1)),
    );
    Ok(())
}

/// A model with its input, workspace and pool.
struct Session {
    model: Model,
    workspace: Workspace,
    pool: Pool,
    /// The input's bytes, aligned for floats.
    input: Vec<f32>,
}

impl Session {
    fn new(cell: &str, input: &str, options: &[&str]) -> Result<Self, Box<dyn Error>> {
        let option = |name: &str| {
            let at = options.iter().position(|o| *o == name)?;
            options.get(at + 1).copied()
        };
        let threads = option("--threads").map_or(Ok(1), str::parse)?;
        let isa = match option("--isa") {
            None => Isa::detect(),
            Some(name) => {
                let isa = Isa::available().into_iter().find(|i| i.name() == name);
                isa.ok_or("this machine does not have that instruction set")?
            }
        };
        let bytes = std::fs::read(input)?;
        let input = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        drop(bytes);
        if options.contains(&"--wait") {
            eprintln!("ready");
            std::io::stdin().lock().read_line(&mut String::new())?;
        }
        let begin = Instant::now();
        let model = Model::open(cell)?;
        let opened = begin.elapsed().as_secs_f64() * 1e3;
        if options.contains(&"--wait") {
            println!("{opened:.4}");
            std::io::stdout().flush()?;
        }
        let workspace = Workspace::with_isa(&model, isa);
        Ok(Self { model, workspace, pool: Pool::new(threads), input })
    }

    fn run(&mut self) -> Result<Vec<(String, cellnet::OutputTensor)>, Box<dyn Error>> {
        let spec = self.model.inputs().first().ok_or("the model takes no input")?;
        let tensor = match spec.dtype {
            Dtype::U8 => TensorRef::U8(bytemuck::cast_slice(&self.input)),
            Dtype::F32 => TensorRef::F32(&self.input),
        };
        Ok(self.model.run(&mut self.workspace, &self.pool, &[(spec.name.as_str(), tensor)])?)
    }
}

fn run(cell: &str, input: &str, folder: &str, options: &[&str]) -> Outcome {
    let mut session = Session::new(cell, input, options)?;
    for (name, tensor) in session.run()? {
        let bytes: Vec<u8> = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(Path::new(folder).join(format!("{name}.bin")), bytes)?;
    }
    Ok(())
}

fn serve(cell: &str, input: &str, options: &[&str]) -> Outcome {
    let mut session = Session::new(cell, input, options)?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let begin = Instant::now();
        session.run()?;
        println!("{:.4}", begin.elapsed().as_secs_f64() * 1e3);
        std::io::stdout().flush()?;
    }
    Ok(())
}
