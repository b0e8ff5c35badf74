//! The server's engines by name, so that `check`, `measure` and `quantize` use the same engines as `up`.

use std::path::Path;
#[cfg(feature = "onnxruntime")]
use std::time::Instant;

use anyhow::bail;
#[cfg(feature = "onnxruntime")]
use skincell_engines::OnnxRuntime;
use skincell_engines::{Cellnet, Engine, Rten};

/// All engines, in the server's order of preference.
fn all(threads: usize, library: Option<&Path>) -> anyhow::Result<Vec<Box<dyn Engine>>> {
    let mut engines: Vec<Box<dyn Engine>> =
        vec![Box::new(Cellnet::new(threads)), Box::new(Rten::new(threads))];
    #[cfg(feature = "onnxruntime")]
    if let Some(library) = library {
        engines.push(Box::new(OnnxRuntime::new(library, threads)?));
    }
    #[cfg(not(feature = "onnxruntime"))]
    if library.is_some() {
        bail!(
            "this skincell was built without the engine onnxruntime; build it with the feature \
             onnxruntime, or name no library"
        );
    }
    Ok(engines)
}

/// The engines with these names, or all engines if no name is given.
///
/// # Errors
/// A name is unknown, or the named library does not exist.
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
    Ok(engines)
}

/// Whether ONNX Runtime loads the file, and how fast, as a row for `model inspect`.
#[cfg(feature = "onnxruntime")]
pub(super) fn in_onnxruntime(model: &Path, library: &Path) -> (&'static str, bool, String) {
    let start = Instant::now();
    let loaded = OnnxRuntime::new(library, 1)
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
