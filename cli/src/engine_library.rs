//! The flag for the ONNX Runtime library, shared by all commands that run models.

use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// The library of the engine onnxruntime.
#[derive(Debug, Clone, Args)]
pub struct EngineLibrary {
    /// The ONNX Runtime library, which enables the engine onnxruntime: the file libonnxruntime.so.1.x in
    /// the folder capi of the Python package onnxruntime.
    #[arg(long, value_name = "FILE", env = "ORT_DYLIB_PATH")]
    engine_lib: Option<OsString>,
}

impl EngineLibrary {
    /// The library's path. An empty value, as in a cleared variable, counts as none.
    pub fn path(&self) -> Option<PathBuf> {
        self.engine_lib.as_ref().filter(|path| !path.is_empty()).map(PathBuf::from)
    }
}
