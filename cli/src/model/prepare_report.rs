//! The final report of `model prepare`: preprocessing and interpretation of scores, with assumptions
//! marked, and the difference from the original.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use skincell_modelkit::{Report, photos, samples};
use skincell_vision::card::{Card, ChannelOrder, Fit, Input, MapClasses};
use skincell_vision::photo::{Limits, Photo};
use skincell_vision::{overlay, view};

use super::familiarize::add_familiarity;
use super::words;

/// The report of one model, in lines.
pub(super) fn report_text(report: &Report, folder: &str, sources: &[String]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = add_report(&mut text, report, folder, sources);
    text
}

fn add_report(text: &mut String, report: &Report, folder: &str, sources: &[String]) -> fmt::Result {
    let card = &report.card;
    let assumed =
        |part: &str| if card.assumed.iter().any(|a| a == part) { "  (assumed)" } else { "" };
    writeln!(text, "{folder} is ready to serve as \"{}\"", card.name)?;
    add_input(text, card, sources)?;
    for field in &card.fields {
        let (name, default) = (&field.name, &field.default);
        writeln!(text, "  field      {name} of {:?}, by default {default:?}", field.shape)?;
    }
    writeln!(text, "  sees       {}", seen(report))?;
    writeln!(text, "  scores     {} of {} classes", card.output.name, card.classes.len())?;
    writeln!(text, "  activation {}{}", report.probabilities, assumed("activation"))?;
    add_heatmap(text, report)?;
    let (graph, weights) = report.bytes;
    writeln!(
        text,
        "  weights    {} parameters, {} bytes to map beside a graph of {graph} bytes",
        report.parameters, weights
    )?;
    let comparison = &report.comparison;
    writeln!(
        text,
        "  compared   with {} on {} photos: probabilities differ by at most {:.1e}",
        comparison.with,
        comparison.photos.len(),
        comparison.difference
    )?;
    for (photo, (class, probability)) in comparison.photos.iter().zip(&comparison.likeliest) {
        let label = card.classes.get(*class).map_or("", |c| c.label.as_str());
        writeln!(text, "             {photo}: {label} {:.1} %", probability * 100.0)?;
    }
    if let Some(familiarity) = &report.familiarity {
        add_familiarity(text, familiarity)?;
    }
    for note in &report.notes {
        writeln!(text, "  note       {note}")?;
    }
    if !card.assumed.is_empty() {
        writeln!(
            text,
            "  note       assumed because no file states it: {}; set it with --preprocess and --activation",
            card.assumed.join(", ")
        )?;
    }
    Ok(())
}

/// Which map is shown, and what it costs.
fn add_heatmap(text: &mut String, report: &Report) -> fmt::Result {
    let card = &report.card;
    match (&card.gradcam, &report.shown_layer, &card.gradcam_missing) {
        (Some(map), Some((shown_layer, channels)), _) => writeln!(
            text,
            "  grad-cam   {} {}x{} of {channels} channels, layer {layer} ({explains})",
            map.output,
            map.width,
            map.height,
            layer = map.layer.as_deref().unwrap_or(shown_layer),
            explains = words::explains(map)
        )?,
        (_, _, Some(reason)) => writeln!(text, "  grad-cam   none: {reason}")?,
        _ => {}
    }
    if let (Some(price), Some(map)) = (report.price, &card.gradcam) {
        let of = match &map.classes {
            MapClasses::All => "all classes".to_owned(),
            MapClasses::Likeliest { count, asked: None, .. } => {
                format!("the {count} likeliest classes")
            }
            MapClasses::Likeliest { count, .. } => {
                format!("the {count} likeliest classes and one asked for")
            }
        };
        writeln!(
            text,
            "  price      {:.2} % more multiplications and about {:.1} MiB more memory, maps of {of}",
            price.share * 100.0,
            price.bytes as f64 / f64::from(1 << 20)
        )?;
    }
    Ok(())
}

/// How a photo becomes the model's input.
fn add_input(text: &mut String, card: &Card, sources: &[String]) -> fmt::Result {
    let input = &card.input;
    let assumed =
        |part: &str| if card.assumed.iter().any(|a| a == part) { "  (assumed)" } else { "" };
    writeln!(text, "  input      {} {}", input.name, words::tensor(input))?;
    writeln!(text, "  range      {}{}", range(input), assumed("range"))?;
    let order = if input.order == ChannelOrder::Rgb { "RGB" } else { "BGR" };
    writeln!(text, "  order      {order}{}", assumed("order"))?;
    writeln!(text, "  filter     {}{}", filter(input), assumed("filter"))?;
    writeln!(text, "  crop       {}{}", crop(input), assumed("crop"))?;
    if !sources.is_empty() {
        writeln!(text, "             by {}", sources.join(", "))?;
    }
    Ok(())
}

fn range(input: &Input) -> String {
    match (input.mean, input.std) {
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]) => "0 to 255, as the pixels are".to_owned(),
        ([0.0, 0.0, 0.0], [255.0, 255.0, 255.0]) => "0 to 1".to_owned(),
        ([127.5, 127.5, 127.5], [127.5, 127.5, 127.5]) => "-1 to 1".to_owned(),
        (mean, std) => format!("(pixel - {mean:?}) / {std:?}, R, G, B"),
    }
}

fn filter(input: &Input) -> String {
    let antialias =
        if input.resize.antialias { "with antialiasing" } else { "without antialiasing" };
    format!("{:?}, {antialias}", input.resize.filter).to_lowercase()
}

fn crop(input: &Input) -> String {
    let (width, height) = (input.width, input.height);
    match (input.resize.fit, input.resize.shortest) {
        (Fit::Crop, Some(shortest)) => {
            format!("shorter side to {shortest}, then the middle {width}x{height}")
        }
        (Fit::Stretch, Some(side)) => {
            format!("stretched to {side}x{side}, then the middle {width}x{height}")
        }
        (Fit::Cover, _) => format!("the largest middle part of the ratio {width}:{height}"),
        (Fit::Pad, _) => "none: the whole photo, with bars".to_owned(),
        _ => "none: the whole photo, stretched".to_owned(),
    }
}

fn seen(report: &Report) -> String {
    let [least, mean, most] = report.seen;
    let channel = |at: usize| format!("{:.3} to {:.3}, mean {:.3}", least[at], most[at], mean[at]);
    format!("R {}; G {}; B {}", channel(0), channel(1), channel(2))
}

/// Checks that a file can be written at a path; a file that is there is unchanged.
///
/// # Errors
/// If it cannot be written.
pub(super) fn can_be_written(file: &Path) -> anyhow::Result<()> {
    let exists = file.symlink_metadata().is_ok();
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(file);
    opened.with_context(|| format!("--preview {}", file.display()))?;
    if !exists {
        std::fs::remove_file(file).with_context(|| format!("--preview {}", file.display()))?;
    }
    Ok(())
}

/// Writes the first photo, as the model sees it, as a PNG; returns a line about it.
///
/// # Errors
/// If the photo cannot be read or the file cannot be written.
pub(super) fn preview(file: &Path, given: &[PathBuf], input: &Input) -> anyhow::Result<String> {
    let photo = match photos::list(given)?.first() {
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
            view::decode(&bytes, input, &Limits::default())?
        }
        None => {
            samples::photos().into_iter().next().map(|(_, photo)| photo).context("no drawing")?
        }
    };
    let seen: Photo = view::view(&photo, input)?.photo;
    std::fs::write(file, overlay::encode_png(&seen)?)
        .with_context(|| file.display().to_string())?;
    Ok(format!("  preview    {}: the first photo as the model sees it\n", file.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use skincell_vision::card::{Dtype, Layout, Resize};

    use super::*;

    fn input(fit: Fit) -> Input {
        Input {
            name: "image".to_owned(),
            layout: Layout::Nchw,
            dtype: Dtype::F32,
            width: 30,
            height: 20,
            mean: [123.0; 3],
            std: [58.0; 3],
            order: ChannelOrder::Bgr,
            resize: Resize { fit, ..Resize::default() },
        }
    }

    fn read(file: &Path) -> Photo {
        let bytes = std::fs::read(file).unwrap();
        skincell_vision::photo::decode(&bytes, (30, 20), &Limits::default()).unwrap()
    }

    /// Red, green and blue, each a third of a photo of 90 x 20 pixels.
    fn stripes() -> Photo {
        let colour = |at: usize| [[255, 0, 0], [0, 255, 0], [0, 0, 255]][at % 90 / 30];
        Photo::from_rgb(90, 20, (0..90 * 20).flat_map(colour).collect()).unwrap()
    }

    #[test]
    fn a_preview_has_the_size_and_the_part_that_the_model_sees() {
        let home = tempfile::tempdir().unwrap();
        let (photo, file) = (home.path().join("photo.png"), home.path().join("seen.png"));
        std::fs::write(&photo, overlay::encode_png(&stripes()).unwrap()).unwrap();
        preview(&file, std::slice::from_ref(&photo), &input(Fit::Cover)).unwrap();
        let seen = read(&file);
        assert_eq!((seen.width(), seen.height()), (30, 20));
        // Whatever order and range the tensor has, the picture has the photo's colours.
        assert!(seen.pixels().chunks(3).all(|pixel| pixel == [0, 255, 0]));
        preview(&file, &[photo], &input(Fit::Stretch)).unwrap();
        let seen = read(&file);
        let at = |column: usize| &seen.pixels()[(10 * 30 + column) * 3..][..3];
        assert_eq!((at(2), at(15), at(27)), (&[255, 0, 0][..], &[0, 255, 0][..], &[0, 0, 255][..]));
    }

    #[test]
    fn a_preview_without_photos_shows_a_drawing() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("seen.png");
        preview(&file, &[], &input(Fit::Stretch)).unwrap();
        let seen = read(&file);
        assert_eq!((seen.width(), seen.height()), (30, 20));
        assert!(seen.pixels().iter().any(|value| *value != seen.pixels()[0]));
        can_be_written(&file).unwrap();
        assert_eq!(read(&file).pixels(), seen.pixels(), "a check leaves the picture as it is");
        let fresh = home.path().join("fresh.png");
        can_be_written(&fresh).unwrap();
        assert!(!fresh.exists());
        let nowhere = home.path().join("no/such/folder.png");
        assert!(can_be_written(&nowhere).is_err() && can_be_written(home.path()).is_err());
        let error = preview(&nowhere, &[], &input(Fit::Stretch)).unwrap_err();
        assert!(format!("{error:#}").contains("folder.png"), "{error:#}");
    }
}
