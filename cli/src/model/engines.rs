//! The server's engines, lent to modelkit: what `up` runs is what `check`, `measure` and `quantize` see.

use std::path::Path;
#[cfg(feature = "onnxruntime")]
use std::time::Instant;

use anyhow::bail;
use skincell_modelkit::served::{Engine, LoadedModel};
use skincell_runner::nn;
use skincell_vision::card::Dtype;
use skincell_vision::tensor::Tensor;
use wasmtime_wasi_nn::wit::TensorType;

/// An engine of the runner's.
struct Lent(Box<dyn nn::Engine>);

struct LentModel(Box<dyn nn::LoadedModel>);

/// The engines there are, the one a server prefers first.
fn all(threads: usize, library: Option<&Path>) -> anyhow::Result<Vec<Box<dyn nn::Engine>>> {
    let mut engines: Vec<Box<dyn nn::Engine>> =
        vec![Box::new(nn::Cellnet::new(threads)), Box::new(nn::Rten::new(threads))];
    #[cfg(feature = "onnxruntime")]
    if let Some(library) = library {
        engines.push(Box::new(nn::OnnxRuntime::new(library, threads)?));
    }
    #[cfg(not(feature = "onnxruntime"))]
    if library.is_some() {
        bail!("this skincell was built without the engine onnxruntime");
    }
    Ok(engines)
}

/// The engines of these names, or all of them where none is named.
///
/// # Errors
/// A name that no engine has, or no library where one was said to be.
pub(super) fn engines(
    named: &[String],
    threads: usize,
    library: Option<&Path>,
) -> anyhow::Result<Vec<Box<dyn Engine>>> {
    let mut engines = all(threads, library)?;
    let known: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
    if let Some(unknown) = named.iter().find(|name| !known.contains(&name.as_str())) {
        let hint =
            if unknown == "onnxruntime" { "; name its library with --engine-lib" } else { "" };
        bail!("there is no engine {unknown:?}; there are {}{hint}", known.join(", "));
    }
    engines.retain(|engine| named.is_empty() || named.iter().any(|name| name == engine.name()));
    Ok(engines.into_iter().map(|engine| Box::new(Lent(engine)) as Box<dyn Engine>).collect())
}

/// Whether ONNX Runtime loads the file, and in what time, as `model inspect` says it of an engine.
#[cfg(feature = "onnxruntime")]
pub(super) fn in_onnxruntime(model: &Path, library: &Path) -> (&'static str, bool, String) {
    let start = Instant::now();
    let loaded = nn::OnnxRuntime::new(library, 1)
        .map_err(|error| error.to_string())
        .and_then(|engine| engine.load_file(model).map_err(|error| error.to_string()));
    match loaded {
        Ok(_) => {
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            ("onnxruntime", true, format!("loads it in {milliseconds:.0} ms, its library included"))
        }
        Err(why) => ("onnxruntime", false, why),
    }
}

#[cfg(not(feature = "onnxruntime"))]
pub(super) fn in_onnxruntime(_: &Path, _: &Path) -> (&'static str, bool, String) {
    ("onnxruntime", false, "this skincell was built without it".to_owned())
}

impl Engine for Lent {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn takes(&self, folder: &Path) -> bool {
        self.0.takes(folder)
    }

    fn load(&self, folder: &Path) -> Result<Box<dyn LoadedModel>, String> {
        let model = self.0.load(folder).map_err(|error| error.to_string())?;
        Ok(Box::new(LentModel(model)))
    }
}

impl LoadedModel for LentModel {
    fn run(&mut self, input: &str, photo: &Tensor) -> Result<Vec<(String, Vec<f32>)>, String> {
        let kind = match photo.dtype {
            Dtype::F32 => TensorType::Fp32,
            Dtype::U8 => TensorType::U8,
        };
        let tensor =
            wasmtime_wasi_nn::Tensor::new(photo.dimensions.clone(), kind, photo.data.clone());
        let outputs = self.0.run(vec![(input.to_owned(), tensor)]).map_err(|e| e.to_string())?;
        let float32 = outputs.into_iter().filter(|(_, tensor)| tensor.ty == TensorType::Fp32);
        Ok(float32
            .map(|(name, tensor)| {
                let (elements, _) = tensor.data.as_chunks::<4>();
                (name, elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            })
            .collect())
    }
}
