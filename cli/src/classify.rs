//! `skincell classify`: sends photos and folders of photos through the component, without a server.
//!
//! `photos` finds the files, this module calls the component, and `report` prints and writes the answers.

mod canvas;
mod certainties;
mod csv;
mod photos;
mod report;
mod sheet;

use crate::application_options::ApplicationOptions;
use crate::run_options::{RunOptions, runtime};
use crate::serve::installed;
use crate::serve::one_model::OneModel;
use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use photos::Found;
use report::{Form, Outcome, Report};
use serde_json::Value;
use skincell_modelkit::CARD_FILE;
use skincell_runner::access::Access;
use skincell_runner::app::App;
use skincell_runner::certainty::Certainty;
use skincell_runner::handler::{Answer, Handler};
use skincell_runner::server;
use skincell_runner::service::Service;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Classify photos without a server.
///
/// In a folder with a spin.toml its component and models are used; elsewhere those of `skincell serve`: the
/// included model, or the one that --model names.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  skincell classify photo.jpg
  skincell classify photo.jpg --model model.keras --labels labels.txt
                                                   your own model, prepared at the first start
  skincell classify photo.jpg -o heat.png          write the heatmap over the photo
  skincell classify holiday/ -o heatmaps/          every photo in a folder, one heatmap each
  skincell classify holiday/ --csv > all.csv       one row per photo, for a spreadsheet
  skincell classify holiday/ --json > all.jsonl    one JSON object per line
  skincell classify holiday/ --contact-sheet sheet.png
                                                   all photos with heatmaps and bars on one picture

Folders are searched with all their subfolders; hidden files are skipped. If a photo fails or is left
out, because its kind is not read, it is reported on standard error, the others continue, and the
exit code is 1.")]
pub struct Classify {
    /// Photos or folders of photos: JPEG, PNG, WebP, BMP or GIF.
    #[arg(id = "PHOTO", required = true)]
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

    /// The model: a name in the application, a prepared folder, or a model file, which is prepared first
    /// [default: the application's, or without one the included model]
    #[arg(long, value_name = "NAME|PATH")]
    model: Option<String>,

    #[command(flatten)]
    application: ApplicationOptions,

    #[command(flatten)]
    run: RunOptions,

    #[command(flatten)]
    one: OneModel,
}

impl Classify {
    /// Classifies every photo, in order; the exit code is 1 if a photo failed or was left out.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Found { photos, left_out } = photos::find(&self.photos)?;
        if self.contact_sheet.is_some() && photos.len() > sheet::MOST {
            let (most, found) = (sheet::MOST, photos.len());
            bail!("--contact-sheet takes up to {most} photos, not {found}: give fewer");
        }
        let (mut app, model) = self.application()?;
        let settings = self.run.settings_for(&mut app)?;
        if let Some(wrong) = &settings.misconfigured {
            bail!("{wrong}");
        }
        let mut report = self.report(&photos)?;
        let target = self.target(model.as_deref());
        let runtime = runtime()?;
        let ended = runtime.block_on(async {
            // Before files are staged, so that they are removed.
            let stop = server::stop_signal()?;
            let service = Arc::new(Service::start(app, &settings)?);
            let all = answers(Arc::clone(&service), photos, &target, &mut report);
            let ended = tokio::select! {
                ended = all => ended,
                signal = stop => Ok(Some(128 + signal)),
            };
            service.remove_files();
            ended
        });
        // A run of a model cannot be stopped, so the process does not wait for it.
        runtime.shutdown_background();
        if let Some(code) = ended? {
            if code != 0 {
                report.cut_off();
            }
            return Ok(ExitCode::from(code));
        }
        if let Some(about) = photos::about(&left_out) {
            report.say(&about);
        }
        let is_whole = report.finish()? == 0 && left_out.is_empty();
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The application, and the model of it that `--model` names.
    fn application(&self) -> anyhow::Result<(App, Option<String>)> {
        let named = self.model.as_deref();
        let path = named.filter(|model| is_path(model)).map(PathBuf::from);
        if path.is_none() && self.application.is_there() {
            if self.one.are_given()? {
                bail!(
                    "--component and the flags of preparing need a model file: name it with --model"
                );
            }
            let app = self.application.load(&self.run.environment)?;
            return Ok((app, named.map(str::to_owned)));
        }
        if self.application.are_given() {
            bail!(
                "--model names a model of its own, so --from and the other flags of an application have no \
                   effect: leave them out"
            );
        }
        let path = match (path, named) {
            (None, Some(name)) if !Path::new(name).exists() => Some(installed::model(name)?),
            (None, Some(name)) => Some(PathBuf::from(name)),
            (path, _) => path,
        };
        let folder = self.one.folder(path.as_deref(), &self.run, |text| eprint!("{text}"))?;
        Ok((self.one.application(&folder, &self.run)?, None))
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
    fn target(&self, model: Option<&str>) -> String {
        // The JSON lines contain the heatmap.
        let wants_heatmap = self.output.is_some() || self.json || self.contact_sheet.is_some();
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("top_k", &self.top_k.to_string());
        query.append_pair("gradcam", if wants_heatmap { "true" } else { "false" });
        for (name, value) in [("class", self.class.as_deref()), ("model", model)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        format!("/predict?{}", query.finish())
    }
}

/// Whether a model is named by a path, and not by its name in an application.
fn is_path(model: &str) -> bool {
    let path = Path::new(model);
    model.contains('/') || path.is_file() || path.join(CARD_FILE).exists()
}

/// Sends the photos to the component and reports the answers in order. Returns an exit code if nobody reads
/// them any more.
async fn answers(
    service: Arc<Service>,
    photos: Vec<PathBuf>,
    target: &str,
    report: &mut Report,
) -> anyhow::Result<Option<u8>> {
    let handler = Arc::new(Handler::new(Arc::clone(&service), Access::default(), None));
    let mut waiting = photos.into_iter();
    let mut tasks = VecDeque::new();
    loop {
        // As many photos at once as the service has permits; results are shown in the given order.
        while tasks.len() < service.plan().concurrency {
            let Some(photo) = waiting.next() else { break };
            tasks.push_back(tokio::spawn(ask(Arc::clone(&handler), photo, target.to_owned())));
        }
        let Some(task) = tasks.pop_front() else { return Ok(None) };
        if !report.add(task.await?)? {
            return Ok(Some(0));
        }
    }
}

/// Reads one photo and posts it to the component.
async fn ask(handler: Arc<Handler>, photo: PathBuf, target: String) -> Outcome {
    let path = photo.clone();
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    let file = read.map_err(anyhow::Error::from).and_then(|read| Ok(Bytes::from(read?)));
    let file = file.and_then(|file| match file.is_empty() {
        true => bail!("the file is empty"),
        false => Ok(file),
    });
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
