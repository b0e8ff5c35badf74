//! Prints answers as bars, JSON lines or CSV, writes heatmaps and the contact sheet, and shows progress on
//! standard error.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine as _;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde_json::{Value, json};
use skincell_modelkit::photos::{DECODED, has_extension};
use skincell_runner::certainty::Certainty;

use super::certainties::Certainties;
use super::csv;
use super::sheet::{self, Entry};
use crate::table;

/// The output format.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// Bars of text.
    Bars,
    /// One JSON object per line.
    JsonLines,
    /// One row per photo.
    Csv {
        /// Classes per row.
        top_k: usize,
    },
}

/// A photo, its bytes and the component's answer.
pub struct Outcome {
    /// The photo's path.
    pub photo: PathBuf,
    /// The file's bytes; empty if it could not be read.
    pub file: Bytes,
    /// What the answer says of its own worth, if the model tells.
    pub certainty: Option<Certainty>,
    /// The JSON answer.
    pub answer: anyhow::Result<Value>,
}

/// The output of a run.
pub struct Report {
    form: Form,
    bar: ProgressBar,
    total: usize,
    failed: usize,
    certainties: Certainties,
    /// The heatmap's file, or the folder for several heatmaps.
    output: Option<(PathBuf, bool)>,
    written: HashSet<PathBuf>,
    /// The photos by their canonical paths, which nothing may overwrite.
    photos: HashSet<PathBuf>,
    /// The folder that holds all photos, which the sheet need not say.
    common: PathBuf,
    sheet: Option<(PathBuf, Vec<Entry>)>,
    notice: String,
}

impl Report {
    /// A report of `photos`. `output` is the path for heatmaps, and whether it is a folder.
    ///
    /// # Errors
    /// If a file to be written is one of the photos, or lies where a folder is to be.
    pub fn new(
        form: Form,
        photos: &[PathBuf],
        output: Option<(PathBuf, bool)>,
        sheet: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let total = photos.len();
        let common = common_folder(photos);
        let photos = photos.iter().filter_map(|photo| photo.canonicalize().ok()).collect();
        if let Some((path, true)) = &output
            && path.is_file()
        {
            bail!("{} is a file: name a folder for the heatmaps of several photos", path.display());
        }
        let files = output.iter().filter(|(_, is_folder)| !is_folder).map(|(path, _)| path);
        files.chain(&sheet).try_for_each(|path| check_png(path))?;
        for path in output.iter().map(|(path, _)| path).chain(&sheet) {
            if is_one_of(path, &photos) {
                bail!("{} is one of the photos: name another file to write to", path.display());
            }
        }
        Ok(Self {
            form,
            bar: progress(total),
            total,
            failed: 0,
            certainties: Certainties::default(),
            output,
            written: HashSet::new(),
            sheet: sheet.map(|path| (path, Vec::new())),
            photos,
            common,
            notice: "Not a medical device.".to_owned(),
        })
    }

    /// Adds the next photo's answer; `false` if the reader has closed the pipe, as `head` does.
    ///
    /// # Errors
    /// If it cannot be printed. A failed photo is reported and is not an error here.
    pub fn add(&mut self, outcome: Outcome) -> anyhow::Result<bool> {
        let Outcome { photo, file, certainty, answer } = outcome;
        self.certainties.add(certainty.as_ref());
        if self.bar.position() == 0 && !self.begin()? {
            return Ok(false);
        }
        let mut heatmap = None;
        let answer = answer.and_then(|answer| {
            heatmap = self.write_heatmap(&photo, &answer)?;
            Ok(answer)
        });
        let heatmap = heatmap.as_deref();
        let entry = self
            .sheet
            .is_some()
            .then(|| entry(photo.strip_prefix(&self.common).unwrap_or(&photo), &file, &answer));
        if let (Some((_, entries)), Some(entry)) = (&mut self.sheet, entry) {
            entries.push(entry);
        }
        let is_read = match &answer {
            Ok(answer) => {
                if let Some(notice) = answer["model"]["notice"].as_str() {
                    notice.clone_into(&mut self.notice);
                }
                self.print(&self.text(&photo, answer, heatmap, ""))?
            }
            Err(error) => {
                self.failed += 1;
                self.bar.suspend(|| eprintln!("error: {}: {error:#}", photo.display()));
                let said_of = certainty.as_ref().map_or_else(|| json!({}), said);
                self.print(&self.text(&photo, &said_of, None, &format!("{error:#}")))?
            }
        };
        self.bar.inc(1);
        Ok(is_read)
    }

    /// Writes the contact sheet, prints a summary, and returns the number of failed photos.
    ///
    /// # Errors
    /// If the sheet cannot be written.
    pub fn finish(mut self) -> anyhow::Result<usize> {
        let done = self.total - self.failed;
        if let Some((path, entries)) = self.sheet.take() {
            self.bar.set_message("drawing the contact sheet");
            let title = format!("{done} of {} photos classified", self.total);
            let png = sheet::draw(&title, &self.notice, &entries)?;
            std::fs::write(&path, png)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        self.bar.finish_and_clear();
        if self.total > 1 {
            let failed = match self.failed {
                0 => String::new(),
                failed => format!(", {failed} failed (see above)"),
            };
            eprintln!("{done} of {} photos classified{failed}", self.total);
            self.certainties.summary().iter().for_each(|line| eprintln!("{line}"));
        }
        Ok(self.failed)
    }

    /// Prints a line on standard error without disturbing the progress bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Ends a run before its last photo: says how far it went, unless it was for one photo.
    pub fn cut_off(&self) {
        let done = self.bar.position();
        self.bar.finish_and_clear();
        if self.total > 1 {
            eprintln!("ended after {done} of {} photos", self.total);
        }
    }

    fn begin(&self) -> anyhow::Result<bool> {
        match self.form {
            Form::Csv { top_k } => self.print(&csv::header(top_k)),
            Form::Bars | Form::JsonLines => Ok(true),
        }
    }

    /// The text printed for a photo, with a final newline; empty if the error goes to standard error. With an
    /// error, the answer is only what its header said.
    fn text(&self, photo: &Path, answer: &Value, heatmap: Option<&Path>, error: &str) -> String {
        match self.form {
            Form::Bars if error.is_empty() => table::answer(photo, answer) + "\n",
            Form::Bars => String::new(),
            Form::Csv { top_k } => csv::row(photo, answer, heatmap, error, top_k),
            Form::JsonLines => {
                let mut line = json!({ "photo": photo.to_string_lossy() });
                if !error.is_empty() {
                    line["error"] = json!(error);
                }
                if let Some(heatmap) = heatmap {
                    line["heatmap_file"] = json!(heatmap.to_string_lossy());
                }
                if let (Some(line), Some(answer)) = (line.as_object_mut(), answer.as_object()) {
                    line.extend(answer.clone());
                }
                line.to_string() + "\n"
            }
        }
    }

    /// Prints without disturbing the progress bar; `false` if the reader has closed the pipe.
    fn print(&self, text: &str) -> anyhow::Result<bool> {
        let printed = self.bar.suspend(|| io::stdout().write_all(text.as_bytes()));
        match printed {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            printed => printed.map(|()| true).context("cannot print"),
        }
    }

    /// Writes the photo's heatmap, if heatmaps are to be written, and returns its path.
    fn write_heatmap(&mut self, photo: &Path, answer: &Value) -> anyhow::Result<Option<PathBuf>> {
        let Some((output, is_folder)) = &self.output else { return Ok(None) };
        let Some(encoded) = answer["heatmap_base64"].as_str() else {
            let why = answer["heatmap_missing"].as_str().unwrap_or("the model has none");
            bail!("there is no heatmap: {why}");
        };
        let png = base64::engine::general_purpose::STANDARD.decode(encoded)?;
        let path = if *is_folder || output.is_dir() {
            std::fs::create_dir_all(output)
                .with_context(|| format!("cannot make {}", output.display()))?;
            let name = photo.file_stem().context("the photo has no file name")?;
            free(output, &name.to_string_lossy(), |path| {
                self.written.contains(path) || is_one_of(path, &self.photos)
            })
        } else {
            output.clone()
        };
        std::fs::write(&path, png).with_context(|| format!("cannot write {}", path.display()))?;
        self.written.insert(path.clone());
        Ok(Some(path))
    }
}

/// Checks that a PNG can be written as `path`, before the work whose result it is to hold.
fn check_png(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("cannot write {}: there is no folder {}", path.display(), folder.display());
    }
    if has_extension(path, &DECODED) && !has_extension(path, &["png"]) {
        bail!(
            "{} would be a PNG: name it {}",
            path.display(),
            path.with_extension("png").display()
        );
    }
    Ok(())
}

/// Whether writing to `path` would overwrite one of the files, which have canonical paths.
fn is_one_of(path: &Path, files: &HashSet<PathBuf>) -> bool {
    path.canonicalize().is_ok_and(|path| files.contains(&path))
}

/// A file name in `folder` that is not taken by this run or its photos. Photos in two folders may have the
/// same name.
fn free(folder: &Path, name: &str, is_taken: impl Fn(&Path) -> bool) -> PathBuf {
    let first = folder.join(format!("{name}.png"));
    let others = (2_u32..).map(|n| folder.join(format!("{name}-{n}.png")));
    std::iter::once(first.clone()).chain(others).find(|path| !is_taken(path)).unwrap_or(first)
}

/// The deepest folder that all photos are in; empty if there is none.
fn common_folder(photos: &[PathBuf]) -> PathBuf {
    let parent = |photo: &PathBuf| photo.parent().map(Path::to_path_buf).unwrap_or_default();
    let both = |one: PathBuf, other: PathBuf| {
        let common = |folder: &&Path| other.starts_with(folder);
        one.ancestors().find(common).map(Path::to_path_buf).unwrap_or_default()
    };
    photos.iter().map(parent).reduce(both).unwrap_or_default()
}

/// What the sheet shows of a photo, whose path below the folder of all photos is its name there.
fn entry(photo: &Path, file: &[u8], answer: &anyhow::Result<Value>) -> Entry {
    let name = photo.to_string_lossy().into_owned();
    let made = match answer {
        Ok(answer) => Entry::answered(name.clone(), file, answer),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    made.unwrap_or_else(|error| Entry::failed(name, format!("{error:#}")))
}

/// A progress bar on standard error; hidden for one photo, or if it is not a terminal.
fn progress(photos: usize) -> ProgressBar {
    let bar = ProgressBar::new(photos as u64);
    if photos < 2 {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let template = "{bar:32.cyan/dim} {pos}/{len} photos, {rate}, {eta} to go {msg}";
    let style = ProgressStyle::with_template(template)
        .map(|style| style.progress_chars("━━─").with_key("rate", rate))
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style)
}

/// Photos per second, without decimals from 10 on.
fn rate(state: &ProgressState, words: &mut dyn std::fmt::Write) {
    let rate = state.per_sec();
    // A failure to write the bar is ignored.
    let _ = write!(words, "{rate:.*}/s", usize::from(rate < 10.0));
}

/// What the header of an answer says, in the form of a body: for answers without classes.
fn said(certainty: &Certainty) -> Value {
    let familiarity = certainty
        .familiarity
        .map(|one| json!({ "score": one.score, "is_familiar": one.is_familiar }));
    json!({ "familiarity": familiarity, "is_certain": certainty.is_certain })
}

#[cfg(test)]
mod tests {
    use super::{Form, Report, free};
    use serde_json::json;
    use std::collections::HashSet;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::{Path, PathBuf};

    #[test]
    fn photos_of_the_same_name_get_separate_heatmaps() {
        let mut written: HashSet<PathBuf> = HashSet::new();
        for expected in ["out/a.png", "out/a-2.png", "out/a-3.png"] {
            let path = free(Path::new("out"), "a", |path| written.contains(path));
            assert_eq!(path, Path::new(expected));
            written.insert(path);
        }
    }

    /// `classify FOLDER -o FOLDER` replaced each photo by its heatmap.
    #[test]
    fn no_photo_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let photo = folder.path().join("a.png");
        std::fs::write(&photo, b"a photo").unwrap();
        let report =
            |output, sheet| Report::new(Form::Bars, std::slice::from_ref(&photo), output, sheet);
        assert!(report(Some((photo.clone(), false)), None).is_err());
        assert!(report(None, Some(photo.clone())).is_err());
        let mut report = report(Some((folder.path().join("."), true)), None).unwrap();
        report.write_heatmap(&photo, &json!({ "heatmap_base64": "aGVhdA==" })).unwrap();
        assert_eq!(std::fs::read(&photo).unwrap(), b"a photo");
        assert_eq!(std::fs::read(folder.path().join("a-2.png")).unwrap(), b"heat");
    }

    /// This was a panic.
    #[test]
    fn a_name_that_is_not_utf_8_has_a_json_line() {
        let photo = Path::new(OsStr::from_bytes(b"a\xff.png"));
        let report = Report::new(Form::JsonLines, &[], None, None).unwrap();
        let line = report.text(photo, &json!({}), None, "");
        assert_eq!(line, "{\"photo\":\"a\u{fffd}.png\"}\n");
    }
}
