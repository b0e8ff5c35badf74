//! `skincell classify`: sends photos and folders of photos through the component, without a server.
//!
//! `photos` finds the files, this module calls the component, and `report` prints and writes the answers.

mod canvas;
mod csv;
mod photos;
mod report;
mod sheet;
mod told;

use crate::application_options::ApplicationOptions;
use crate::run_options::{RunOptions, runtime};
use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use report::{Form, Outcome, Report};
use serde_json::Value;
use skincell_runner::access::Access;
use skincell_runner::certainty::Certainty;
use skincell_runner::handler::{Answer, Handler};
use skincell_runner::service::Service;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Classify photos with the application's component, without a server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  skincell classify photo.jpg
  skincell classify photo.jpg -o heat.png          write the heatmap over the photo
  skincell classify holiday/ -o heatmaps/          every photo in a folder, one heatmap each
  skincell classify holiday/ --csv > all.csv       one row per photo, for a spreadsheet
  skincell classify holiday/ --json > all.jsonl    one JSON object per line
  skincell classify holiday/ --contact-sheet sheet.png
                                                   all photos with heatmaps and bars on one picture

Folders are searched with all their subfolders; hidden files are skipped. If a photo fails, it is
reported on standard error, the others continue, and the exit code is 1.")]
pub struct Classify {
    /// Photos or folders of photos: JPEG, PNG, WebP, BMP or GIF.
    #[arg(required = true, value_name = "PHOTO")]
    photos: Vec<PathBuf>,

    /// Write heatmaps here: a PNG file for one photo, a folder for several.
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Print one JSON object per line and photo.
    #[arg(long)]
    json: bool,

    /// Print CSV with one row per photo.
    #[arg(long, conflicts_with = "json")]
    csv: bool,

    /// Draw all photos with heatmaps and bars on one picture, a PNG.
    #[arg(long, value_name = "FILE")]
    contact_sheet: Option<PathBuf>,

    /// Number of classes to show.
    #[arg(long, value_name = "N", default_value_t = 7)]
    top_k: usize,

    /// Show the heatmap of this class, by name or index [default: the most likely].
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,

    /// The model to use [default: the application's].
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    #[command(flatten)]
    application: ApplicationOptions,

    #[command(flatten)]
    run: RunOptions,
}

impl Classify {
    /// Classifies every photo, in order; the exit code is 1 if a photo failed.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let photos = photos::find(&self.photos)?;
        if self.contact_sheet.is_some() && photos.len() > sheet::MOST {
            let (most, found) = (sheet::MOST, photos.len());
            bail!("--contact-sheet takes up to {most} photos, not {found}: give fewer");
        }
        let app = self.application.load(&self.run.environment)?;
        let settings = self.run.settings()?;
        let mut report = self.report(&photos)?;
        let target = self.target();
        runtime()?.block_on(async {
            let service = Arc::new(Service::start(app, &settings)?);
            let handler = Arc::new(Handler::new(Arc::clone(&service), Access::default(), None));
            let mut waiting = photos.into_iter();
            let mut tasks = VecDeque::new();
            loop {
                // As many photos at once as the service has permits; results are shown in the given order.
                while tasks.len() < service.plan().concurrency {
                    let Some(photo) = waiting.next() else { break };
                    tasks.push_back(tokio::spawn(ask(Arc::clone(&handler), photo, target.clone())));
                }
                let Some(task) = tasks.pop_front() else { break };
                report.add(task.await?)?;
            }
            anyhow::Ok(())
        })?;
        Ok(if report.finish()? == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn report(&self, photos: &[PathBuf]) -> anyhow::Result<Report> {
        let form = match (self.json, self.csv) {
            (true, _) => Form::JsonLines,
            (_, true) => Form::Csv { top_k: self.top_k },
            _ => Form::Bars,
        };
        let is_folder = photos.len() > 1 || self.photos.iter().any(|path| path.is_dir());
        let output = self.output.clone().map(|path| (path, is_folder));
        Report::new(form, photos, output, self.contact_sheet.clone())
    }

    /// The request target, with the options in its query.
    fn target(&self) -> String {
        // The JSON lines contain the heatmap.
        let wants_heatmap = self.output.is_some() || self.json || self.contact_sheet.is_some();
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
}

/// Reads one photo and posts it to the component.
async fn ask(handler: Arc<Handler>, photo: PathBuf, target: String) -> Outcome {
    let path = photo.clone();
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    let file = read.map_err(anyhow::Error::from).and_then(|read| Ok(Bytes::from(read?)));
    match file {
        Ok(file) => {
            let (certainty, answer) = post(&handler, file.clone(), &target).await;
            Outcome { photo, file, certainty, answer }
        }
        Err(error) => Outcome { photo, file: Bytes::new(), certainty: None, answer: Err(error) },
    }
}

/// Posts a photo to the component. Returns the certainty from the answer's header, which a refused photo has
/// too, and the answer's JSON, or its `detail` as the error.
async fn post(
    handler: &Handler,
    file: Bytes,
    target: &str,
) -> (Option<Certainty>, anyhow::Result<Value>) {
    let request = Request::post(target)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, file.len())
        .body(Full::new(file));
    let request = match request {
        Ok(request) => request,
        Err(error) => return (None, Err(error.into())),
    };
    let answer = handler.handle_local(request).await;
    (Certainty::of(answer.headers()), json(answer).await)
}

async fn json(answer: Answer) -> anyhow::Result<Value> {
    let status = answer.status();
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer was cut off: {error}"))?.to_bytes();
    let answer: Value = serde_json::from_slice(&body).context("the answer is not JSON")?;
    if !status.is_success() {
        bail!("{}", answer["detail"].as_str().unwrap_or("the component gave no reason"));
    }
    Ok(answer)
}
