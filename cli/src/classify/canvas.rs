//! A picture to draw on: filled boxes, photos, and text in DejaVu Sans, which has every Vietnamese letter.
//! Drawing is clipped to the picture.

use ab_glyph::{Font as _, FontRef, PxScale, ScaleFont as _, point};
use anyhow::Context;
use skincell_vision::photo::Photo;

/// Red, green, blue.
pub type Colour = [u8; 3];

/// Start and largest width of a line of text, in pixels.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Largest width.
    pub width: u32,
}

/// A typeface.
pub struct Font(FontRef<'static>);

impl Font {
    /// DejaVu Sans.
    pub fn regular() -> anyhow::Result<Self> {
        Self::of(dejavu::sans::regular())
    }

    /// DejaVu Sans Bold.
    pub fn bold() -> anyhow::Result<Self> {
        Self::of(dejavu::sans::bold())
    }

    fn of(file: &'static [u8]) -> anyhow::Result<Self> {
        FontRef::try_from_slice(file).map(Self).context("the built-in typeface cannot be read")
    }

    /// Width of a line, in pixels.
    fn width(&self, size: f32, text: &str) -> f32 {
        let scaled = self.0.as_scaled(PxScale::from(size));
        text.chars().map(|letter| scaled.h_advance(scaled.glyph_id(letter))).sum()
    }

    /// The line, shortened with an ellipsis if it does not fit.
    /// The text in lines of at most `width` pixels; a longer word has a line of its own.
    pub fn broken(&self, size: f32, text: &str, width: u32) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            let longer = lines.last().map(|line| format!("{line} {word}"));
            match (longer.filter(|line| self.width(size, line) <= width as f32), lines.last_mut()) {
                (Some(longer), Some(line)) => *line = longer,
                _ => lines.push(word.to_owned()),
            }
        }
        lines
    }

    fn fitted(&self, size: f32, text: &str, width: u32) -> String {
        let room = width as f32;
        let mut kept: String = text.chars().filter(|letter| !letter.is_control()).collect();
        if self.width(size, &kept) <= room {
            return kept;
        }
        while kept.pop().is_some() {
            let cut = format!("{}…", kept.trim_end());
            if self.width(size, &cut) <= room {
                return cut;
            }
        }
        String::new()
    }
}

/// The picture.
pub struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

/// Pixels from one line of text to the next.
pub fn line_height(size: f32) -> u32 {
    (size * 1.4).round() as u32
}

impl Canvas {
    /// A picture of one colour.
    pub fn new(width: u32, height: u32, colour: Colour) -> Self {
        Self { width, height, pixels: colour.repeat(width as usize * height as usize) }
    }

    /// The picture as a photo; `None` if it has no pixels.
    pub fn into_photo(self) -> Option<Photo> {
        Photo::from_rgb(self.width, self.height, self.pixels)
    }

    /// Fills a box.
    pub fn fill(&mut self, x: u32, y: u32, width: u32, height: u32, colour: Colour) {
        for row in y..y.saturating_add(height).min(self.height) {
            for column in x..x.saturating_add(width).min(self.width) {
                self.blend(column, row, colour, 1.0);
            }
        }
    }

    /// Draws a photo with its upper left corner at `x`, `y`.
    pub fn picture(&mut self, photo: &Photo, x: u32, y: u32) {
        let rows = photo.pixels().chunks_exact(photo.width() as usize * 3);
        for (row, line) in (y..).zip(rows) {
            for (column, pixel) in (x..).zip(line.as_chunks::<3>().0) {
                self.blend(column, row, *pixel, 1.0);
            }
        }
    }

    /// Writes one line, shortened to its place.
    pub fn text(&mut self, font: &Font, size: f32, colour: Colour, place: Place, text: &str) {
        let scale = PxScale::from(size);
        let scaled = font.0.as_scaled(scale);
        let mut at = point(place.x as f32, place.y as f32 + scaled.ascent());
        for letter in font.fitted(size, text, place.width).chars() {
            let glyph = scaled.glyph_id(letter).with_scale_and_position(scale, at);
            at.x += scaled.h_advance(glyph.id);
            let Some(outline) = font.0.outline_glyph(glyph) else { continue };
            let bounds = outline.px_bounds();
            outline.draw(|x, y, cover| {
                let (x, y) = (bounds.min.x + x as f32, bounds.min.y + y as f32);
                if x >= 0.0 && y >= 0.0 {
                    self.blend(x as u32, y as u32, colour, cover);
                }
            });
        }
    }

    /// Writes one right-aligned line; returns its width.
    pub fn text_right(
        &mut self,
        font: &Font,
        size: f32,
        colour: Colour,
        place: Place,
        text: &str,
    ) -> u32 {
        let width = (font.width(size, text).ceil() as u32).min(place.width);
        let x = place.x + place.width - width;
        self.text(font, size, colour, Place { x, width: width + 1, ..place }, text);
        width
    }

    /// Writes a paragraph of at most `most` lines.
    pub fn lines(
        &mut self,
        font: &Font,
        size: f32,
        colour: Colour,
        mut place: Place,
        most: usize,
        text: &str,
    ) {
        for line in font.broken(size, text, place.width).iter().take(most) {
            self.text(font, size, colour, place, line);
            place.y += line_height(size);
        }
    }

    /// Blends a colour into a pixel with opacity `cover`, 0 to 1; pixels outside the picture are ignored.
    fn blend(&mut self, x: u32, y: u32, colour: Colour, cover: f32) {
        if x >= self.width || y >= self.height {
            return;
        }
        let at = (y as usize * self.width as usize + x as usize) * 3;
        let Some(pixel) = self.pixels.get_mut(at..at + 3) else { return };
        for (sample, ink) in pixel.iter_mut().zip(colour) {
            let mixed =
                f32::from(*sample) + (f32::from(ink) - f32::from(*sample)) * cover.clamp(0.0, 1.0);
            *sample = mixed.round() as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Canvas, Font, Place};

    #[test]
    fn lines_are_shortened_to_their_place() {
        let font = Font::regular().unwrap();
        let long = "Ghẻ, bệnh Lyme, các bệnh do ký sinh trùng và vết cắn".repeat(3);
        let cut = font.fitted(14.0, &long, 200);
        assert!(cut.starts_with("Ghẻ, bệnh") && cut.ends_with('…'), "{cut}");
        assert!(font.width(14.0, &cut) <= 200.0);
        assert_eq!(font.fitted(14.0, "short\n\u{7}", 200), "short");
        assert_eq!(font.fitted(14.0, "none", 1), "");
    }

    #[test]
    fn nothing_is_drawn_outside() {
        let font = Font::bold().unwrap();
        let mut canvas = Canvas::new(20, 10, [255; 3]);
        canvas.fill(15, 5, 100, u32::MAX, [0; 3]);
        canvas.text(&font, 40.0, [0; 3], Place { x: 10, y: 0, width: 400 }, "Ợ");
        let photo = canvas.into_photo().unwrap();
        assert_eq!(photo.pixels().len(), 600);
        assert_eq!(photo.pixels()[..3], [255; 3]);
        assert_eq!(photo.pixels()[597..], [0; 3]);
    }

    #[test]
    fn every_vietnamese_letter_has_a_shape() {
        use ab_glyph::Font as _;
        let font = Font::regular().unwrap();
        let letters = "ăâđêôơưàảãáạằẳẵắặầẩẫấậèẻẽéẹềểễếệìỉĩíịòỏõóọồổỗốộờởỡớợùủũúụừửữứựỳỷỹýỵ";
        let missing: String = letters.chars().filter(|l| font.0.glyph_id(*l).0 == 0).collect();
        assert_eq!(missing, "");
    }
}
