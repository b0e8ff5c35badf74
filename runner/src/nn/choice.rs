//! Which engine runs which model: what the user says, what the model's folder holds, what the budget has
//! room for.

use super::{Cellnet, Engine, Engines, Rten};
use crate::settings::{EngineChoice, Settings};
use anyhow::Context;
use std::sync::Arc;

/// The engines that `settings` ask for, in order of preference, inside `budget` bytes.
///
/// # Errors
/// When ONNX Runtime is asked for and there is no library.
pub(crate) fn engines(settings: &Settings, budget: Option<u64>) -> anyhow::Result<Engines> {
    let alone = |engine: Arc<dyn Engine>| Engines::new(Vec::new(), engine);
    let cellnet = || Arc::new(Cellnet::new(settings.threads));
    let rten = || Arc::new(Rten::new(settings.threads));
    Ok(match settings.engine {
        EngineChoice::Cellnet => alone(cellnet()),
        EngineChoice::Rten => alone(rten()),
        EngineChoice::OnnxRuntime => {
            let engine = onnxruntime(settings, budget, Want::Always)?;
            alone(engine.context(
                "--engine onnxruntime needs an ONNX Runtime library: name it with --engine-lib or \
                 ORT_DYLIB_PATH; the Python package onnxruntime carries one, \
                 onnxruntime/capi/libonnxruntime.so.1.x",
            )?)
        }
        EngineChoice::Auto => {
            let mut preferred: Vec<Arc<dyn Engine>> = vec![cellnet()];
            match onnxruntime(settings, budget, Want::WhereItFits) {
                Ok(engine) => preferred.extend(engine),
                Err(error) => tracing::warn!("rten runs what cellnet does not: {error}"),
            }
            Engines::new(preferred, rten())
        }
    })
}

/// For which models ONNX Runtime is wanted.
enum Want {
    Always,
    WhereItFits,
}

/// Half the budget may become one model's private memory: requests need the rest.
#[cfg(feature = "onnxruntime")]
fn onnxruntime(
    settings: &Settings,
    budget: Option<u64>,
    want: Want,
) -> anyhow::Result<Option<Arc<dyn Engine>>> {
    let Some(library) = &settings.engine_library else { return Ok(None) };
    let engine = super::OnnxRuntime::new(library, settings.threads)?;
    let engine = engine.with_allowance(budget.map(|bytes| bytes / 2));
    Ok(Some(match want {
        Want::Always => Arc::new(engine),
        Want::WhereItFits => Arc::new(engine.only_where_it_fits()),
    }))
}

#[cfg(not(feature = "onnxruntime"))]
fn onnxruntime(
    _: &Settings,
    _: Option<u64>,
    want: Want,
) -> anyhow::Result<Option<Arc<dyn Engine>>> {
    match want {
        Want::Always => anyhow::bail!("this skincell was built without the engine onnxruntime"),
        Want::WhereItFits => Ok(None),
    }
}
