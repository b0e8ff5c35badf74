//! The flags for what a machine gives, its memory and a folder for compiled components: shared by the
//! commands that serve and by `doctor`.

use bytesize::ByteSize;
use clap::Args;
use skincell_runner::memory::MemoryLimit;
use skincell_runner::sandbox::CompileCache;
use std::path::PathBuf;

/// The memory limit.
#[derive(Debug, Args)]
pub struct MemoryFlag {
    /// Memory the service may use: auto is the control group's limit or the machine's memory.
    #[arg(
        long,
        value_name = "auto|SIZE|none",
        env = "SKINCELL_MEMORY_LIMIT",
        default_value = "auto"
    )]
    #[arg(value_parser = memory_limit)]
    pub memory_limit: MemoryLimit,
}

/// The cache of compiled components.
#[derive(Debug, Args)]
pub struct CacheFlag {
    /// Folder for compiled components [default: ~/.cache/skincell].
    #[arg(long, value_name = "FOLDER", env = "SKINCELL_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
}

impl CacheFlag {
    /// The named folder, or the default one; `None` if the environment names none either.
    pub fn folder(&self) -> Option<PathBuf> {
        self.cache_dir.clone().or_else(CompileCache::default_folder)
    }
}

fn memory_limit(text: &str) -> Result<MemoryLimit, String> {
    match text {
        "auto" => Ok(MemoryLimit::Auto),
        "none" => Ok(MemoryLimit::None),
        size => size
            .parse::<ByteSize>()
            .map(|size| MemoryLimit::Bytes(size.as_u64()))
            .map_err(|_| "write auto, none, or a size such as 256MiB".to_owned()),
    }
}
