//! The flag that names the ONNX Runtime library, the same for every command that runs models.

use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Where the engine onnxruntime is.
#[derive(Debug, Clone, Args)]
pub struct EngineLibrary {
    /// The ONNX Runtime library, which makes the engine onnxruntime available: the file
    /// libonnxruntime.so.1.x that the Python package onnxruntime has in its folder capi.
    #[arg(long, value_name = "FILE", env = "ORT_DYLIB_PATH")]
    engine_lib: Option<OsString>,
}

impl EngineLibrary {
    /// The library's path; an empty one is none, as in a variable that was cleared.
    pub fn path(&self) -> Option<PathBuf> {
        self.engine_lib.as_ref().filter(|path| !path.is_empty()).map(PathBuf::from)
    }
}
