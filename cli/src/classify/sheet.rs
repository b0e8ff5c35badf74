//! Draws the contact sheet: many photos on one picture, each beside its heatmap and its most likely classes
//! as bars.

use anyhow::{Context, bail};
use base64::Engine as _;
use serde_json::Value;
use skincell_vision::overlay;
use skincell_vision::photo::{self, Limits, Photo};
use skincell_vision::resize;

use super::canvas::{Canvas, Colour, Font, Place, line_height};

const PAPER: Colour = [250, 247, 242];
const CARD: Colour = [255, 255, 255];
const INK: Colour = [32, 41, 43];
const QUIET: Colour = [86, 99, 102];
const TRACK: Colour = [226, 220, 210];
const BAR: Colour = [15, 110, 106];
const ALARM: Colour = [124, 36, 19];
/// A bar of an unfamiliar photo.
const MUTED: Colour = [170, 176, 177];

/// Width and height of both pictures of a photo, in pixels.
const PICTURE: u32 = 160;
/// Width of the bars beside them.
const BARS: u32 = 260;
const GAP: u32 = 12;
const CARD_WIDTH: u32 = 2 * PICTURE + BARS + 4 * GAP;
const CARD_HEIGHT: u32 = PICTURE + 24 + 2 * GAP;
/// Height of the title, and of the notice below without its lines.
const TITLE: u32 = 64;
const FOOT: u32 = 23;
/// Size of the notice's letters.
const NOTICE: f32 = 15.0;
/// Classes shown of each photo.
const CLASSES: usize = 4;
/// Height of a class with its bar.
const CLASS_HEIGHT: u32 = 40;
/// Said instead of the last class of a photo that the model does not know.
const UNFAMILIAR: &str = "UNFAMILIAR to this model: do not rely on these classes";
/// Most photos on one sheet: 100 MB of pixels.
pub const MOST: usize = 1000;

/// The shown part of an answer.
struct Shown {
    photo: Photo,
    heatmap: Option<Photo>,
    /// The classes with percentages.
    classes: Vec<(String, f64)>,
    /// Whether the model says that it does not know photos of this kind.
    is_unfamiliar: bool,
}

/// A photo on the sheet.
pub struct Entry {
    name: String,
    /// The answer, or the error.
    shown: Result<Shown, String>,
}

impl Entry {
    /// A photo with its answer, scaled down at once to save memory.
    pub fn answered(name: String, file: &[u8], answer: &Value) -> anyhow::Result<Self> {
        let photo = small(file)?;
        let heatmap = match answer["heatmap_base64"].as_str() {
            Some(text) => Some(small(&base64::engine::general_purpose::STANDARD.decode(text)?)?),
            None => None,
        };
        let results = answer["results"].as_array().into_iter().flatten().take(CLASSES);
        let classes = results
            .map(|result| {
                let label = result["display"].as_str().or_else(|| result["class"].as_str());
                let percent = result["probability"].as_f64().unwrap_or_default();
                (label.unwrap_or("?").to_owned(), percent)
            })
            .collect();
        let is_unfamiliar = answer["familiarity"]["is_familiar"] == Value::Bool(false);
        Ok(Self { name, shown: Ok(Shown { photo, heatmap, classes, is_unfamiliar }) })
    }

    /// A photo that could not be classified.
    pub fn failed(name: String, why: String) -> Self {
        Self { name, shown: Err(why) }
    }
}

/// The photo in its own proportions, as large as its place allows.
fn small(file: &[u8]) -> anyhow::Result<Photo> {
    let photo = photo::decode(file, (PICTURE, PICTURE), &Limits::default())?;
    let longer = photo.width().max(photo.height()).max(1);
    let fitted = |side: u32| {
        let side = f64::from(side) * f64::from(PICTURE) / f64::from(longer);
        (side.round() as u32).max(1)
    };
    Ok(resize::resize(&photo, fitted(photo.width()), fitted(photo.height()))?)
}

/// Draws a photo in the middle of its place.
fn centred(canvas: &mut Canvas, photo: &Photo, (x, y): (u32, u32)) {
    let margin = |side: u32| PICTURE.saturating_sub(side) / 2;
    canvas.picture(photo, x + margin(photo.width()), y + margin(photo.height()));
}

/// The sheet as a PNG, `title` above and `notice` below.
pub fn draw(title: &str, notice: &str, entries: &[Entry]) -> anyhow::Result<Vec<u8>> {
    if entries.is_empty() || entries.len() > MOST {
        bail!("a contact sheet takes 1 to {MOST} photos, not {}", entries.len());
    }
    let (regular, bold) = (Font::regular()?, Font::bold()?);
    // About square, and never wider than a screen.
    let columns = ((entries.len() as f64 / 3.0).sqrt().ceil() as u32).clamp(1, 4);
    let rows = u32::try_from(entries.len())?.div_ceil(columns);
    let width = columns * (CARD_WIDTH + GAP) + GAP;
    let notice_lines = regular.broken(NOTICE, notice, width - 2 * GAP);
    let foot = FOOT + line_height(NOTICE) * u32::try_from(notice_lines.len().max(1))?;
    let height = TITLE + rows * (CARD_HEIGHT + GAP) + foot;
    let mut canvas = Canvas::new(width, height, PAPER);
    let line = Place { x: GAP + 4, y: 16, width: width - 2 * GAP };
    canvas.text(&bold, 24.0, INK, line, title);
    for (index, entry) in (0_u32..).zip(entries) {
        let x = GAP + index % columns * (CARD_WIDTH + GAP);
        let y = TITLE + index / columns * (CARD_HEIGHT + GAP);
        card(&mut canvas, (&regular, &bold), (x, y), entry);
    }
    let place = Place { x: GAP + 4, y: height - foot + 8, width: width - 2 * GAP };
    canvas.lines(&regular, NOTICE, QUIET, place, notice_lines.len(), notice);
    let photo = canvas.into_photo().context("the sheet has no pixels")?;
    Ok(overlay::encode_png(&photo)?)
}

fn card(canvas: &mut Canvas, (regular, bold): (&Font, &Font), (x, y): (u32, u32), entry: &Entry) {
    canvas.fill(x, y, CARD_WIDTH, CARD_HEIGHT, CARD);
    let inner = Place { x: x + GAP, y: y + GAP, width: CARD_WIDTH - 2 * GAP };
    canvas.text(bold, 15.0, INK, inner, &entry.name);
    let top = y + GAP + 24;
    let Shown { photo, heatmap, classes, is_unfamiliar } = match &entry.shown {
        Ok(shown) => shown,
        Err(why) => {
            canvas.lines(regular, 14.0, ALARM, Place { y: top, ..inner }, 8, why);
            return;
        }
    };
    centred(canvas, photo, (x + GAP, top));
    match heatmap {
        Some(heatmap) => centred(canvas, heatmap, (x + 2 * GAP + PICTURE, top)),
        None => {
            let place =
                Place { x: x + 2 * GAP + PICTURE, y: top + PICTURE / 2 - 10, width: PICTURE };
            canvas.text(regular, 14.0, QUIET, place, "no heatmap");
        }
    }
    let bars = Place { x: x + 3 * GAP + 2 * PICTURE, y: top, width: BARS };
    if *is_unfamiliar {
        canvas.lines(bold, 14.0, ALARM, bars, 2, UNFAMILIAR);
    }
    // The notice takes the place of the last class, and no class stands out.
    let above = u32::from(*is_unfamiliar);
    let last = CLASSES - usize::from(*is_unfamiliar);
    for (index, (label, percent)) in (0_u32..).zip(classes.iter().take(last)) {
        let place = Place { y: top + (index + above) * CLASS_HEIGHT, ..bars };
        let is_first = index == 0 && !is_unfamiliar;
        bar(
            canvas,
            if is_first { bold } else { regular },
            place,
            (label, *percent),
            *is_unfamiliar,
        );
    }
}

/// Draws a class with its percentage, and its bar, which is muted for an unfamiliar photo.
fn bar(
    canvas: &mut Canvas,
    font: &Font,
    place: Place,
    (label, percent): (&str, f64),
    is_muted: bool,
) {
    let (ink, fill) = if is_muted { (QUIET, MUTED) } else { (INK, BAR) };
    let said = format!("{percent:.1} %");
    let said_width = canvas.text_right(font, 14.0, ink, place, &said);
    let label_place = Place { width: BARS.saturating_sub(said_width + 10), ..place };
    canvas.text(font, 14.0, ink, label_place, label);
    canvas.fill(place.x, place.y + 21, BARS, 7, TRACK);
    let share = (f64::from(BARS) * percent.clamp(0.0, 100.0) / 100.0).round() as u32;
    canvas.fill(place.x, place.y + 21, share, 7, fill);
}

#[cfg(test)]
mod tests {
    use super::{CARD_HEIGHT, CARD_WIDTH, Entry, GAP, MOST, PICTURE, TITLE, draw};
    use skincell_vision::overlay::encode_png;
    use skincell_vision::photo::{Limits, Photo, decode};

    #[test]
    fn a_sheet_shows_photo_bars_and_failures() {
        let red = Photo::from_rgb(8, 8, [255, 0, 0].repeat(64)).unwrap();
        let file = encode_png(&red).unwrap();
        let answer = serde_json::json!({"results": [{"class": "Wart", "probability": 50.0}]});
        let entries = [
            Entry::answered("a.png".to_owned(), &file, &answer).unwrap(),
            Entry::failed("b.png".to_owned(), "it is cut short: send it again".to_owned()),
        ];
        let png = draw("2 photos", "Not a medical device.", &entries).unwrap();
        let (width, height) = (CARD_WIDTH + 2 * GAP, TITLE + 2 * (CARD_HEIGHT + GAP) + 44);
        let sheet = decode(&png, (width, height), &Limits::default()).unwrap();
        assert_eq!((sheet.width(), sheet.height()), (width, height));
        let pixel = |x: u32, y: u32| {
            let at = (y * width + x) as usize * 3;
            sheet.pixels()[at..at + 3].to_vec()
        };
        assert_eq!(pixel(2 * GAP + 50, TITLE + GAP + 24 + 50), [255, 0, 0], "the photo");
        let bar = GAP + 3 * GAP + 2 * PICTURE;
        let y = TITLE + GAP + 24 + 24;
        assert_eq!(pixel(bar + 129, y), super::BAR, "half of the bar is full");
        assert_eq!(pixel(bar + 131, y), super::TRACK);
        let ink = |rows: std::ops::Range<u32>| {
            rows.flat_map(|y| (0..width).map(move |x| (x, y)))
                // Strokes are thinner than a pixel, so pixels that are at least half ink count.
                .filter(|&(x, y)| is_half(&pixel(x, y), super::PAPER, super::ALARM))
                .count()
        };
        assert_eq!(ink(TITLE..TITLE + CARD_HEIGHT), 0, "the first has no error");
        // 31 letters of about a dozen pixels each, fewer for thin ones.
        assert!(ink(TITLE + CARD_HEIGHT + GAP..height) > 100, "the second shows its error");
    }

    /// Whether a pixel is between `ink` and the middle of `paper` and `ink`, in each channel.
    fn is_half(pixel: &[u8], paper: super::Colour, ink: super::Colour) -> bool {
        pixel.iter().zip(paper.iter().zip(ink)).all(|(&found, (&paper, ink))| {
            let middle = u8::midpoint(paper, ink);
            (ink.min(middle)..=ink.max(middle)).contains(&found)
        })
    }

    /// The most likely class of an unfamiliar photo was bold and green, as if it were an answer.
    #[test]
    fn an_unfamiliar_photo_has_its_notice_first_and_no_class_stands_out() {
        let red = Photo::from_rgb(8, 8, [255, 0, 0].repeat(64)).unwrap();
        let file = encode_png(&red).unwrap();
        let class = serde_json::json!({"class": "Wart", "probability": 99.9});
        let drawn = |familiar: bool| {
            let answer = serde_json::json!({"results": [class, class, class, class],
                "familiarity": {"is_familiar": familiar}});
            let entry = Entry::answered("a.png".to_owned(), &file, &answer).unwrap();
            let png = draw("", "", &[entry]).unwrap();
            let (width, height) = (CARD_WIDTH + 2 * GAP, TITLE + CARD_HEIGHT + GAP + 44);
            let sheet = decode(&png, (width, height), &Limits::default()).unwrap();
            let count = |colour: super::Colour| {
                sheet.pixels().chunks(3).filter(|pixel| **pixel == colour).count()
            };
            [super::BAR, super::MUTED, super::ALARM, super::INK].map(count)
        };
        let [bar, muted, alarm, ink] = drawn(false);
        assert_eq!((bar, muted), (0, 3 * 7 * 260), "three muted bars");
        assert!(alarm > 50, "{alarm} pixels of the notice");
        let [bar, muted, alarm, more_ink] = drawn(true);
        assert_eq!((bar, muted, alarm), (4 * 7 * 260, 0, 0));
        assert!(ink < more_ink, "the name alone, {ink}, and with classes, {more_ink}");
    }

    #[test]
    fn a_photo_keeps_its_proportions() {
        for ((width, height), expected) in [
            ((40, 20), (160, 80)),
            ((20, 40), (80, 160)),
            ((900, 1), (160, 1)),
            ((8, 8), (160, 160)),
        ] {
            let pixels = [9, 9, 9].repeat(width as usize * height as usize);
            let file = encode_png(&Photo::from_rgb(width, height, pixels).unwrap()).unwrap();
            let photo = super::small(&file).unwrap();
            assert_eq!((photo.width(), photo.height()), expected, "{width}x{height}");
        }
    }

    /// The end of a long notice, that it is no medical device, was cut off.
    #[test]
    fn a_long_notice_is_broken_into_lines() {
        let height = |notice: &str| {
            let png = draw("", notice, &[Entry::failed(String::new(), String::new())]).unwrap();
            decode(&png, (4000, 4000), &Limits::default()).unwrap().height()
        };
        let line = super::line_height(super::NOTICE);
        assert_eq!(height(&"not a medical device ".repeat(12)) - height("short"), 2 * line);
    }

    #[test]
    fn too_many_photos_are_refused() {
        let failed = || Entry::failed(String::new(), String::new());
        let entries: Vec<_> = (0..=MOST).map(|_| failed()).collect();
        assert!(draw("", "", &entries).unwrap_err().to_string().contains("1001"));
        assert!(draw("", "", &[]).is_err());
    }
}
