//! `skincell doctor`: shows what serving and preparing need, what of it is here, and what to do about the
//! rest. It installs and changes nothing, except that it makes the cache folder.

use crate::engine_library::EngineLibrary;
use crate::listen;
use crate::machine_flags::{CacheFlag, MemoryFlag};
use crate::model::prepare::python;
use crate::output::outln;
use crate::serve::installed::{self, Component};
use bytesize::ByteSize;
use clap::Args;
#[cfg(feature = "onnxruntime")]
use skincell_engines::OnnxRuntime;
#[cfg(not(feature = "onnxruntime"))]
use skincell_engines::select::SelectError;
use skincell_runner::memory::{
    Budget, MemoryLimit, ModelNeeds, Overrides, Plan, address_space_limit,
};
use skincell_runner::sandbox::CompileCache;
use skincell_runner::settings::Settings;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Show what is here for serving and preparing models, and what to do about what is not.
#[derive(Debug, Args)]
#[command(after_help = "The exit code is 1 if something is missing that `skincell serve` needs.")]
pub struct Doctor {
    /// The address that should be free.
    #[arg(long, value_name = "ADDRESS", env = "SPIN_HTTP_LISTEN_ADDR")]
    #[arg(default_value = "127.0.0.1:3000", value_parser = listen::address)]
    listen: SocketAddr,

    /// The Python to look for frameworks in.
    #[arg(long, value_name = "PYTHON", env = "SKINCELL_PYTHON")]
    python: Option<PathBuf>,

    #[command(flatten)]
    engine_lib: EngineLibrary,

    #[command(flatten)]
    cache: CacheFlag,

    #[command(flatten)]
    memory: MemoryFlag,
}

/// What was found, or what to do.
type Finding = Result<String, String>;

impl Doctor {
    /// Prints the findings.
    pub fn run(self) -> ExitCode {
        let needed = [
            ("component", component()),
            ("memory", memory(self.memory.memory_limit)),
            ("address", self.address()),
        ];
        let useful = [
            ("model", model()),
            ("processor", Ok(processor())),
            ("cache", self.cache()),
            ("onnxruntime", self.onnxruntime()),
            ("Keras", self.packages(&["keras", "tensorflow-cpu|tensorflow", "tf2onnx"])),
            ("PyTorch", self.packages(&["torch", "onnx", "onnxscript"])),
        ];
        outln!("skincell {}, engines cellnet and rten", env!("CARGO_PKG_VERSION"));
        needed.iter().for_each(|(name, found)| print(name, found, "MISSING"));
        useful.iter().for_each(|(name, found)| print(name, found, "none"));
        match needed.iter().all(|(_, found)| found.is_ok()) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    fn address(&self) -> Finding {
        let address = self.listen;
        match TcpListener::bind(address) {
            Ok(_) => Ok(format!("{address} is free")),
            Err(error) => Err(format!("{address}: {error}; choose another with --listen")),
        }
    }

    fn onnxruntime(&self) -> Finding {
        let Some(library) = self.engine_lib.path() else {
            return Err("not needed; --engine-lib names its library, to run graphs without a model.cell faster"
                .to_owned());
        };
        check_library(&library)?;
        Ok(library.display().to_string())
    }

    fn cache(&self) -> Finding {
        let folder = self
            .cache
            .folder()
            .ok_or("neither HOME nor XDG_CACHE_HOME is set; name a folder with --cache-dir")?;
        match CompileCache::open(&folder) {
            Ok(_) => Ok(folder.display().to_string()),
            Err(error) => Err(format!("{error:#}; starts are slow without it")),
        }
    }

    /// The versions of Python packages; alternatives are separated by a bar.
    fn packages(&self, names: &[&str]) -> Finding {
        const SCRIPT: &str = "\
import sys
from importlib.metadata import PackageNotFoundError, version
for names in sys.argv[1:]:
    for name in names.split('|'):
        try:
            print(name, version(name))
            break
        except PackageNotFoundError:
            pass
    else:
        sys.exit(names.split('|')[0])
";
        let python = self.python.clone().unwrap_or_else(python);
        let shown = python.display();
        let run = Command::new(&python).args(["-c", SCRIPT]).args(names).output();
        let run = run.map_err(|error| format!("{shown} does not start: {error}; see --python"))?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', ", ");
        if run.status.success() {
            return Ok(format!("{} in {shown}", said(&run.stdout)));
        }
        let lacks = said(&run.stderr);
        Err(format!(
            "{shown} lacks {lacks}; only its own models need it: pip install it, or see --python"
        ))
    }
}

/// Loads the library of ONNX Runtime.
#[cfg(feature = "onnxruntime")]
fn check_library(library: &Path) -> Result<(), String> {
    let engine = OnnxRuntime::new(library, 1).map_err(|error| error.to_string())?;
    engine.load_library().map_err(|error| {
        format!(
            "{} is not a library of ONNX Runtime that can be used: {error}; name the file \
             onnxruntime/capi/libonnxruntime.so.1.x of the Python package onnxruntime",
            library.display()
        )
    })
}

#[cfg(not(feature = "onnxruntime"))]
fn check_library(_library: &Path) -> Result<(), String> {
    Err(SelectError::NotBuilt.to_string())
}

fn print(name: &str, found: &Finding, missing: &str) {
    match found {
        Ok(found) => outln!("  {name:<12} {found}"),
        Err(advice) => outln!("  {name:<12} {missing}: {advice}"),
    }
}

fn component() -> Finding {
    match installed::component(None) {
        Ok(Component::Embedded(bytes)) => {
            Ok(format!("in this program, {}", ByteSize::b(bytes.len() as u64).display().iec()))
        }
        Ok(Component::File(file)) => Ok(file.display().to_string()),
        Err(error) => Err(format!("{error:#}; name one with --component")),
    }
}

fn model() -> Finding {
    installed::skin()
        .map(|folder| folder.display().to_string())
        .map_err(|error| format!("{error:#}"))
}

/// The budget, whose limit it is, and how many requests it has room for.
fn memory(limit: MemoryLimit) -> Finding {
    let budget = Budget::new(limit);
    // A control group without a limit, or with one above the machine's memory, does not limit anything.
    let group = budget.group.as_ref().and_then(|group| group.limit());
    let whose = match limit {
        MemoryLimit::Auto if group.is_some() && group == budget.bytes => {
            "the control group's limit"
        }
        MemoryLimit::Auto => "the machine's memory",
        MemoryLimit::Bytes(_) | MemoryLimit::None => "of --memory-limit",
    };
    let size = match budget.bytes {
        Some(bytes) => ByteSize::b(bytes).display().iec().to_string(),
        None => "no limit".to_owned(),
    };
    let default = Settings::default();
    let overrides = Overrides {
        instance: None,
        concurrency: None,
        max_body: default.max_body,
        max_head: default.max_head,
        guest_models: 0,
        key_value: 0,
    };
    // The models are those of an application, which is not known here.
    match Plan::new(&budget, overrides, || ModelNeeds { private: 0, run: 0 }) {
        Ok(_) if address_space_limit().is_some() => Err(format!(
            "{size}, {whose}, but the address space is limited too, and instances reserve gigabytes of it: lift \
             that limit with `ulimit -v unlimited`"
        )),
        Ok(plan) if plan.models.is_some() => {
            Ok(format!("{size}, {whose}: one request at a time, if a model's run takes little"))
        }
        Ok(plan) => Ok(format!("{size}, {whose}: {} requests at a time", plan.concurrency)),
        Err(error) => Err(format!("{size}, {whose}: {error}")),
    }
}

/// Cores, and the instruction sets that the engines use.
fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores, {}", instruction_set())
}

#[cfg(target_arch = "x86_64")]
fn instruction_set() -> &'static str {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        "AVX2"
    } else {
        "SSE2 only: inference is several times slower than with AVX2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_set() -> &'static str {
    std::env::consts::ARCH
}

#[cfg(all(test, feature = "onnxruntime"))]
mod tests {
    use super::check_library;
    use std::path::Path;

    /// Any file was taken for the library.
    #[test]
    fn a_file_that_is_not_onnx_runtime_is_named_so() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let error = check_library(&manifest).unwrap_err();
        assert!(error.contains("Cargo.toml is not a library of ONNX Runtime"), "{error}");
        assert!(error.contains("capi/libonnxruntime"), "{error}");
        let error = check_library(Path::new("/none")).unwrap_err();
        assert!(error.contains("there is no ONNX Runtime library at /none"), "{error}");
    }
}
