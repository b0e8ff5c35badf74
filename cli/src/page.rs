//! `skincell page`: the page that looks at photos on the user's own device, as a folder for any web host or
//! for `spin.toml`.

use crate::output::outln;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use skincell::device::{DeviceModel, Engine, INDEX_FILE, Index, StoredFile};
use skincell_engines::source::{CELL_FILE, GRAPH_FILE, WEIGHTS_FILE};
use skincell_modelkit::CARD_FILE;
use skincell_modelkit::pack::{PackOptions, pack};
use skincell_modelkit::served::read_card;

use crate::pack::PrecisionFlag;
use crate::serve::installed;

/// The engine's builds, fastest first.
const ENGINES: [&str; 2] = ["relaxed", "simd"];
/// Compression is used only if it saves at least this share of the bytes: decompressing takes a phone's time.
/// The share is chosen, not measured.
const LEAST_SAVED: f64 = 0.03;

/// Write the page that looks at photos on the user's own device, for any web host.
///
/// Photos never leave the device: the browser runs the model. The folder has the page, the engine compiled to
/// WebAssembly, and the packed models.
#[derive(Debug, Args)]
#[command(after_help = "\
Only models whose card.json says \"on_device\": true are taken: whoever opens the page gets a copy.

Examples:
  skincell page -o site                     a folder for any web host, over https; in a checkout,
                                            browser/build makes the engine first
  skincell page -o device                   beside spin.toml, which mounts device/page: then
                                            SKINCELL_PAGE=both or device offers it in the service
  skincell model quantize models/skin -o small/skin --to int8 --photos PHOTOS
  skincell page small/skin -o site          halves the download once more; answers then differ by
                                            some points (docs/page.md)")]
pub(crate) struct Page {
    /// The model folders [default: all in --models whose card allows it]
    #[arg(value_name = "FOLDER")]
    folders: Vec<PathBuf>,

    /// The folder to write; a folder that this command wrote before is replaced
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,

    /// The folder of the model folders [default: models, or that of the installation]
    #[arg(long, value_name = "FOLDER")]
    models: Option<PathBuf>,

    /// Bits of the large weights; those that `model quantize` made 8-bit integers stay so
    #[arg(long, value_enum, default_value = "half")]
    precision: PrecisionFlag,

    /// The folder of the engine's two builds [default: that of the installation, or target/browser]
    #[arg(long, value_name = "FOLDER")]
    engine: Option<PathBuf>,
}

impl Page {
    /// Writes the folder and prints what is in it.
    ///
    /// # Errors
    /// A file is missing or refused, or a model may not be given to browsers.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let folders = self.offered()?;
        // Read before anything is removed.
        let engines = self.engines()?;
        self.clear()?;
        let mut index = Index::default();
        for (features, code) in ENGINES.into_iter().zip(engines) {
            let file = self.store("page/device", &code)?;
            print_size(&format!("engine, {features}"), &file);
            index.engines.push(Engine { features: features.to_owned(), file });
        }
        for folder in &folders {
            let model = self.model(folder)?;
            print_size(&format!("model {}", model.name), &model.file);
            index.models.push(model);
        }
        index.default = index.models.first().map(|model| model.name.clone());
        for (name, bytes) in skincell::page::files() {
            self.write(name, &bytes)?;
        }
        self.write(INDEX_FILE, &serde_json::to_vec(&index)?)?;
        outln!("{}: serve it over https, or from localhost", self.output.display());
        Ok(ExitCode::SUCCESS)
    }

    /// The engine's builds, in the order of [`ENGINES`].
    fn engines(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let folder = self.engine.clone().map_or_else(installed::browser_engine, Ok)?;
        let read = |features: &str| {
            let path = folder.join(features).with_extension("wasm");
            std::fs::read(&path)
                .with_context(|| format!("cannot read {}; browser/build makes it", path.display()))
        };
        ENGINES.into_iter().map(read).collect()
    }

    /// The folders of the models that browsers may load.
    fn offered(&self) -> anyhow::Result<Vec<PathBuf>> {
        let allows = |folder: &Path| anyhow::Ok(read_card(folder)?.on_device);
        // A card that cannot be read is reported when its model is written, with the reason.
        if let Some(refused) =
            self.folders.iter().find(|folder| matches!(allows(folder), Ok(false)))
        {
            let card = refused.join(CARD_FILE);
            bail!(
                "{} does not say \"on_device\": true; add it if its licence lets you give the model away",
                card.display()
            );
        }
        if !self.folders.is_empty() {
            return Ok(self.folders.clone());
        }
        let models = self.models.clone().map_or_else(installed::models, Ok)?;
        let entries = std::fs::read_dir(&models)
            .with_context(|| format!("cannot read the folder {}", models.display()))?;
        let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        folders.retain(|folder| folder.join(CARD_FILE).is_file());
        folders.sort_unstable();
        let mut offered = Vec::new();
        for folder in folders {
            if allows(&folder)? {
                offered.push(folder);
            }
        }
        if offered.is_empty() {
            bail!("no card.json in {}/* says \"on_device\": true", models.display());
        }
        Ok(offered)
    }

    /// Removes what an earlier run wrote; a folder with other files is refused.
    fn clear(&self) -> anyhow::Result<()> {
        let has_files =
            std::fs::read_dir(&self.output).is_ok_and(|mut files| files.next().is_some());
        if !has_files {
            return Ok(());
        }
        if !self.output.join(INDEX_FILE).is_file() {
            bail!("{} has other files; name an empty or new folder", self.output.display());
        }
        let page = self.output.join("page");
        std::fs::remove_dir_all(&page).with_context(|| format!("cannot remove {}", page.display()))
    }

    /// Packs a model and stores it.
    fn model(&self, folder: &Path) -> anyhow::Result<DeviceModel> {
        let card = read_card(folder)?;
        let place = tempfile::tempdir().context("cannot make a temporary folder")?;
        for name in [CARD_FILE, GRAPH_FILE, WEIGHTS_FILE] {
            let source = folder.join(name);
            if source.is_file() {
                std::fs::copy(&source, place.path().join(name))
                    .with_context(|| format!("cannot copy {}", source.display()))?;
            }
        }
        let options = PackOptions { precision: self.precision.into(), ..PackOptions::default() };
        pack(place.path(), &options).with_context(|| {
            format!("{} cannot run on devices, which have only cellnet", folder.display())
        })?;
        let cell = std::fs::read(place.path().join(CELL_FILE))?;
        let text = std::fs::read(folder.join(CARD_FILE))?;
        let text: Value = serde_json::from_slice(&text)?;
        let file = self.store(&format!("page/models/{}", card.name), &cell)?;
        Ok(DeviceModel { name: card.name, card: text, file })
    }

    /// Writes a file under its digest, compressed if that pays.
    fn store(&self, folder: &str, content: &[u8]) -> anyhow::Result<StoredFile> {
        let digest = format!("{:x}", Sha256::digest(content));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content)?;
        let compressed = encoder.finish()?;
        let gzip = (compressed.len() as f64) < content.len() as f64 * (1.0 - LEAST_SAVED);
        let stored = if gzip { &compressed } else { content };
        self.write(&format!("{folder}/{digest}"), stored)?;
        let (bytes, stored) = (content.len() as u64, stored.len() as u64);
        Ok(StoredFile { digest, bytes, stored, gzip })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.output.join(name);
        let folder = path.parent().unwrap_or(&self.output);
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, bytes));
        written.with_context(|| format!("cannot write {}", path.display()))
    }
}

fn print_size(what: &str, file: &StoredFile) {
    let [bytes, stored] =
        [file.bytes, file.stored].map(|size| bytesize::ByteSize::b(size).display().si());
    outln!("{what}: {bytes}, {stored} to load");
}
