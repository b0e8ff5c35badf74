//! `skincell model bake`: puts models into a component that implements `wasi:nn`, for hosts without it.

use crate::output::outln;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use skincell_modelkit::pack::is_packed;
use skincell_portable::bake::bake;

use crate::pack::{PackFlags, pack_and_report};

/// The component that models are baked into, as built by `spin build`.
const PROVIDER: &str = "target/wasm32-wasip2/release/skincell_portable.wasm";

/// Flags of `skincell model bake`.
#[derive(Debug, Args)]
#[command(after_help = "\
Stock Spin has no wasi-nn. The component written here implements it and has the models in its
memory, which all instances share until one writes to it; it reads no files. Name it in
spin.toml:
  [component.skincell.dependencies]
  \"wasi:nn@0.2.0-rc-2024-10-28\" = { path = \"skin.wasm\" }

Example:
  skincell model bake models/skin -o skin.wasm")]
pub(crate) struct BakeArguments {
    /// The model folders; each model is loaded by its folder's name
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,

    /// The component to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Do not pack folders without a model.cell for cellnet first; rten runs them
    #[arg(long)]
    no_pack: bool,

    /// The component to bake into, from `cargo build --release --target wasm32-wasip2 -p
    /// skincell-portable`
    #[arg(long, value_name = "FILE", default_value = PROVIDER)]
    provider: PathBuf,
}

/// Packs the folders that are not packed yet, bakes, and writes the component.
///
/// # Errors
/// A file is missing or refused.
pub(crate) fn run(arguments: &BakeArguments) -> anyhow::Result<ExitCode> {
    let provider = std::fs::read(&arguments.provider).with_context(|| {
        let file = arguments.provider.display();
        format!("cannot read {file}; `spin build` or the command in --help makes it")
    })?;
    let unpacked = arguments.folders.iter().filter(|folder| !is_packed(folder));
    let mut wanted = unpacked.filter(|_| !arguments.no_pack);
    wanted.try_for_each(|folder| pack_and_report(folder, &PackFlags::default()))?;
    let baked = bake(&provider, &arguments.folders)?;
    replace(&arguments.output, &baked)?;
    let size = bytesize::ByteSize::b(baked.len() as u64).display().iec();
    outln!("{}: {size}, with {}", arguments.output.display(), names(&arguments.folders));
    Ok(ExitCode::SUCCESS)
}

/// Writes a file atomically, so that readers never see a part of it.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn names(folders: &[PathBuf]) -> String {
    let names = folders.iter().map(|folder| folder.display().to_string());
    names.collect::<Vec<_>>().join(", ")
}
