//! `skincell classify`: photos through the same component, without a server.

use crate::run_options::{RunOptions, runtime};
use crate::table;
use anyhow::{Context, bail};
use base64::Engine;
use bytes::Bytes;
use clap::Args;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use skincell_runner::service::Service;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Classify photos with the application's component, without a server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  skincell classify photo.jpg
  skincell classify photo.jpg -o heat.png          write the heatmap over the photo
  skincell classify *.jpg -o heatmaps/             one heatmap per photo, in a folder
  skincell classify *.jpg --json > results.jsonl   one JSON object per line

A photo that fails is reported on standard error, the others go on, and the exit code is 1.")]
pub struct Classify {
    /// The photos: JPEG, PNG, WebP, BMP or GIF.
    #[arg(required = true, value_name = "PHOTO")]
    photos: Vec<PathBuf>,

    /// Write the heatmap here: a PNG file, or for several photos a folder.
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Print one JSON object per photo and line.
    #[arg(long)]
    json: bool,

    /// How many classes to show.
    #[arg(long, value_name = "N", default_value_t = 7)]
    top_k: usize,

    /// Show the heatmap of this class, by name or index [default: the first].
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,

    /// Which model to ask [default: the application's].
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    #[command(flatten)]
    run: RunOptions,
}

type Task = (PathBuf, JoinHandle<anyhow::Result<Value>>);

impl Classify {
    /// Classifies every photo, in order; 1 when some could not be.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (app, settings) = self.run.load()?;
        let target = self.target();
        let bar = progress(self.photos.len());
        let failed = runtime()?.block_on(async {
            let service = Arc::new(Service::start(app, &settings)?);
            let mut tasks: VecDeque<Task> = VecDeque::new();
            let mut failed = 0_usize;
            let mut waiting = self.photos.iter();
            loop {
                // As many under way as there are slots; results are shown in the order given.
                while tasks.len() < service.plan().concurrency {
                    let Some(photo) = waiting.next() else { break };
                    let ask = ask(Arc::clone(&service), photo.clone(), target.clone());
                    tasks.push_back((photo.clone(), tokio::spawn(ask)));
                }
                let Some((photo, task)) = tasks.pop_front() else { break };
                let shown = task.await?.and_then(|answer| self.show(&photo, &answer, &bar));
                if let Err(error) = shown {
                    failed += 1;
                    bar.suspend(|| eprintln!("error: {}: {error:#}", photo.display()));
                }
                bar.inc(1);
            }
            anyhow::Ok(failed)
        })?;
        bar.finish_and_clear();
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The request target, with what was asked for as its query.
    fn target(&self) -> String {
        let wants_heatmap = self.output.is_some() || self.json;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("top_k", &self.top_k.to_string());
        query.append_pair("gradcam", if wants_heatmap { "true" } else { "false" });
        for (name, value) in [("class", &self.class), ("model", &self.model)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        format!("/predict?{}", query.finish())
    }

    /// Prints one answer and writes its heatmap.
    fn show(&self, photo: &Path, answer: &Value, bar: &ProgressBar) -> anyhow::Result<()> {
        if let Some(output) = &self.output {
            self.write_heatmap(photo, answer, output)?;
        }
        let text = if self.json {
            let mut line = json!({ "photo": photo });
            if let (Some(line), Some(answer)) = (line.as_object_mut(), answer.as_object()) {
                line.extend(answer.clone());
            }
            line.to_string()
        } else {
            table::answer(photo, answer)
        };
        bar.suspend(|| println!("{text}"));
        Ok(())
    }

    fn write_heatmap(&self, photo: &Path, answer: &Value, output: &Path) -> anyhow::Result<()> {
        let Some(encoded) = answer["heatmap_base64"].as_str() else {
            let why = answer["heatmap_missing"].as_str().unwrap_or("the model has none");
            bail!("there is no heatmap: {why}");
        };
        let png = base64::engine::general_purpose::STANDARD.decode(encoded)?;
        let path = if self.photos.len() > 1 || output.is_dir() {
            std::fs::create_dir_all(output)?;
            let name = photo.file_stem().context("the photo has no file name")?;
            output.join(name).with_extension("png")
        } else {
            output.to_path_buf()
        };
        std::fs::write(&path, png).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Posts one photo to the component and gives its JSON answer.
async fn ask(service: Arc<Service>, photo: PathBuf, target: String) -> anyhow::Result<Value> {
    let bytes = tokio::task::spawn_blocking(move || std::fs::read(photo)).await??;
    let request = Request::post(target)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, bytes.len())
        .body(Full::new(Bytes::from(bytes)))?;
    let answer = service.handle(request, None).await;
    let status = answer.status();
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
    let answer: Value = serde_json::from_slice(&body).context("the answer is not JSON")?;
    if !status.is_success() {
        bail!("{}", answer["detail"].as_str().unwrap_or("the component gave no reason"));
    }
    Ok(answer)
}

/// A bar on standard error for many photos; nothing for one, or where nobody watches.
fn progress(photos: usize) -> ProgressBar {
    if photos < 2 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} photos, {eta} to go");
    let bar = ProgressBar::new(photos as u64);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
